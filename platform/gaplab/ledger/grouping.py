"""Groups of results: counts, means and deviations of evaluations with equal values of some keys."""

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Subquery,
    and_,
    case,
    distinct,
    func,
    select,
)
from sqlalchemy.orm import aliased

from gaplab.ledger.conditions import Compiler
from gaplab.ledger.models import Setting, Trial, TrialSection
from gaplab.ledger.queries import AnyRow, Query
from gaplab.ledger.settings import value_of
from gaplab.ledger.views import GroupView
from gaplab.states import TrialState

GROUPED = ("ap", "ap_nms", "gap", "ar")
"""Metrics whose mean and deviation a group has."""
_APART = ("dataset", "epochs", "results_version")
"""Columns of which a group never mixes two values."""
_SUMS = ("unfinished", *(f"{name}_{at}" for name in GROUPED for at in range(3)))
"""Columns of a part of a group: unfinished trials; count, sum and sum of squares of metrics."""


class Grouping:
    """Evaluations in groups.

    Args:
        compiler: compiles keys for the evaluations.
        source: the evaluations.
        conditions: those that a grouped evaluation meets.
        keys: keys of the spec or columns.

    Raises:
        UserError: a key is unknown.
    """

    def __init__(
        self,
        compiler: Compiler,
        source: Subquery,
        conditions: Sequence[ColumnElement[bool]],
        keys: Sequence[str],
    ) -> None:
        compiler.check(keys)
        self._compiler, self._source, self._conditions = compiler, source, conditions
        self._keys = [*dict.fromkeys(keys)]
        sections = [section for key in self._keys if (section := compiler.section(key)) is not None]
        self._sections = [*dict.fromkeys(sections)]

    def query(self) -> Query:
        """Select the values of the keys, columns that are kept apart, counts and sums.

        Evaluations are first added up by the sections that hold the keys, which are few, and by
        seed: so values are looked up for few rows, and neither database sorts all evaluations.
        """
        parts = self._parts().subquery("parts")
        values = [self._value(parts, key).label(f"key{at}") for at, key in enumerate(self._keys)]
        rest = (parts.c[name] for name in (*_APART, "seed", "trials", *_SUMS))
        named = select(*values, *rest).subquery("named")
        by = [*(named.c[each.key] for each in values), *(named.c[name] for name in _APART)]
        counts = (func.sum(named.c.trials), func.count(distinct(named.c.seed)))
        return select(*by, *counts, *(func.sum(named.c[name]) for name in _SUMS)).group_by(*by)

    def view(self, row: AnyRow) -> GroupView:
        """Convert a row of `query`."""
        apart = len(self._keys) + len(_APART)
        values = dict(zip((*self._keys, *_APART), row[:apart], strict=True))
        for key in self._keys:
            if self._compiler.section(key) is not None:
                values[key] = value_of(values[key])
        trials, seeds, unfinished = map(int, row[apart : apart + 3])  # PostgreSQL adds to decimals
        stats = {}
        for at, name in enumerate(GROUPED):
            count, total, squares = row[apart + 3 + 3 * at : apart + 6 + 3 * at]
            if count == trials:
                mean = total / trials
                stats[name] = (mean, _deviation(trials, mean, squares / trials))
        return GroupView(values, trials, seeds, unfinished, stats)

    def _parts(self) -> Query:
        """Select counts and sums of evaluations, by keys or their sections, and by seed."""
        by, rows = list[ColumnElement[Any]](), self._source
        joined: FromClause = rows
        for at, name in enumerate(self._sections):
            part = aliased(TrialSection)
            mine = and_(part.trial_id == rows.c.trial_id, part.name == name)
            joined = joined.outerjoin(part, mine)
            by.append(part.section_id.label(f"section{at}"))
        for at, key in enumerate(self._keys):
            if (column := self._compiler.column(key)) is not None:
                by.append(column.label(f"column{at}"))
        by += [rows.c[name] for name in (*_APART, "seed")]
        query = select(*by, func.count().label("trials"), *self._sums()).select_from(joined)
        return query.where(*self._conditions).group_by(*by)

    def _sums(self) -> list[ColumnElement[Any]]:
        """Return the expressions of `_SUMS`."""
        others = [state for state in TrialState if state is not TrialState.SUCCEEDED]
        unfinished = select(Trial.id).where(Trial.state.in_(others))  # found by an index
        flag = case((self._source.c.trial_id.in_(unfinished), 1), else_=0)
        found: list[ColumnElement[Any]] = [func.sum(flag)]
        for name in GROUPED:
            column = self._source.c[name]
            found += [func.count(column), func.sum(column), func.sum(column * column)]
        return [each.label(name) for each, name in zip(found, _SUMS, strict=True)]

    def _value(self, parts: Subquery, key: str) -> ColumnElement[Any]:
        """Return the value of a key in a row of `_parts`."""
        section = self._compiler.section(key)
        if section is None:
            return parts.c[f"column{self._keys.index(key)}"]
        held = Setting.section_id == parts.c[f"section{self._sections.index(section)}"]
        query = select(Setting.value).where(held, Setting.key == self._compiler.setting(key))
        return query.correlate(parts).scalar_subquery()


def _deviation(count: int, mean: float, square: float) -> float | None:
    """Return the sample standard deviation from the means of values and of their squares."""
    if count < 2:
        return None
    return math.sqrt(max(square - mean * mean, 0.0) * count / (count - 1))
