"""Conditions, orders and groups of results as SQL expressions. Values are always bound, never text.

A comparison with a value that a trial lacks does not hold; nothing is neither true nor false.
"""

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    FromClause,
    and_,
    case,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.orm import aliased

from detectors.evaluation.metrics import DUPLICATES, MEASURED, TRAINING, names_of
from gaplab.errors import UserError
from gaplab.ledger.chosen import FACTS
from gaplab.ledger.expression import (
    Comparison,
    Condition,
    Constant,
    Json,
    Junction,
    Name,
    Negation,
    Operator,
    names,
)
from gaplab.ledger.lookup import suggestion
from gaplab.ledger.models import (
    Attempt,
    ChosenEvaluation,
    EpochLosses,
    Evaluation,
    Measurement,
    Setting,
    Trial,
    TrialSection,
)
from gaplab.ledger.settings import number, setting_value, stored_text
from gaplab.ledger.views import METRICS

Column = ColumnElement[Any]

_EVALUATED = dict.fromkeys(each for group in MEASURED.values() for each in group)
MORE = (
    *(n for metric in _EVALUATED for n in names_of(metric) if n not in METRICS),
    *(*DUPLICATES, *TRAINING),
)
"""Metrics of evaluations without a column of their own."""
COSTS: dict[str, Column] = {
    "gpu_hours": func.sum(Attempt.gpu_seconds) / 3600,
    "cpu_hours": func.sum(Attempt.cpu_seconds) / 3600,
    "wall_hours": func.sum(Attempt.wall_seconds) / 3600,
    "peak_memory_mib": func.max(Attempt.peak_memory_mib),
    "attempts": func.count(Attempt.id),
    "parameters": func.max(Attempt.provenance["detector"]["parameters"].as_float()),
}
"""What all attempts at a trial cost together, and the parameters of its detector at inference.
Attempts of earlier releases lack the latter."""
_ALIASES = {"assignment.family": "family"}
"""Names that read like spec keys, but a trial's assignment implies their value."""
_TEXTS = ("assignment", "family", *_ALIASES, "dataset", "branch", "trial", "state")
_KEY = ("trial_id", "epoch", "branch", "protocol", "truth")
_NUMBER: Column = Setting.__table__.c.number
_INT64 = 2**63
_EXACT = 2**53
"""Up to here every integer is a float."""
_SIGNS: dict[Operator, Callable[[Column, Any], ColumnElement[bool]]] = {
    "==": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}


def _further(source: FromClause, key: str) -> Column:
    """Return a metric without a column of its own, of a trial's evaluation or of a measurement."""
    columns = source.c
    same = (getattr(Evaluation, name) == columns[name] for name in _KEY)
    trials = select(Evaluation.more[key].as_float()).where(*same)
    mine = (Measurement.id == columns.trial_id, Measurement.protocol == columns.protocol)
    others = select(Measurement.metrics[key].as_float()).where(*mine)
    return func.coalesce(
        trials.correlate(source).scalar_subquery(), others.correlate(source).scalar_subquery()
    )


def _epochs_to_90(source: FromClause) -> Column:
    """Return the first evaluated epoch with 90 % of the AP of the last one."""
    columns, last = source.c, aliased(ChosenEvaluation)
    alike = ("trial_id", "branch", "protocol", "truth")
    same = [getattr(Evaluation, name) == columns[name] for name in alike]
    same += [getattr(last, name) == columns[name] for name in alike]
    reached = (last.chosen == "last", Evaluation.ap >= SHARE * last.ap)
    first = select(func.min(Evaluation.epoch)).join(last, true()).where(*same, *reached)
    return first.correlate(source).scalar_subquery()


def _score_gap(source: FromClause) -> Column:
    """Return the score gap of the positive points that an epoch trained a branch with."""
    columns = source.c
    own = [
        (columns.branch == branch, EpochLosses.positives[f"{branch}.{SCORE_GAP}"].as_float())
        for branch in BRANCHES
    ]
    same = (EpochLosses.trial_id == columns.trial_id, EpochLosses.epoch == columns.epoch)
    return select(case(*own)).where(*same).correlate(source).scalar_subquery()


BRANCHES = ("o2o", "o2m", "o2f")
"""The values of `detectors.assigners.base.Branch`, whose module imports PyTorch."""
EPOCHS_TO_90, SCORE_GAP = "epochs_to_90", "score_gap"
SHARE = 0.9
"""The share of the last AP that `epochs_to_90` is about."""
COMPUTED: dict[str, Callable[[FromClause], Column]] = {
    EPOCHS_TO_90: _epochs_to_90,
    SCORE_GAP: _score_gap,
}
"""Columns that are computed from several rows of the ledger: how fast a trial learns."""
GFLOPS = "gflops"
"""A column that is computed from the detector of each row shown, outside of the database."""
_ONLY_SHOWN = (
    "is computed for the rows shown, so nothing can be sorted, filtered or grouped by it; use a "
    "metric such as ap, gap or duplicates, a cost such as gpu_hours or parameters, "
    f"{EPOCHS_TO_90}, {SCORE_GAP}, or a key of the spec"
)


def _why_unknown(key: str, known: Iterable[str]) -> str:
    """Return why a name can't be used in a condition, an order or a group."""
    if key == GFLOPS:
        return _ONLY_SHOWN
    return f"no such key; {suggestion(key, known)}"


class Compiler:
    """Compiles names and conditions for one selection of evaluations.

    Args:
        connection: reads which keys there are.
        source: rows with the columns of `chosen_evaluation` except `chosen`.
    """

    def __init__(self, connection: Connection, source: FromClause) -> None:
        self._connection, self._source = connection, source
        self._keys: dict[str, str | None] = {}

    def where(self, conditions: Iterable[Condition]) -> list[ColumnElement[bool]]:
        """Compile conditions. Raises UserError that lists every unknown name.

        No name is unknown to a ledger without trials.
        """
        found = list(conditions)
        lines = [line for each in found for line in self._unknown(each)]
        if lines and self._connection.scalar(select(Setting.key).limit(1)) is not None:
            raise UserError(*lines)
        return [self._condition(each) for each in found]

    def column(self, key: str) -> Column | None:
        """Return the expression of a column, a metric or a cost; None for anything else."""
        columns, key = self._source.c, _ALIASES.get(key, key)
        if key == "state":
            state = select(Trial.state).where(Trial.id == columns.trial_id)
            return func.coalesce(state.correlate(self._source).scalar_subquery(), "succeeded")
        if key in ("trial", *METRICS, *FACTS, "branch", "epoch"):
            found: Column = columns["trial_id" if key == "trial" else key]
            return found
        if key in COSTS:
            cost = select(COSTS[key]).where(Attempt.trial_id == columns.trial_id)
            return cost.correlate(self._source).scalar_subquery()
        if key in COMPUTED:
            return COMPUTED[key](self._source)
        return _further(self._source, key) if key in MORE else None

    def section(self, key: str) -> str | None:
        """Return the name of the section that holds a spec key; None for a column."""
        stored = self.setting(key) if self.column(key) is None else None
        return None if stored is None else stored.partition(".")[0]

    def value(self, key: str) -> Column | None:
        """Return the expression of a column or of the JSON of a spec key; None if it is unknown."""
        if (column := self.column(key)) is not None:
            return column
        if (stored := self.setting(key)) is None:
            return None
        same = (TrialSection.trial_id == self._source.c.trial_id, Setting.key == stored)
        section = TrialSection.name == stored.partition(".")[0]
        query = select(Setting.value).join(
            TrialSection, TrialSection.section_id == Setting.section_id
        )
        return query.where(*same, section).correlate(self._source).scalar_subquery()

    def check(self, keys: Iterable[str]) -> None:
        """Raise UserError that lists every key that is neither a column nor a key of a spec."""
        unknown = [key for key in keys if self.column(key) is None and self.setting(key) is None]
        if unknown:
            known = self.known()
            raise UserError(*(f"{key}: {_why_unknown(key, known)}" for key in unknown))

    def known(self) -> list[str]:
        """Return every name that a condition may hold."""
        columns = ("trial", "state", "branch", "epoch", *METRICS, *FACTS, *COSTS, *MORE, *COMPUTED)
        keys = self._connection.scalars(select(Setting.key).distinct()).all()
        return sorted({*columns, *_ALIASES, *keys})

    def setting(self, key: str) -> str | None:
        """Return the spec key that is `key`, or the only one that ends in it; None if none is."""
        if key not in self._keys:
            query = select(Setting.key).where(Setting.key == key).limit(1)
            self._keys[key] = self._connection.scalar(query) or self._ending(key)
        return self._keys[key]

    def _ending(self, key: str) -> str | None:
        """Return the key that ends in `key` and has the fewest parts, if it is the only one."""
        ends = Setting.key.endswith(f".{key}", autoescape=True)
        found = self._connection.scalars(select(Setting.key).where(ends).distinct()).all()
        fewest = min((each.count(".") for each in found), default=0)
        shortest = [each for each in found if each.count(".") == fewest]
        return shortest[0] if len(shortest) == 1 else None

    def _unknown(self, condition: Condition) -> list[str]:
        """Return a line about each unknown name of a condition."""
        lines = []
        for name in names(condition):
            if self.column(name.key) is None and self.setting(name.key) is None:
                where = f" (in: {name.marked()})" if name.marked() else ""
                lines.append(f"{name.key}: {_why_unknown(name.key, self.known())}{where}")
        return lines

    def _condition(self, condition: Condition) -> ColumnElement[bool]:
        match condition:
            case Junction(all, parts):
                joined = [self._condition(each) for each in parts]
                return and_(true(), *joined) if all else or_(false(), *joined)
            case Negation(part):
                return not_(self._condition(part))
            case Comparison(name, operator, value):
                column = self.column(name.key)
                if isinstance(value, Name):
                    return self._between_names(name, column, operator, value)
                if column is None:
                    return self._of_setting(name, operator, value)
                held = column.is_not(None)
                if name.key in _TEXTS:
                    return and_(held, _compared(name, operator, value, text_equals(column)))
                return and_(held, _compared(name, operator, value, number_equals(column), column))

    def _between_names(
        self, name: Name, column: Column | None, operator: Operator, other: Name
    ) -> ColumnElement[bool]:
        right = self.column(other.key)
        wrong = [
            each.key
            for each, found in ((name, column), (other, right))
            if found is None or each.key in _TEXTS
        ]
        if column is None or right is None or wrong:
            raise UserError(
                f"{_where(name)}: {' and '.join(wrong)}: only two metrics are compared with each "
                "other; write a text in quotes"
            )
        equal = column == right
        signs = {"==": equal, "!=": not_(equal)}
        held = (column.is_not(None), right.is_not(None))
        return and_(
            *held, signs[operator] if operator in signs else _SIGNS[operator](column, right)
        )

    def _of_setting(
        self, name: Name, operator: Operator, value: Constant | tuple[Constant, ...]
    ) -> ColumnElement[bool]:
        held = _compared(name, operator, value, _setting_equals, _NUMBER)
        sections = select(Setting.section_id).where(Setting.key == self.setting(name.key), held)
        trials = select(TrialSection.trial_id).where(TrialSection.section_id.in_(sections))
        return self._source.c.trial_id.in_(trials)


def _compared(
    name: Name,
    operator: Operator,
    value: Constant | tuple[Constant, ...],
    equals: Callable[[Constant], ColumnElement[bool]],
    ordered: Column | None = None,
) -> ColumnElement[bool]:
    """Compile a comparison with constants; `ordered` is what has an order, if anything has."""
    values = value if isinstance(value, tuple) else (value,)
    if operator in ("==", "in"):
        return or_(false(), *map(equals, values))
    if operator in ("!=", "not in"):
        return not_(or_(false(), *map(equals, values)))
    bound = number(values[0])
    if ordered is None or bound is None:
        what = "is text, which has no order" if ordered is None else "is compared with a number"
        raise UserError(f"{_where(name)}: {name.key} {what} by {operator}; write == or in")
    return and_(ordered.is_not(None), _SIGNS[operator](ordered, literal(bound, Double())))


def text_equals(column: Column) -> Callable[[Constant], ColumnElement[bool]]:
    """Return the condition that a column of text equals a constant."""
    return lambda value: (column == str(value)) if isinstance(value, str) else false()


def number_equals(column: Column) -> Callable[[Constant], ColumnElement[bool]]:
    """Return the condition that a column of numbers equals a constant."""

    def equals(value: Constant) -> ColumnElement[bool]:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INT64:
            return column == value
        found = number(value)
        return false() if found is None else column == literal(found, Double())

    return equals


def _setting_equals(value: Constant) -> ColumnElement[bool]:
    if isinstance(value, Json):
        return Setting.value == stored_text(str(value))
    found = number(value)
    if found is None or abs(found) > _EXACT:
        return Setting.value == setting_value(value)
    return and_(Setting.number.is_not(None), Setting.number == found)


def _where(name: Name) -> str:
    return name.marked() or name.text
