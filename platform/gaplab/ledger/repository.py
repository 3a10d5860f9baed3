"""The ledger's public class: everything that is written to it, and the rules it keeps."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Self, TypeVar, TypeVarTuple

from sqlalchemy import Connection, Engine

from gaplab.ledger import claims, drivers, measurements, statistics, writes
from gaplab.ledger.migrate import WRITE, open_engine
from gaplab.ledger.reading import Reader
from gaplab.ledger.retry import RetryPolicy
from gaplab.ledger.views import DriverView
from gaplab.records import (
    AttemptEnd,
    Claim,
    DriverRecord,
    EpochDone,
    EvaluationRecord,
    MeasurementRecord,
    Started,
    SweepRecord,
    TrialRecord,
)

Given = TypeVarTuple("Given")
T = TypeVar("T")


class Ledger(Reader):
    """The SQL record of all sweeps, trials, attempts, evaluations and checkpoints.

    The ledger is the single source of truth: what it does not hold has not happened and is run
    again. Open it with `Ledger.open(url)`, as a context manager. The methods here write; those
    that read are inherited from `Reader`.

    **Who writes.** Drivers (processes that run a sweep), any number of them at the same time, and
    `gaplab reevaluate`, which only adds evaluations to attempts that have ended. A trial never
    opens the ledger: it sends events to its driver, and the driver records them. Any number of
    processes may read at the same time.

    **Transactions.** Each method is one transaction: after a crash, either all of its changes are
    stored or none. A stored change survives the death of the process. (SQLite runs in WAL mode: a
    power cut may lose the most recent transactions, but never damages the file.) While the
    database is locked, restarting or unreachable, a method is retried as the `RetryPolicy` given
    to `open` says.

    **Idempotence.** Every write may be repeated, any number of times and from any number of
    connections, so a driver may repeat a call whose outcome it does not know. The first accepted
    sweep, trial, evaluation and losses stay as they are, with two exceptions: `add_sweep` replaces
    the settings of a sweep, and a later evaluation with the same key (trial, epoch, branch,
    protocol, ground truth) provides `candidates` and `matches` where the stored ones are empty, and
    metrics that an earlier release did not measure. The
    newest URI of a checkpoint replaces earlier ones. The first evaluation with a `rule` defines
    what the name of its protocol means, permanently.

    **Claims.** A trial has at most one running attempt, and none after one that succeeded unless
    `rerun` was called (`gaplab.states.TRANSITIONS` lists every transition). The state of a trial
    is that of its last attempt and changes in the same transaction. It is `waiting` before the
    first attempt and after `rerun`.

    **Leases.** An attempt belongs to the driver that claimed it. Each driver has a lease in the
    ledger and renews it regularly. When other drivers consider it lost, `mark_lost` interrupts its
    running attempts; later calls of `begin_attempt`, `record_epoch` and `end_attempt` for them
    raise ClaimError. So if two drivers run the same trial, only one of them can record epochs.

    **Errors.** UserError for what a person can correct: the URL, an unknown sweep or trial, a
    database that does not answer. Its subclass StorageError for a full disk. ClaimError for a
    trial that cannot be claimed and for an attempt that has already ended. ValueError (of which
    ClaimError is a subclass) for a call that breaks one of the rules above or contains a number
    that is not finite.

    Timestamps come from one clock, in UTC: that of the PostgreSQL server, or of this machine for a
    SQLite file. Threads may share a Ledger; a forked process must open its own.

    Examples:
        >>> import gaplab
        >>> sweep = gaplab.expand(gaplab.load_spec("experiments/quickstart.yaml"))
        >>> with gaplab.Ledger.open(gaplab.open_home("results/second").ledger_url) as ledger:
        ...     ledger.add_sweep(sweep)
        ...     [(stored.name, stored.total) for stored in ledger.sweeps()]
        [('quickstart', 5)]
    """

    @classmethod
    def open(cls, url: str, retry: RetryPolicy = RetryPolicy(), create: bool = True) -> Self:  # noqa: B008
        """Open the ledger at `url` for reading and writing; create or upgrade it if necessary.

        Args:
            url: `sqlite:////folder/ledger.db` or `postgresql+psycopg://user@host/database`.
            retry: how long later calls are retried while the database does not answer; by default
                not at all.
            create: whether to create a SQLite file that does not exist.

        Raises:
            UserError: the URL is malformed, the database cannot be reached or is not a database,
                it does not exist and is not to be created, or it was written by a newer gaplab.
        """
        return cls(open_engine(url, create), retry)

    def close(self) -> None:
        """Close all connections, after the statistics of a SQLite file were refreshed if needed."""
        statistics.refresh(self._engine, self._writing)
        super().close()

    @cached_property
    def _writing(self) -> Engine:
        return self._engine.execution_options(**{WRITE: True})

    @staticmethod
    def read_only(url: str) -> Reader:
        """Open the ledger at `url` for reading, without the permission to write. See `Reader`."""
        return Reader.open(url)

    def add_sweep(self, sweep: SweepRecord) -> None:
        """Add a sweep, and those of its trials that are new, as `waiting`.

        If the sweep is stored with the same trials or more, its spec and the settings of its trials
        (what is no part of their ids) are replaced, unless `sweep` was read from the ledger. Other
        sweeps with the same trials keep their settings.

        Raises:
            ValueError: a sweep with this id is stored and lacks one of these trials.
        """
        self._write(writes.add_sweep, sweep)

    def extend_sweep(self, sweep: str, known: Sequence[str], more: Sequence[TrialRecord]) -> bool:
        """Append trials to a sweep, unless another driver has appended some first.

        Args:
            sweep: the id of a stored sweep.
            known: the ids of all trials that the sweep has, as far as the caller knows.
            more: the trials to append.

        Returns:
            Whether the trials were appended: False if the sweep holds other trials than `known`.
        """
        return self._write(writes.extend_sweep, sweep, known, more)

    def start_attempt(self, claim: Claim) -> int:
        """Claim a trial for a driver: set it running and add its next attempt.

        Returns:
            The id of the new attempt, or of the existing one if this claim was already accepted.

        Raises:
            ClaimError: the trial is unknown, running or succeeded, or has had an attempt later
                than `claim.after`; the error holds the state that the trial is in.
            LimitError: a ClaimError; `claim.at_once` attempts of the sweep are running.
            ValueError: the trial is not in the sweep.
        """
        return self._write(claims.start_attempt, claim)

    def begin_attempt(self, attempt: int, started: Started) -> None:
        """Record where and with what code, packages and data a claimed attempt runs.

        Raises:
            ClaimError: the attempt has ended or is unknown.
        """
        self._write(claims.begin_attempt, attempt, started)

    def record(self, evaluation: EvaluationRecord, attempt: int) -> bool:
        """Store an evaluation that was measured by an attempt, running or ended.

        Returns:
            Whether the evaluation is new: False if one with the same key was stored before.

        Raises:
            ValueError: ap, ap_nms or gap has no value, a value is not finite, the protocol is
                stored with another rule, or `attempt` is not an attempt of the trial.
        """
        return self._write(writes.record, evaluation, attempt)

    def record_epoch(self, done: EpochDone, attempt: int) -> None:
        """Store evaluations, losses, the checkpoint and the cost so far of a running attempt.

        All are stored in one transaction, so a stored checkpoint always comes with the evaluations
        before it. A later checkpoint of the same epoch replaces the URI of the earlier one.

        Raises:
            ClaimError: the attempt has ended or is unknown: the driver was considered lost, and
                another one may have claimed the trial.
            ValueError: as for `record`, or a cost is not finite.
        """
        self._write(self._record_epoch, done, attempt)

    @staticmethod
    def _record_epoch(connection: Connection, done: EpochDone, attempt: int) -> None:
        claims.record_cost(connection, attempt, done.cost)
        # Sorted by key, so that two writers of the same evaluations cannot deadlock.
        for evaluation in sorted(done.evaluations, key=writes.write_order):
            writes.record(connection, evaluation, attempt)
        writes.add_losses(connection, done.trial, done.all_losses, done.all_positives)
        if done.checkpoint:
            writes.add_checkpoint(connection, done.trial, done.epoch, done.checkpoint)

    def end_attempt(self, attempt: int, end: AttemptEnd) -> None:
        """End a running attempt and give its trial the same state.

        Does nothing if the attempt has already ended in this state.

        Raises:
            ClaimError: the attempt is unknown or has ended in another state.
            ValueError: a cost is not finite.
        """
        self._write(claims.end_attempt, attempt, end)

    def add_measurement(self, measured: MeasurementRecord) -> None:
        """Write a measurement, or replace that of the same detections, annotations and protocol.

        Name, family and source of other protocols of the same detections are replaced, too.

        Raises:
            ValueError: a required metric is missing or a value is not finite, or the protocol is
                stored with other values.
        """
        self._write(measurements.add_measurement, measured)

    def rerun(self, trial: str) -> bool:
        """Set a trial that has succeeded back to `waiting`.

        Deletes its evaluations, losses and checkpoints; its attempts stay.

        Returns:
            Whether the trial had succeeded; if not, nothing changes.
        """
        return self._write(claims.rerun, trial)

    def add_driver(self, driver: DriverRecord, lease: float) -> None:
        """Add a driver with a lease of `lease` seconds. Does nothing if it is stored already."""
        self._write(drivers.add_driver, driver, lease)

    def renew_lease(self, driver: str, lease: float, demand: int, waits_for: str) -> set[int]:
        """Renew the lease of a driver, also one that has run out, and publish its demand.

        Args:
            driver: the id of the driver.
            lease: how many seconds from now the lease lasts.
            demand: how many trials the driver would run now, running ones included.
            waits_for: what it waits for, in words; empty if it does not wait.

        Returns:
            The ids of the attempts that the driver still holds. An attempt that is missing here
            was interrupted because other drivers considered this one lost.
        """
        return self._write(drivers.renew_lease, driver, lease, demand, waits_for)

    def end_driver(self, driver: str) -> None:
        """Record that a driver ends by its own decision.

        Attempts that it leaves running are interrupted by the next `mark_orphaned_lost`.
        """
        self._write(drivers.end_driver, driver)

    def mark_lost(self, driver: DriverView, reason: str) -> list[str]:
        """Mark a driver as lost and interrupt its running attempts.

        Does nothing if the driver has renewed its lease since `driver` was read.

        Args:
            driver: the driver as `drivers` returned it.
            reason: why it is considered lost; becomes the reason of the interrupted attempts.

        Returns:
            The ids of the trials whose attempts were interrupted.
        """
        return self._write(drivers.mark_lost, driver, reason)

    def mark_orphaned_lost(self, reason: str) -> list[str]:
        """Interrupt the running attempts whose driver is unknown or has ended.

        Returns:
            The ids of their trials.
        """
        return self._write(drivers.mark_orphaned_lost, reason)

    def cancel(self, sweep: str, trials: Sequence[str] | None = None) -> None:
        """Ask the drivers of a sweep to stop and not to start some of its trials.

        Only drivers that are running now receive the request, see `cancelled`.

        Args:
            sweep: the id of the sweep.
            trials: the ids of the trials, or None for the whole sweep.
        """
        self._write(drivers.cancel, sweep, trials)

    def _write(self, action: Callable[[Connection, *Given], T], *given: *Given) -> T:
        """Run `action` in one writing transaction, retried as the policy says."""

        def once() -> T:
            with self._writing.begin() as connection:
                return action(connection, *given)

        return self._retry.run(once)
