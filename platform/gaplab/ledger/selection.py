"""Rows of results: filtered, sorted, grouped and cut in SQL, one evaluation per trial and branch.

Everything is computed on `chosen_evaluation`, or for a given epoch on the columns of `evaluation`
that it copies; configurations and other metrics are read for the returned rows only.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    and_,
    case,
    func,
    literal,
    or_,
    select,
)

from detectors.evaluation.metrics import LOWER_IS_BETTER
from gaplab.ledger.chosen import CHOSEN, FACTS, KEY
from gaplab.ledger.conditions import COSTS, EPOCHS_TO_90, Compiler
from gaplab.ledger.grouping import Grouping
from gaplab.ledger.models import (
    Attempt,
    ChosenEvaluation,
    Evaluation,
    Setting,
    Sweep,
    SweepTrial,
    Trial,
    TrialSection,
)
from gaplab.ledger.queries import AnyRow, Query, config_of, newest_sweep
from gaplab.ledger.views import METRICS, GpuHours, GroupView, Order, RowFilter

_OWN = (*KEY, "is_primary", *METRICS)
_COMPLETE = ("ap", "ap_nms", "gap", *FACTS, "epoch", "trial", "branch")
"""Columns that every row has, which an index can therefore sort by in both directions."""
_INSTRUCTIONS = case(
    (
        Attempt.device == "cpu",
        func.coalesce(Attempt.provenance["torch"]["cpu_capability"].as_string(), ""),
    ),
    else_="",
).label("instructions")


COST = "cost"
"""Stands for `gpu_hours` in a ledger with a GPU, otherwise for `cpu_hours`."""


class Selection:
    """The evaluations that match a filter.

    Args:
        connection: a connection in a transaction.
        wanted: the filter.

    Raises:
        UserError: a condition or an order has an unknown name.
    """

    def __init__(self, connection: Connection, wanted: RowFilter) -> None:
        self._connection, self._wanted = connection, _with_cost(connection, wanted)
        self._source = _source(wanted)
        self._compiler = Compiler(connection, self._source)
        self._conditions = self._compiler.where(wanted.where)

    def rows(self) -> list[AnyRow]:
        """Return the rows with the fields of ResultRow; those of measurements lack some."""
        page = self._page()
        mine = and_(*(getattr(Evaluation, name) == page.c[name] for name in KEY))
        sweep = self._wanted.sweep
        own = newest_sweep(Sweep.id) if sweep is None else literal(sweep)
        query = (
            select(
                *(page.c.trial_id.label("trial"), Sweep.id.label("sweep")),
                *(Sweep.name.label("sweep_name"), config_of(Attempt.config), Trial.state),
                *(page.c[name] for name in (*FACTS, *KEY[1:], *METRICS)),
                *(Evaluation.more, Evaluation.candidates, Evaluation.matches, _INSTRUCTIONS),
            )
            .select_from(page)
            .outerjoin(Evaluation, mine)
            .outerjoin(Trial, Trial.id == page.c.trial_id)
            .outerjoin(Attempt, Attempt.id == Evaluation.attempt_id)
            .outerjoin(Sweep, Sweep.id == own)
        )
        if self._wanted.order is not None:
            query = query.order_by(*self._order(page, page.c.first))
        return list(self._connection.execute(query).all())

    def count(self) -> int:
        """Return the number of matching evaluations, whatever `top` is."""
        query = select(func.count()).select_from(self._source).where(*self._conditions)
        return int(self._connection.scalar(query) or 0)

    def counts(self) -> list[int]:
        """Return how many evaluations match none, the first, the first two, ... conditions."""
        found = []
        for number in range(len(self._conditions) + 1):
            query = select(func.count()).select_from(self._source)
            query = query.where(*self._conditions[:number])
            found.append(int(self._connection.scalar(query) or 0))
        return found

    def groups(self, keys: Sequence[str], order: Order) -> list[GroupView]:
        """Return the groups of evaluations with equal values of `keys`, sorted by a mean."""
        grouping = self.grouping(keys)
        found = self._connection.execute(grouping.query()).all()
        groups = [grouping.view(row) for row in found]
        place = 1 if order.descending else -1
        worst = (float("-inf"), None)
        groups.sort(key=lambda each: -place * each.stats.get(order.key, worst)[0])
        return groups[: self._wanted.top]

    def grouping(self, keys: Sequence[str]) -> Grouping:
        """Return the groups of evaluations by these keys. Raises UserError for an unknown one."""
        return Grouping(self._compiler, self._source, self._conditions, keys)

    def sections(self, limit: int) -> dict[str, list[dict[str, str]]]:
        """Return distinct sections of the matching trials' configurations, by their name.

        Args:
            limit: how many sections of one name are read at most.

        Returns:
            For each name with several sections their values by key.
        """
        held: dict[str, list[str]] = {}
        for section, name in sorted(set(map(tuple, self._connection.execute(self._sections())))):
            held.setdefault(name, []).append(section)
        found: dict[str, list[dict[str, str]]] = {}
        for name, sections in held.items():
            if len(sections) > 1:
                found[name] = list(self._values(sections[:limit]).values())
        return found

    def _sections(self) -> Query:
        """Select the id and the name of each section of the matching trials, the seed apart."""
        held, wanted = TrialSection.name != "seed", self._wanted
        narrow = (wanted.where, wanted.sweep, wanted.dataset, wanted.assignment, wanted.trials)
        if any(narrow) or wanted.epoch not in CHOSEN:
            trials = select(self._source.c.trial_id).where(*self._conditions)
            query = select(TrialSection.section_id, TrialSection.name).distinct()
            return query.where(held, TrialSection.trial_id.in_(trials))
        # Nearly every trial matches, so the first one of a section is found at once.
        known = select(Setting.section_id).distinct().subquery()
        # EXISTS, not a join: joined, SQLite may begin with the 100,000 rows of the other side.
        match = select(literal(1)).where(self._source.c.trial_id == TrialSection.trial_id)
        name = select(TrialSection.name).limit(1)
        name = name.where(held, TrialSection.section_id == known.c.section_id, match.exists())
        found = select(known.c.section_id, name.correlate(known).scalar_subquery().label("name"))
        pairs = found.subquery()
        return select(pairs).where(pairs.c.name.is_not(None))

    def values(self, key: str) -> list[Any]:
        """Return the distinct values of a column."""
        column = self._compiler.column(key)
        assert column is not None
        query = select(column).where(*self._conditions).distinct()
        return list(self._connection.scalars(query).all())

    def _values(self, sections: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the values of each section, by key."""
        found: dict[str, dict[str, str]] = {}
        query = select(Setting.section_id, Setting.key, Setting.value)
        for row in self._connection.execute(query.where(Setting.section_id.in_(sections))):
            found.setdefault(row.section_id, {})[row.key] = row.value
        return found

    def _page(self) -> Subquery:
        """Return the rows to show, with what they are sorted by."""
        columns = [self._source.c[name] for name in (*_OWN, *FACTS)]
        query = select(*columns).where(*self._conditions)
        if self._wanted.order is None:
            return query.subquery("page")
        first, rows = self._value(self._wanted.order.key), self._source
        query = query.add_columns(first.label("first"))
        if self._wanted.pareto:
            query, rows = self._frontier(query, *self._wanted.pareto)
            first = rows.c.first
        if self._wanted.top is not None:
            query = query.order_by(*self._order(rows, first)).limit(self._wanted.top)
        return query.subquery("page")

    def _frontier(self, query: Query, one: str, other: str) -> tuple[Query, Subquery]:
        """Select the rows that no other row beats in both of two values.

        Sorted by the second, these are the rows whose first value is better than all before.
        """
        a, b = self._value(one), self._value(other)
        best, order = default_order(one), default_order(other)
        sign = 1 if best.descending else -1
        held = query.add_columns((sign * a).label("a"), b.label("b")).where(
            a.is_not(None), b.is_not(None)
        )
        every = held.subquery()
        second = every.c.b.desc() if order.descending else every.c.b.asc()
        before = func.max(every.c.a).over(order_by=[second, every.c.a.desc()], rows=(None, -1))
        ranked = select(every, before.label("before")).subquery()
        names = (*_OWN, *FACTS, "first")
        better = or_(ranked.c.before.is_(None), ranked.c.a > ranked.c.before)
        return select(*(ranked.c[name] for name in names)).where(better), ranked

    def _value(self, key: str) -> ColumnElement[Any]:
        """Return the expression of a name. Raises UserError if it is unknown."""
        self._compiler.check([key])
        found = self._compiler.value(key)
        assert found is not None
        return found

    def _order(self, rows: Subquery, first: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        """Return the order of rows: by `first`, then by AP without NMS, then by trial."""
        assert self._wanted.order is not None
        key, descending = self._wanted.order
        main = first.desc() if descending else first.asc()
        ties = [rows.c.ap.desc()] if key != "ap" else []
        return [main if key in _COMPLETE else main.nulls_last(), *ties, rows.c.trial_id.asc()]


def default_order(key: str) -> Order:
    """Return the order that puts the best rows first."""
    lower = key in (*COSTS, EPOCHS_TO_90) or key.removesuffix("_nms") in LOWER_IS_BETTER
    return Order(key, descending=not lower)


def _with_cost(connection: Connection, wanted: RowFilter) -> RowFilter:
    """Return the filter with the column that `cost` stands for."""
    order, pareto = wanted.order, wanted.pareto or ()
    if COST not in (order and order.key, *pareto):
        return wanted
    used = connection.scalar(select(Attempt.id).where(Attempt.gpu_seconds > 0).limit(1))
    name = "cpu_hours" if used is None else "gpu_hours"
    if order and order.key == COST:
        wanted = replace(wanted, order=default_order(name))
    if len(pareto) == 2:
        one, other = (name if each == COST else each for each in pareto)
        wanted = replace(wanted, pareto=(one, other))
    return wanted


def costs(trials: Sequence[str]) -> Query:
    """Select what all attempts at each of `trials` cost together."""
    columns = (value.label(name) for name, value in COSTS.items())
    query = select(Attempt.trial_id, *columns).where(Attempt.trial_id.in_(trials))
    return query.group_by(Attempt.trial_id)


def epochs_reaching(share: float, trials: Sequence[str], wanted: RowFilter) -> Query:
    """Select the first evaluated epoch at which a trial has this share of its last AP."""
    last, alike = ChosenEvaluation, ("trial_id", "branch", "protocol", "truth")
    same = (getattr(last, name) == getattr(Evaluation, name) for name in alike)
    query = select(
        Evaluation.trial_id, Evaluation.branch, func.min(Evaluation.epoch).label("first")
    )
    query = query.join(last, and_(*same, last.chosen == "last", Evaluation.ap >= share * last.ap))
    query = query.where(
        Evaluation.trial_id.in_(trials),
        Evaluation.protocol == wanted.protocol,
        Evaluation.truth == wanted.truth,
    )
    return query.group_by(Evaluation.trial_id, Evaluation.branch)


def _source(wanted: RowFilter) -> Subquery:
    """Select at most one evaluation per trial and branch, before the conditions."""
    if wanted.epoch in CHOSEN:
        query = _select_chosen(wanted)
    elif isinstance(wanted.epoch, GpuHours):
        query = _select_within(wanted, wanted.epoch.hours)
    else:
        query = _select_evaluations(wanted).where(Evaluation.epoch == wanted.epoch)
    return query.subquery("source")


def _select_chosen(wanted: RowFilter) -> Query:
    table = ChosenEvaluation
    query = select(*(getattr(table, name) for name in (*_OWN, *FACTS)))
    measured = table.epochs == 0
    truth = table.truth == wanted.truth
    if not wanted.truth:
        truth = or_(truth, measured)
    kind = [] if wanted.any_trial else [table.epochs > 0]
    query = query.where(table.chosen == wanted.epoch, truth, *kind)
    return _narrowed(query, table, table, wanted)


def _select_evaluations(wanted: RowFilter) -> Query:
    facts = (getattr(Trial, name) for name in FACTS)
    query = select(*(getattr(Evaluation, name) for name in _OWN), *facts)
    query = query.join(Trial, Trial.id == Evaluation.trial_id)
    query = query.where(Evaluation.truth == wanted.truth)
    return _narrowed(query, Evaluation, Trial, wanted)


def _select_within(wanted: RowFilter, hours: float) -> Query:
    """Select the last evaluations within so many GPU-hours of their trial."""
    seconds = select(func.sum(Attempt.gpu_seconds)).where(Attempt.trial_id == Evaluation.trial_id)
    total = func.coalesce(seconds.correlate(Evaluation).scalar_subquery(), 0.0)
    last, alike = ChosenEvaluation, ("trial_id", "branch", "protocol", "truth")
    same = (getattr(last, name) == getattr(Evaluation, name) for name in alike)
    query = _select_evaluations(wanted).join(last, and_(*same, last.chosen == "last"))
    place = func.row_number().over(
        partition_by=(Evaluation.trial_id, Evaluation.branch), order_by=Evaluation.epoch.desc()
    )
    query = query.where(Evaluation.epoch * total <= hours * 3600 * last.epoch)
    ranked = query.add_columns(place.label("place")).subquery()
    return select(*(ranked.c[name] for name in (*_OWN, *FACTS))).where(ranked.c.place == 1)


def _narrowed(
    query: Select[*tuple[Any, ...]], key: Any, facts: Any, wanted: RowFilter
) -> Select[*tuple[Any, ...]]:
    """Add the conditions that need no compilation."""
    query = query.where(key.protocol == wanted.protocol)
    query = query.where(key.is_primary if wanted.branch is None else key.branch == wanted.branch)
    for name in ("dataset", "assignment"):
        if (value := getattr(wanted, name)) is not None:
            query = query.where(getattr(facts, name) == value)
    if wanted.trials is not None:
        query = query.where(key.trial_id.in_(wanted.trials))
    if wanted.sweep is not None:
        held = select(SweepTrial.trial_id).where(SweepTrial.sweep_id == wanted.sweep)
        query = query.where(key.trial_id.in_(held))
    return query
