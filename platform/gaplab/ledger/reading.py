"""The reading half of the ledger: each method reads in one transaction and returns views."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, select

from gaplab.errors import UserError
from gaplab.ledger import drivers, lookup, measurements, queries
from gaplab.ledger.clock import now
from gaplab.ledger.models import Evaluation, Measurement, Protocol, Trial
from gaplab.ledger.readonly import empty_engine, open_readonly
from gaplab.ledger.retry import RetryPolicy
from gaplab.ledger.selection import Selection, costs, default_order, epochs_reaching
from gaplab.ledger.settings import nested, own_protocols
from gaplab.ledger.streams import NO_RETRY, Streams
from gaplab.ledger.views import (
    AttemptView,
    CostKey,
    Coverage,
    DriverView,
    EvaluationView,
    GroupView,
    MeanCost,
    MeasurementView,
    ResultRow,
    RowFilter,
    SweepView,
    TrialView,
)
from gaplab.records import CancelRequest, SweepRecord, TrialRecord
from gaplab.states import TrialState

T = TypeVar("T")

_CHUNK = 5000  # ids in one IN (...): below every database's limit on bound parameters
_SECTIONS = 1000  # configurations of one section that are compared to find the varied keys


class Reader(Streams):
    """Everything that can be read from the ledger. See `Ledger` for its rules.

    Opened by itself, it creates, upgrades and locks nothing, and needs no permission to write.

    Args:
        engine: connects to the database.
        retry: how long a transaction is retried.
        file: the SQLite file, if the engine only reads it.
    """

    @classmethod
    def open(cls, url: str, retry: RetryPolicy = NO_RETRY) -> Self:
        """Open the ledger at `url` for reading.

        Args:
            url: `sqlite:////folder/ledger.db` or `postgresql+psycopg://user@host/database`.
            retry: how long later calls are retried while the database does not answer; by default
                not at all.

        Raises:
            UserError: the URL is malformed, the database cannot be reached, or it holds no ledger
                of this version of gaplab.
        """
        engine, file = open_readonly(url)
        return cls(engine, retry, file)

    @classmethod
    def empty(cls) -> Self:
        """Return a ledger that holds nothing, for a home folder that does not exist yet."""
        return cls(empty_engine())

    def close(self) -> None:
        """Close all connections. The ledger can't be used afterwards."""
        self._engine.dispose()

    def stop_waiting(self) -> None:
        """Disable retries from now on: a call fails at once if the database does not answer."""
        self._retry = NO_RETRY

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def now(self) -> datetime:
        """Return the time of the ledger's clock, in UTC."""
        return self._read(now)

    def sweep(self, sweep: str) -> SweepView:
        """Return the sweep with exactly this id. Raises UserError if there is none."""
        row = self._read(lambda c: c.execute(queries.sweeps(sweep)).first())
        if row is None:
            raise UserError(f"sweep {sweep!r}: not in the ledger; `gaplab show` lists them")
        return queries.sweep_view(row)

    def sweeps(self) -> list[SweepView]:
        """Return all sweeps, newest first."""
        found = self._read(lambda c: c.execute(queries.sweeps()).all())
        return [queries.sweep_view(row) for row in found]

    def find_sweep(self, text: str) -> SweepView:
        """Find a sweep by its id, its name (the newest of that name) or the beginning of its id.

        Raises:
            UserError: there is no such sweep (the error suggests similar names), or several ids
                begin with `text` (the error lists them).
        """
        return self.sweep(self._read(lambda c: lookup.find_sweep(c, text)))

    def find_trial(self, text: str) -> TrialView:
        """Find the trial whose id is or begins with `text`. Raises UserError as `find_sweep`."""
        identity = self._read(lambda c: lookup.find_trial(c, text))
        query = queries.trials().where(Trial.id == identity)
        return queries.trial_view(self._read(lambda c: c.execute(query).one()))

    def find(self, text: str) -> SweepView | TrialView:
        """Find the sweep that `text` means, or else the trial. Raises UserError about both."""
        try:
            return self.find_sweep(text)
        except UserError as no_sweep:
            try:
                return self.find_trial(text)
            except UserError as no_trial:
                raise UserError(*no_trial.problems, *no_sweep.problems) from None

    def stored_sweep(self, text: str | None = None) -> SweepRecord:
        """Return a sweep and its trials, with the settings that it was added with last.

        Args:
            text: a name or id as for `find_sweep`; None: the newest sweep.

        Raises:
            UserError: there is no such sweep, or none at all.
        """
        return self._sweep_record(self.chosen_sweep(text))

    def chosen_sweep(self, text: str | None = None) -> SweepView:
        """Return the sweep that `stored_sweep` returns, without its trials. Raises UserError."""
        newest = self.sweeps()[:1] if text is None else [self.find_sweep(text)]
        if not newest:
            raise UserError("sweep: none in the ledger yet; `gaplab run SPEC` starts one")
        return newest[0]

    def known_sweep(self, sweep: str) -> SweepRecord | None:
        """Return the sweep with exactly this id and its trials; None if there is none."""
        row = self._read(lambda c: c.execute(queries.sweeps(sweep)).first())
        return None if row is None else self._sweep_record(queries.sweep_view(row))

    def _sweep_record(self, found: SweepView) -> SweepRecord:
        trials = tuple(view.record() for view in self.trials(found.id))
        return SweepRecord(found.id, found.name, found.spec, trials, from_ledger=True)

    def trials(self, sweep: str, states: Collection[TrialState] = ()) -> list[TrialView]:
        """Return the trials of a sweep in its order; only those in `states` unless it is empty."""
        found = self._read(lambda c: c.execute(queries.trials_of(sweep, states)).all())
        return [queries.trial_view(row) for row in found]

    def states(self, trials: Sequence[str]) -> dict[str, TrialState]:
        """Return the state of each of `trials`. Unknown ids are left out."""
        return {row.id: row.state for row in self._read_chunks(queries.states, trials)}

    def stopped(self, sweep: str) -> set[str]:
        """Return the trials that this sweep's stopping rule ended and nobody continued since."""
        return set(self._read(lambda c: c.scalars(queries.stopped(sweep)).all()))

    def unfinished(
        self, sweep: SweepRecord, states: Mapping[str, TrialState] | None = None
    ) -> tuple[TrialRecord, ...]:
        """Return the trials of a sweep that are still to be run, in the order of the sweep.

        These are all that have not succeeded, except those that its own stopping rule has ended.

        Args:
            sweep: the sweep.
            states: what `states` returns for its trials, if that is known.
        """
        if states is None:
            states = self.states([t.id for t in sweep.trials])
        stopped = self.stopped(sweep.id)
        return tuple(
            t
            for t in sweep.trials
            if states.get(t.id) != TrialState.SUCCEEDED and t.id not in stopped
        )

    def attempts(self, trial: str) -> list[AttemptView]:
        """Return the attempts of the trial with this id, first to last."""
        rows = self._read(lambda c: c.execute(queries.attempts(trial)).all())
        return [queries.attempt_view(row) for row in rows]

    def newest_attempts(self, trials: Sequence[str]) -> dict[str, int]:
        """Return the id of the last attempt of each of `trials` that has one."""
        found = self._read_chunks(queries.newest_attempts, trials)
        return {row.trial_id: row.newest for row in found}

    def drivers(self, sweep: str | None = None) -> list[DriverView]:
        """Return the drivers of a sweep, oldest first, ended ones included.

        For None, return the drivers of all sweeps that have not ended as far as is known.
        """
        query = drivers.active_drivers() if sweep is None else drivers.all_drivers(sweep)
        return [DriverView(**row._mapping) for row in self._read(lambda c: c.execute(query).all())]

    def cancelled(self, sweep: str, driver: str) -> CancelRequest:
        """Return which trials of a sweep one of its drivers is asked to cancel.

        Requests from before the driver began are ignored: the sweep was resumed after them.
        """
        found = set(self._read(lambda c: c.scalars(drivers.cancelled(sweep, driver)).all()))
        trials = frozenset(trial for trial in found if trial is not None)
        return CancelRequest(all_trials=None in found, trials=trials)

    def evaluations(self, trial: str, truth: str | None = "") -> list[EvaluationView]:
        """Return the evaluations of the trial with this id, by epoch, branch and protocol.

        Args:
            trial: the id of the trial.
            truth: the digest of the ground truth; by default that of the trial's own data. None:
                evaluations against any ground truth.
        """
        found = self._read(lambda c: c.execute(queries.evaluations(trial, truth)).all())
        return [queries.evaluation_view(row) for row in found]

    def truths(self) -> list[str]:
        """Return the digests of all ground truths but the trials' own that are measured against."""
        trials = select(Evaluation.truth).where(Evaluation.truth != "")
        query = trials.union(select(Measurement.truth))
        return sorted(self._read(lambda c: c.scalars(query).all()))

    def losses(self, trial: str) -> dict[int, dict[str, float]]:
        """Return the mean losses of a trial by epoch and name.

        Epochs that were trained before gaplab stored losses are missing.
        """
        return {row.epoch: row.losses for row in self.all_losses(trial=trial)}

    def positives(self, trial: str) -> dict[int, dict[str, float]]:
        """Return scores and ranks of a trial's positive points by epoch and name.

        Epochs without positive points are missing, and those that were trained before gaplab
        stored them.
        """
        return {row.epoch: row.positives for row in self.all_losses(trial=trial) if row.positives}

    def stored_files(self) -> set[str]:
        """Return the paths of all candidates and matches, see `Storage.locate`."""
        return set(self._read(lambda c: c.scalars(queries.stored_files()).all()))

    def protocols(self) -> dict[str, dict[str, Any]]:
        """Return the rule of each protocol that is known by name: its values without the name."""
        query = select(Protocol.id, Protocol.rule).order_by(Protocol.id)
        return {row.id: row.rule for row in self._read(lambda c: c.execute(query).all())}

    def costs(self) -> dict[CostKey, MeanCost]:
        """Return the mean costs of whole trials, over first attempts that succeeded."""
        found = self._read(lambda c: c.execute(queries.costs()).all())
        return {CostKey(*row[:3]): MeanCost(*row[3:]) for row in found}

    def rows(self, wanted: RowFilter) -> list[ResultRow]:
        """Return the evaluations that match `wanted`, in no particular order."""
        found = self._read(lambda c: Selection(c, wanted).rows())
        others = {}
        if any(row.state is None for row in found):
            others = {(each.id, each.protocol): each for each in self.measurements()}
        return [
            ResultRow(**row._mapping)
            if row.state is not None
            else measurements.as_row(others[row.trial, row.protocol])
            for row in found
        ]

    def count_rows(self, wanted: RowFilter) -> int:
        """Return the number of evaluations that match `wanted`, whatever its `top` is."""
        return self._read(lambda c: Selection(c, wanted).count())

    def count_by_condition(self, wanted: RowFilter) -> list[int]:
        """Return how many evaluations match no condition, the first, the first two, and so on."""
        return self._read(lambda c: Selection(c, wanted).counts())

    def groups(self, wanted: RowFilter, keys: Sequence[str], metric: str = "ap") -> list[GroupView]:
        """Return groups of evaluations with equal values of `keys`, best mean of `metric` first.

        A group never mixes data sets, schedules or versions of the training code.

        Raises:
            UserError: no column or spec has one of the keys.
        """
        return self._read(lambda c: Selection(c, wanted).groups(keys, default_order(metric)))

    def sections(self, wanted: RowFilter) -> dict[str, list[dict[str, Any]]]:
        """Return the distinct sections of the configurations of matching trials, by their name.

        Each is nested as in `TrialRecord`, but holds this section only, such as the assignment.
        Names of which all trials have the same section are left out.
        """
        found = self._read(lambda c: Selection(c, wanted).sections(_SECTIONS))
        return {name: [nested(each) for each in sections] for name, sections in found.items()}

    def values(self, wanted: RowFilter, column: str) -> list[Any]:
        """Return the distinct values of a column of the rows that match `wanted`."""
        return self._read(lambda c: Selection(c, wanted).values(column))

    def trial_costs(self, trials: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """Return what all attempts at each of `trials` cost together, by name of the cost."""
        rows = (row._asdict() for row in self._read_chunks(costs, trials))
        return {row.pop("trial_id"): row for row in rows}

    def epochs_reaching(
        self, share: float, trials: Sequence[str], wanted: RowFilter
    ) -> dict[tuple[str, str], int]:
        """Return the first evaluated epoch with this share of the last AP, by trial and branch.

        Under the protocol and against the ground truth of `wanted`.
        """
        rows = self._read_chunks(lambda part: epochs_reaching(share, part, wanted), trials)
        return {(row.trial_id, row.branch): row.first for row in rows}

    def own_protocols(self, sweep: str) -> list[str]:
        """Return the protocols that the specs of the trials of a sweep name."""
        found = self._read(lambda c: c.scalars(own_protocols(sweep)).all())
        return sorted(json.loads(each) for each in found)

    def measurements(self) -> list[MeasurementView]:
        """Return all measurements of detections that gaplab did not produce, by id and protocol."""
        found = self._read(lambda c: c.execute(measurements.measurements()).all())
        return [measurements.measurement_view(row) for row in found]

    def find_measurements(self, text: str) -> list[MeasurementView]:
        """Return the measurements of the detections with this name or id, or beginning of an id.

        Empty if there are none. Raises UserError if several are meant.
        """
        return measurements.named(self.measurements(), text)

    def coverage(self, wanted: RowFilter) -> list[Coverage]:
        """Return the protocols, branches and epochs that the trials of `wanted` were evaluated at.

        Only the conditions of `wanted` on trials and ground truth are used.
        """
        found = self._read(lambda c: c.execute(queries.coverage(wanted)).all())
        of_trials = [Coverage(*row) for row in found]
        others = self.measurements() if wanted.any_trial else []
        return of_trials + measurements.coverage(others, wanted)

    def _read_chunks(
        self, query: Callable[[Sequence[str]], queries.Query], trials: Sequence[str]
    ) -> list[queries.AnyRow]:
        """Run `query` for a limited number of `trials` at a time. Returns all rows."""
        parts = [trials[start : start + _CHUNK] for start in range(0, len(trials), _CHUNK)]
        return self._read(lambda c: [row for part in parts for row in c.execute(query(part))])

    def _read(self, action: Callable[[Connection], T]) -> T:
        """Run `action` in one reading transaction, retried as the policy says."""

        def once() -> T:
            with self._engine.connect() as connection:
                return action(connection)

        file = self._file
        return self._retry.run(once if file is None else lambda: file.read(once))
