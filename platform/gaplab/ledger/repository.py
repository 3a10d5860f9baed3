"""The ledger: which trials there are, what was tried, and what came out."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

from sqlalchemy import Engine, select

from gaplab.errors import UserError
from gaplab.ledger import lookup, queries, writes
from gaplab.ledger.migrate import WRITE, open_engine
from gaplab.ledger.models import Protocol, Trial
from gaplab.ledger.views import (
    AttemptView,
    Cost,
    CostKey,
    Coverage,
    EvaluationView,
    ResultRow,
    RowFilter,
    SweepView,
    TrialView,
)
from gaplab.records import AttemptEnd, EpochDone, EvaluationRecord, Machine, SweepRecord, TrialState

_CHUNK = 5000  # ids in one IN (...): below every database's limit on bound parameters
_AT_ONCE = 1000  # rows in memory while all are read


class Ledger:
    """The truth about sweeps, trials, attempts, evaluations and checkpoints, in SQL.

    Who writes: the driver, and `gaplab reevaluate`, which only adds evaluations to attempts that
    ended; both are idempotent, so they can't disturb each other. Trials send their evaluations to
    the driver and never open the ledger. Any number of processes may read meanwhile. Every method
    is one transaction: after a crash all of a call is there or none of it. A committed write
    survives the death of the process (SQLite in WAL mode may lose the very last ones to a power
    cut, but is never damaged).

    What may be repeated: `add_sweep`, `record` and `add_checkpoint` any number of times, from any
    number of connections. The first accepted sweep, trial and evaluation stay as they are, but for
    an evaluation's `candidates` and `matches`: a later one gives those that are empty. Of a
    checkpoint the newest address counts. `end_attempt` may be repeated with the same state.

    The first evaluation with a `rule` says what its protocol's name means, for good.

    A trial has at most one running attempt, and none after one that succeeded. Its state is that
    of its last attempt, changed in the same transaction; `waiting` before the first. Attempts of a
    driver that died are ended by `close_orphans`, which only touches attempts begun under the same
    `driver` name: homes that share a PostgreSQL ledger open it with names of their own.

    Raises: UserError for what a person can mend (URL, unknown sweep or trial); ValueError for a
    call that breaks the rules above or carries a number that is not finite. Timestamps are the
    ledger's own, in UTC. A Ledger may be shared by threads, not by forked processes.
    """

    def __init__(self, engine: Engine, driver: str) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITE: True})
        self._driver = driver

    @classmethod
    def open(cls, url: str, driver: str = "default") -> Self:
        """Open the ledger at `url`, created or upgraded if need be. Raises UserError."""
        return cls(open_engine(url), driver)

    def close(self) -> None:
        """Close all connections. The ledger can't be used afterwards."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_sweep(self, sweep: SweepRecord) -> None:
        """Add a sweep and those of its trials that are new, as `waiting`.

        Raises ValueError if a sweep of this id is there with other trials.
        """
        with self._writing.begin() as connection:
            writes.add_sweep(connection, sweep)

    def states(self, trials: Sequence[str]) -> dict[str, TrialState]:
        """State of each trial in `trials`; ids that the ledger doesn't know are absent."""
        chunks = [trials[start : start + _CHUNK] for start in range(0, len(trials), _CHUNK)]
        with self._engine.connect() as connection:
            found = [row for chunk in chunks for row in connection.execute(queries.states(chunk))]
        return {row.id: row.state for row in found}

    def start_attempt(self, trial: str, sweep: str, machine: Machine) -> int:
        """Claim `trial` for this driver and return the new attempt's id.

        Raises ValueError if the trial is unknown, not in `sweep`, running or succeeded.
        """
        with self._writing.begin() as connection:
            return writes.start_attempt(connection, trial, sweep, machine, self._driver)

    def record(self, evaluation: EvaluationRecord, attempt: int) -> bool:
        """Keep an evaluation measured by `attempt`; True if it is new, False if it was there.

        Raises ValueError if ap, ap_nms or gap has no value, a value is not finite, the protocol is
        there with another rule, or `attempt` is not an attempt of that trial.
        """
        with self._writing.begin() as connection:
            return writes.record(connection, evaluation, attempt)

    def record_epoch(self, done: EpochDone, attempt: int) -> None:
        """Keep all evaluations of an epoch and its checkpoint, as `record` and `add_checkpoint` do.

        One transaction, so a checkpoint is never known without the evaluations before it.
        """
        with self._writing.begin() as connection:
            # In the order of keys, so that two writers of the same can't wait for each other.
            for evaluation in sorted(done.evaluations, key=writes.place):
                writes.record(connection, evaluation, attempt)
            if done.checkpoint:
                writes.add_checkpoint(connection, done.trial, done.epoch, done.checkpoint)

    def add_checkpoint(self, trial: str, epoch: int, uri: str) -> None:
        """Note where the trial's state after `epoch` is kept; replaces an earlier address of it."""
        with self._writing.begin() as connection:
            writes.add_checkpoint(connection, trial, epoch, uri)

    def end_attempt(self, attempt: int, end: AttemptEnd) -> None:
        """End a running attempt and give its trial the same state.

        Raises ValueError if the attempt is unknown or ended in another state, or a cost is not
        finite.
        """
        with self._writing.begin() as connection:
            writes.end_attempt(connection, attempt, end)

    def close_orphans(self, reason: str) -> list[str]:
        """Mark this driver's running attempts as interrupted and return their trials.

        To be called when a driver starts, under the lock of its home: whatever runs then, is dead.
        """
        with self._writing.begin() as connection:
            return writes.close_orphans(connection, self._driver, reason)

    def sweep(self, sweep: str) -> SweepView:
        """The sweep of exactly this id. Raises UserError if there is none."""
        with self._engine.connect() as connection:
            row = connection.execute(queries.sweeps(sweep)).first()
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
        with self._engine.connect() as connection:
            found = connection.execute(queries.trials_of(sweep))
            return [queries.trial_view(row) for row in found]

    def attempts(self, trial: str) -> list[AttemptView]:
        """The attempts of the trial of this id, first to last."""
        with self._engine.connect() as connection:
            return [
                queries.attempt_view(row) for row in connection.execute(queries.attempts(trial))
            ]

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
        with self._engine.connect() as connection:
            found = connection.execute(queries.rows(wanted)).mappings()
            return [ResultRow(**row) for row in found]

    def coverage(self, wanted: RowFilter) -> list[Coverage]:
        """Under which protocols and branches the trials of `wanted` have been evaluated at all."""
        with self._engine.connect() as connection:
            return [Coverage(*row) for row in connection.execute(queries.coverage(wanted))]

    def _stream(self, query: queries.Query) -> Iterator[queries.AnyRow]:
        engine = self._engine.execution_options(yield_per=_AT_ONCE)
        with engine.connect() as connection, connection.execute(query) as found:
            yield from found
