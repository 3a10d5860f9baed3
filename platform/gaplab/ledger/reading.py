"""Reading the ledger: every method one look at the database, in one transaction."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, select

from gaplab.errors import UserError
from gaplab.ledger import drivers, lookup, queries
from gaplab.ledger.clock import now
from gaplab.ledger.migrate import WRITE, open_engine
from gaplab.ledger.models import Protocol, Trial
from gaplab.ledger.retry import RetryPolicy
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
from gaplab.records import CancelRequest, SweepRecord, TrialRecord
from gaplab.states import TrialState

T = TypeVar("T")

_CHUNK = 5000  # ids in one IN (...): below every database's limit on bound parameters
_AT_ONCE = 1000  # rows in memory while all are read


class Reader:
    """What the ledger knows. See `Ledger` for the rules."""

    def __init__(self, engine: Engine, retry: RetryPolicy) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITE: True})
        self._retry = retry

    @classmethod
    def open(cls, url: str, retry: RetryPolicy = RetryPolicy()) -> Self:  # noqa: B008
        """Open the ledger at `url`, created or upgraded if need be. Raises UserError."""
        return cls(open_engine(url), retry)

    def close(self) -> None:
        """Close all connections. The ledger can't be used afterwards."""
        self._engine.dispose()

    def stop_waiting(self) -> None:
        """Wait for the database no more."""
        self._retry = RetryPolicy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def newest_attempts(self, trials: Sequence[str]) -> dict[str, int]:
        """The id of the last attempt at each of `trials` that has one."""
        return {row.trial_id: row.newest for row in self._chunks(queries.newest, trials)}

    def stopped(self, sweep: str) -> set[str]:
        """The trials that the sweep's own stopping rule ended, and nobody has trained on since."""
        return set(self._read(lambda c: c.scalars(queries.stopped(sweep)).all()))

    def states(self, trials: Sequence[str]) -> dict[str, TrialState]:
        """State of each trial in `trials`; ids that the ledger doesn't know are absent."""
        return {row.id: row.state for row in self._chunks(queries.states, trials)}

    def unfinished(self, sweep: SweepRecord) -> tuple[TrialRecord, ...]:
        """The trials of `sweep` that are to be trained, in order: all that have not succeeded, but
        for those that its own stopping rule has ended.
        """
        states, stopped = self.states([t.id for t in sweep.trials]), self.stopped(sweep.id)
        return tuple(
            t
            for t in sweep.trials
            if states.get(t.id) != TrialState.SUCCEEDED and t.id not in stopped
        )

    def cancelled(self, sweep: str, driver: str) -> CancelRequest:
        """Return which trials of the sweep its driver `driver` is asked to cancel."""
        found = set(self._read(lambda c: c.scalars(drivers.cancelled(sweep, driver)).all()))
        return CancelRequest("" in found, frozenset(found - {""}))

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
            raise UserError(f"sweep {sweep!r}: not in the ledger; `gaplab show` lists them")
        return queries.sweep_view(row)

    def sweeps(self) -> list[SweepView]:
        """All sweeps, newest first."""
        found = self._read(lambda c: c.execute(queries.sweeps()).all())
        return [queries.sweep_view(row) for row in found]

    def find_sweep(self, text: str) -> SweepView:
        """The sweep whose id or name is `text` (the newest of that name), or whose id begins so.

        Raises UserError naming near matches if there is none, or all matches if there are several.
        """
        return self.sweep(self._read(lambda c: lookup.sweep(c, text)))

    def find_trial(self, text: str) -> TrialView:
        """The trial whose id begins with `text`. Raises UserError as `find_sweep` does."""
        identity = self._read(lambda c: lookup.trial(c, text))
        query = queries.trials().where(Trial.id == identity)
        return queries.trial_view(self._read(lambda c: c.execute(query).one()))

    def stored_sweep(self, text: str | None = None) -> SweepRecord:
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
        found = self._read(lambda c: c.execute(queries.evaluations(trial)).all())
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
        query = select(Protocol.id, Protocol.rule).order_by(Protocol.id)
        return {row.id: row.rule for row in self._read(lambda c: c.execute(query).all())}

    def costs(self) -> dict[CostKey, Cost]:
        """Mean cost of a trial from start to end, over the first attempts that succeeded."""
        found = self._read(lambda c: c.execute(queries.costs()).all())
        return {CostKey(*row[:3]): Cost(*row[3:]) for row in found}

    def rows(self, wanted: RowFilter) -> list[ResultRow]:
        """The evaluations that `wanted` describes, in no particular order."""
        found = self._read(lambda c: c.execute(queries.rows(wanted)).mappings().all())
        return [ResultRow(**row) for row in found]

    def coverage(self, wanted: RowFilter) -> list[Coverage]:
        """Under which protocols and branches the trials of `wanted` have been evaluated at all."""
        found = self._read(lambda c: c.execute(queries.coverage(wanted)).all())
        return [Coverage(*row) for row in found]

    def _stream(self, query: queries.Query) -> Iterator[queries.AnyRow]:
        engine = self._engine.execution_options(yield_per=_AT_ONCE)
        # Of a stream only the beginning can be tried again.
        connection = self._retry.run(engine.connect)
        with connection, connection.execute(query) as found:
            yield from found

    def _chunks(
        self, query: Callable[[Sequence[str]], queries.Query], trials: Sequence[str]
    ) -> list[queries.AnyRow]:
        """What `query` finds for `trials`, asked for a part of them at a time."""
        parts = [trials[start : start + _CHUNK] for start in range(0, len(trials), _CHUNK)]
        return self._read(lambda c: [row for part in parts for row in c.execute(query(part))])

    def _read(self, action: Callable[[Connection], T]) -> T:
        def once() -> T:
            with self._engine.connect() as connection:
                return action(connection)

        return self._retry.run(once)
