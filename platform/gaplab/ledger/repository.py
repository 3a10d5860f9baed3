"""The ledger: which trials there are, what was tried, and what came out."""

from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

from sqlalchemy import Connection

from gaplab.ledger import claims, drivers, writes
from gaplab.ledger.reading import Reader
from gaplab.ledger.views import DriverView
from gaplab.records import (
    AttemptEnd,
    Claim,
    DriverRecord,
    EpochDone,
    EvaluationRecord,
    Started,
    SweepRecord,
    TrialRecord,
)

Given = TypeVarTuple("Given")
T = TypeVar("T")


class Ledger(Reader):
    """The truth about sweeps, trials, attempts, evaluations and checkpoints, in SQL.

    Who writes: drivers, any number of them, and `gaplab reevaluate`, which only adds evaluations to
    attempts that ended. Trials send their evaluations to the driver and never open the ledger. Any
    number of processes may read meanwhile. Every method is one transaction: after a crash all of a
    call is there or none of it. A committed write survives the death of the process (SQLite in WAL
    mode may lose the very last ones to a power cut, but is never damaged). With a `RetryPolicy` a
    method waits for a database that is locked, restarting or out of reach, and then is done once.

    What may be repeated: every write, any number of times, from any number of connections. The
    first accepted sweep, trial and evaluation stay as they are, but for an evaluation's
    `candidates` and `matches`: a later one gives those that are empty. Of a checkpoint the newest
    address counts.

    The first evaluation with a `rule` says what its protocol's name means, for good.

    A trial has at most one running attempt, and none after one that succeeded unless somebody asks
    for it once more (`states` has all transitions). Its state is that of its last attempt,
    changed in the same transaction; `waiting` before the first and when asked for once more. An
    attempt belongs to the driver that claimed the trial, whose lease stands in the ledger; when
    that driver is taken for dead, `bury` interrupts the attempt, and what it would still write is
    refused: of two drivers that both believe to train a trial, one is believed.

    Raises: UserError for what a person can mend (URL, unknown sweep or trial); ClaimError for an
    attempt or a claim that came too late; ValueError for a call that breaks the rules above or
    carries a number that is not finite. Timestamps are the ledger's own, in UTC. A Ledger may be
    shared by threads, not by forked processes.
    """

    def add_sweep(self, sweep: SweepRecord) -> None:
        """Add a sweep and those of its trials that are new, as `waiting`.

        Raises ValueError if a sweep of this id is there without one of these trials.
        """
        self._write(writes.add_sweep, sweep)

    def extend_sweep(self, sweep: str, known: Sequence[str], more: Sequence[TrialRecord]) -> bool:
        """Add trials to the end of a sweep; False, and nothing is done, unless `known` are all that
        it has: of two drivers that go on with one search, one does.
        """
        return self._write(writes.extend_sweep, sweep, known, more)

    def start_attempt(self, claim: Claim) -> int:
        """Claim a trial for a driver and return the new attempt's id; the same claim once.

        Raises ClaimError, with the state the trial is in, if it is unknown, running or succeeded,
        and ValueError if it is not in the sweep.
        """
        return self._write(claims.start_attempt, claim)

    def begin_attempt(self, attempt: int, started: Started) -> None:
        """Note where a claimed attempt runs. Raises ClaimError if it is over."""
        self._write(claims.begin_attempt, attempt, started)

    def record(self, evaluation: EvaluationRecord, attempt: int) -> bool:
        """Keep an evaluation measured by `attempt`; True if it is new, False if it was there.

        Raises ValueError if ap, ap_nms or gap has no value, a value is not finite, the protocol is
        there with another rule, or `attempt` is not an attempt of that trial.
        """
        return self._write(writes.record, evaluation, attempt)

    def record_epoch(self, done: EpochDone, attempt: int) -> None:
        """Keep all evaluations of an epoch and its checkpoint, as `record` and `add_checkpoint` do,
        and what the attempt has cost so far.

        One transaction, so a checkpoint is never known without the evaluations before it. Raises
        ClaimError if the attempt is over: its driver was taken for dead, and another may train on.
        """
        self._write(self._record_epoch, done, attempt)

    @staticmethod
    def _record_epoch(connection: Connection, done: EpochDone, attempt: int) -> None:
        claims.note_cost(connection, attempt, done.cost)
        # In the order of keys, so that two writers of the same can't wait for each other.
        for evaluation in sorted(done.evaluations, key=writes.place):
            writes.record(connection, evaluation, attempt)
        if done.checkpoint:
            writes.add_checkpoint(connection, done.trial, done.epoch, done.checkpoint)

    def add_checkpoint(self, trial: str, epoch: int, uri: str) -> None:
        """Note where the trial's state after `epoch` is kept; replaces an earlier address of it."""
        self._write(writes.add_checkpoint, trial, epoch, uri)

    def end_attempt(self, attempt: int, end: AttemptEnd) -> None:
        """End a running attempt and give its trial the same state.

        Raises ValueError if the attempt is unknown or ended in another state, or a cost is not
        finite.
        """
        self._write(claims.end_attempt, attempt, end)

    def rerun(self, trial: str) -> bool:
        """Set a finished trial waiting again, as if it had never been evaluated or saved.

        Its attempts stay. False, and nothing is done, unless it has succeeded.
        """
        return self._write(claims.rerun, trial)

    def add_driver(self, driver: DriverRecord, lease: float) -> None:
        """Add a driver that begins, believed to live for `lease` seconds."""
        self._write(drivers.add_driver, driver, lease)

    def renew_lease(self, driver: str, lease: float, demand: int, waits_for: str) -> set[int]:
        """Lengthen a driver's lease and say what it wants; the attempts that are still its own."""
        return self._write(drivers.renew_lease, driver, lease, demand, waits_for)

    def end_driver(self, driver: str) -> None:
        """A driver stops of its own will."""
        self._write(drivers.end_driver, driver)

    def mark_lost(self, driver: DriverView, reason: str) -> list[str]:
        """Interrupt what a driver left running; its trials. Nothing if it has renewed its lease."""
        return self._write(drivers.mark_lost, driver, reason)

    def mark_orphaned_lost(self, reason: str) -> list[str]:
        """Interrupt what is running under no driver that lives; its trials."""
        return self._write(drivers.mark_orphaned_lost, reason)

    def cancel(self, sweep: str, trials: Sequence[str] | None = None) -> None:
        """Ask the drivers of a sweep that are running now to stop it, or only `trials` of it."""
        self._write(drivers.cancel, sweep, trials)

    def _write(self, action: Callable[[Connection, *Given], T], *given: *Given) -> T:
        """One transaction that changes something, retried as the policy says."""

        def once() -> T:
            with self._writing.begin() as connection:
                return action(connection, *given)

        return self._retry.run(once)
