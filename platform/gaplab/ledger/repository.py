"""The ledger: which trials there are, what was tried, and what came out."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar, TypeVarTuple

from sqlalchemy import Connection, Engine, select

from gaplab.errors import UserError
from gaplab.ledger import drivers, lookup, queries, writes
from gaplab.ledger.clock import now
from gaplab.ledger.migrate import WRITE, open_engine
from gaplab.ledger.models import Protocol, Trial
from gaplab.ledger.patience import Patience
from gaplab.ledger.views import (
    AttemptView,
    Cost,
    CostKey,
    Coverage,
    DriverView,
    EvaluationView,
    ResultRow,
    RowFilter,
    SweepView,
    TrialView,
)
from gaplab.records import (
    AttemptEnd,
    Claim,
    DriverRecord,
    EpochDone,
    EvaluationRecord,
    Started,
    SweepRecord,
    TrialRecord,
    TrialState,
)

Given = TypeVarTuple("Given")
T = TypeVar("T")

_CHUNK = 5000  # ids in one IN (...): below every database's limit on bound parameters
_AT_ONCE = 1000  # rows in memory while all are read


class Ledger:
    """The truth about sweeps, trials, attempts, evaluations and checkpoints, in SQL.

    Who writes: drivers, any number of them, and `gaplab reevaluate`, which only adds evaluations to
    attempts that ended. Trials send their evaluations to the driver and never open the ledger. Any
    number of processes may read meanwhile. Every method is one transaction: after a crash all of a
    call is there or none of it. A committed write survives the death of the process (SQLite in WAL
    mode may lose the very last ones to a power cut, but is never damaged). With `patience` a method
    waits for a database that is locked, restarting or out of reach, and then is done once.

    What may be repeated: every write, any number of times, from any number of connections. The
    first accepted sweep, trial and evaluation stay as they are, but for an evaluation's
    `candidates` and `matches`: a later one gives those that are empty. Of a checkpoint the newest
    address counts.

    The first evaluation with a `rule` says what its protocol's name means, for good.

    A trial has at most one running attempt, and none after one that succeeded (`lifecycle` has all
    transitions). Its state is that of its last attempt, changed in the same transaction; `waiting`
    before the first. An attempt belongs to the driver that claimed the trial, whose lease stands in
    the ledger; when that driver is taken for dead, `bury` interrupts the attempt, and what it would
    still write is refused: of two drivers that both believe to train a trial, one is believed.

    Raises: UserError for what a person can mend (URL, unknown sweep or trial); ClaimError for an
    attempt or a claim that came too late; ValueError for a call that breaks the rules above or
    carries a number that is not finite. Timestamps are the
    ledger's own, in UTC. A Ledger may be shared by threads, not by forked processes.
    """

    def __init__(self, engine: Engine, patience: Patience) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITE: True})
        self._patience = patience

    @classmethod
    def open(cls, url: str, patience: Patience = Patience()) -> Self:  # noqa: B008
        """Open the ledger at `url`, created or upgraded if need be. Raises UserError."""
        return cls(open_engine(url), patience)

    def close(self) -> None:
        """Close all connections. The ledger can't be used afterwards."""
        self._engine.dispose()

    def give_up(self) -> None:
        """Wait for the database no more."""
        self._patience = Patience()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def newest_attempts(self, trials: Sequence[str]) -> dict[str, int]:
        """The id of the last attempt at each of `trials` that has one."""
        chunks = [trials[start : start + _CHUNK] for start in range(0, len(trials), _CHUNK)]
        found = self._read(
            lambda c: [row for chunk in chunks for row in c.execute(queries.newest(chunk))]
        )
        return {row.trial_id: row.newest for row in found}

    def stopped(self, sweep: str) -> set[str]:
        """The trials that the sweep's own stopping rule ended, and nobody has trained on since."""
        return set(self._read(lambda c: c.scalars(queries.stopped(sweep)).all()))

    def states(self, trials: Sequence[str]) -> dict[str, TrialState]:
        """State of each trial in `trials`; ids that the ledger doesn't know are absent."""
        chunks = [trials[start : start + _CHUNK] for start in range(0, len(trials), _CHUNK)]
        found = self._read(
            lambda c: [row for chunk in chunks for row in c.execute(queries.states(chunk))]
        )
        return {row.id: row.state for row in found}

    def start_attempt(self, claim: Claim) -> int:
        """Claim a trial for a driver and return the new attempt's id; the same claim once.

        Raises ClaimError, with the state the trial is in, if it is unknown, running or succeeded,
        and ValueError if it is not in the sweep.
        """
        return self._write(writes.start_attempt, claim)

    def begin_attempt(self, attempt: int, started: Started) -> None:
        """Note where a claimed attempt runs. Raises ClaimError if it is over."""
        self._write(writes.begin_attempt, attempt, started)

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
        writes.note_cost(connection, attempt, done.cost)
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
        self._write(writes.end_attempt, attempt, end)

    def enlist(self, driver: DriverRecord, lease: float) -> None:
        """Add a driver that begins, believed to live for `lease` seconds."""
        self._write(drivers.enlist, driver, lease)

    def renew(self, driver: str, lease: float, wants: int, waits_for: str) -> set[int]:
        """Lengthen a driver's lease and say what it wants; the attempts that are still its own."""
        return self._write(drivers.renew, driver, lease, wants, waits_for)

    def retire(self, driver: str) -> None:
        """A driver stops of its own will."""
        self._write(drivers.retire, driver)

    def bury(self, driver: DriverView, reason: str) -> list[str]:
        """Interrupt what a driver left running; its trials. Nothing if it has renewed its lease."""
        return self._write(drivers.bury, driver, reason)

    def bury_strangers(self, reason: str) -> list[str]:
        """Interrupt what is running under no driver that lives; its trials."""
        return self._write(drivers.bury_strangers, reason)

    def cancel(self, sweep: str, trials: Sequence[str] = ()) -> None:
        """Ask the drivers of a sweep that live now to leave it alone, or these trials of it."""
        self._write(drivers.cancel, sweep, trials)

    def cancelled(self, sweep: str, driver: str) -> set[str]:
        """Trials that a sweep's driver is to leave alone; an empty id among them: all."""
        return set(self._read(lambda c: c.scalars(drivers.cancelled(sweep, driver)).all()))

    def drivers(self, sweep: str | None = None) -> list[DriverView]:
        """The drivers of a sweep, oldest first; for None all that live as far as is known."""
        query = drivers.living() if sweep is None else drivers.drivers(sweep)
        return [DriverView(**row._mapping) for row in self._read(lambda c: c.execute(query).all())]

    def now(self) -> datetime:
        """The ledger's clock, in UTC."""
        return self._read(now)

    def sweep(self, sweep: str) -> SweepView:
        """The sweep of exactly this id. Raises UserError if there is none."""
        row = self._read(lambda c: c.execute(queries.sweeps(sweep)).first())
        if row is None:
            raise UserError(f"sweep {sweep!r}: not in the ledger; `gaplab sweeps` lists them")
        return queries.sweep_view(row)

    def sweeps(self) -> list[SweepView]:
        """All sweeps, newest first."""
        with self._engine.connect() as connection:
            return [queries.sweep_view(row) for row in connection.execute(queries.sweeps())]

    def find_sweep(self, text: str) -> SweepView:
        """The sweep whose id or name is `text` (the newest of that name), or whose id begins so.

        Raises UserError naming near matches if there is none, or all matches if there are several.
        """
        with self._engine.connect() as connection:
            identity = lookup.sweep(connection, text)
        return self.sweep(identity)

    def find_trial(self, text: str) -> TrialView:
        """The trial whose id begins with `text`. Raises UserError as `find_sweep` does."""
        with self._engine.connect() as connection:
            identity = lookup.trial(connection, text)
            row = connection.execute(queries.trials().where(Trial.id == identity)).one()
        return queries.trial_view(row)

    def stored(self, text: str | None = None) -> SweepRecord:
        """The sweep that `find_sweep` finds, or the newest, as it was added. Raises UserError."""
        newest = self.sweeps()[:1] if text is None else [self.find_sweep(text)]
        if not newest:
            raise UserError("sweep: none in the ledger yet; `gaplab run SPEC` starts one")
        found = newest[0]
        trials = tuple(view.record() for view in self.trials(found.id))
        return SweepRecord(found.id, found.name, found.spec, trials)

    def trials(self, sweep: str) -> list[TrialView]:
        """The trials of the sweep of this id, in the sweep's order."""
        found = self._read(lambda c: c.execute(queries.trials_of(sweep)).all())
        return [queries.trial_view(row) for row in found]

    def attempts(self, trial: str) -> list[AttemptView]:
        """The attempts of the trial of this id, first to last."""
        rows = self._read(lambda c: c.execute(queries.attempts(trial)).all())
        return [queries.attempt_view(row) for row in rows]

    def evaluations(self, trial: str) -> list[EvaluationView]:
        """The evaluations of the trial of this id, by epoch, branch and protocol."""
        with self._engine.connect() as connection:
            found = connection.execute(queries.evaluations(trial))
            return [queries.evaluation_view(row) for row in found]

    def all_trials(self, sweep: str | None = None) -> Iterator[TrialView]:
        """Every trial by id, or those of the sweep of this id in its order; read as they are used.

        All from one moment, however long the reading takes.
        """
        return map(queries.trial_view, self._stream(queries.all_trials(sweep)))

    def all_evaluations(self, sweep: str | None = None) -> Iterator[EvaluationView]:
        """Every evaluation, or those of the trials of the sweep of this id; read as `all_trials`.

        By trial, epoch, branch and protocol.
        """
        return map(queries.evaluation_view, self._stream(queries.all_evaluations(sweep)))

    def protocols(self) -> dict[str, dict[str, Any]]:
        """What each protocol's name means, as far as known: its values without the name."""
        with self._engine.connect() as connection:
            found = connection.execute(select(Protocol.id, Protocol.rule).order_by(Protocol.id))
            return {row.id: row.rule for row in found}

    def costs(self) -> dict[CostKey, Cost]:
        """Mean cost of a trial from start to end, over the first attempts that succeeded."""
        with self._engine.connect() as connection:
            found = connection.execute(queries.costs()).all()
        return {CostKey(*row[:3]): Cost(*row[3:]) for row in found}

    def rows(self, wanted: RowFilter) -> list[ResultRow]:
        """The evaluations that `wanted` describes, in no particular order."""
        found = self._read(lambda c: c.execute(queries.rows(wanted)).mappings().all())
        return [ResultRow(**row) for row in found]

    def coverage(self, wanted: RowFilter) -> list[Coverage]:
        """Under which protocols and branches the trials of `wanted` have been evaluated at all."""
        with self._engine.connect() as connection:
            return [Coverage(*row) for row in connection.execute(queries.coverage(wanted))]

    def _stream(self, query: queries.Query) -> Iterator[queries.AnyRow]:
        engine = self._engine.execution_options(yield_per=_AT_ONCE)
        # Of a stream only the beginning can be tried again.
        connection = self._patience.wait_for(engine.connect)
        with connection, connection.execute(query) as found:
            yield from found

    def _write(self, action: Callable[[Connection, *Given], T], *given: *Given) -> T:
        """One transaction that changes something, tried again while the patience lasts."""

        def once() -> T:
            with self._writing.begin() as connection:
                return action(connection, *given)

        return self._patience.wait_for(once)

    def _read(self, action: Callable[[Connection], T]) -> T:
        def once() -> T:
            with self._engine.connect() as connection:
                return action(connection)

        return self._patience.wait_for(once)
