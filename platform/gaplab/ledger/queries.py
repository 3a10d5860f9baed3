"""The SELECT statements of the ledger, and the conversion of their rows to views."""

from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    ColumnElement,
    CompoundSelect,
    Label,
    Row,
    ScalarSelect,
    Select,
    SQLColumnExpression,
    Text,
    and_,
    cast,
    func,
    select,
    union,
)
from sqlalchemy.orm import InstrumentedAttribute

from detectors.evaluation.metrics import ClassGap
from gaplab.ledger.clock import UtcText
from gaplab.ledger.models import (
    Attempt,
    EpochLosses,
    Evaluation,
    EvaluationClasses,
    Measurement,
    Protocol,
    Sweep,
    SweepTrial,
    Trial,
)
from gaplab.ledger.views import (
    METRICS,
    PLAIN_EVALUATION,
    AttemptView,
    EpochLossesView,
    EvaluationView,
    RowFilter,
    SweepView,
    TrialView,
)
from gaplab.states import TrialState

Query = Select[*tuple[Any, ...]]
AnyRow = Row[*tuple[Any, ...]]
T = TypeVar("T")

_TRIAL = tuple(
    getattr(Trial, name)
    for name in ("assignment", "family", "dataset", "seed", "epochs", "results_version")
)
_KEY = (
    *(Evaluation.trial_id, Evaluation.epoch, Evaluation.branch, Evaluation.protocol),
    Evaluation.truth,
)


def sweeps(sweep: str | None = None) -> Query:
    """Select all sweeps, newest first, or only `sweep`, with their numbers of trials per state."""
    counts = [func.count().filter(Trial.state == state) for state in TrialState]
    query = (
        select(Sweep.id, Sweep.name, Sweep.spec, Sweep.created_at, *counts)
        .outerjoin(SweepTrial, SweepTrial.sweep_id == Sweep.id)
        .outerjoin(Trial, Trial.id == SweepTrial.trial_id)
        .group_by(Sweep.id)
        .order_by(Sweep.created_at.desc(), Sweep.id)
    )
    return query if sweep is None else query.where(Sweep.id == sweep)


def sweep_view(row: AnyRow) -> SweepView:
    """Convert a row of `sweeps`."""
    counts = dict(zip(TrialState, row[4:], strict=True))
    return SweepView(
        id=row.id, name=row.name, spec=row.spec, created_at=row.created_at, counts=counts
    )


def trials() -> Query:
    """Select every trial, with the settings of the most recent sweep that holds it."""
    return _trials(newest_sweep(SweepTrial.config))


def states(trials: Sequence[str]) -> Query:
    """Select id and state of those of `trials` that are stored."""
    return select(Trial.id, Trial.state).where(Trial.id.in_(trials))


def newest_attempts(trials: Sequence[str]) -> Query:
    """Select the id of the last attempt of each of `trials`."""
    last = func.max(Attempt.id).label("newest")
    query = select(Attempt.trial_id, last).where(Attempt.trial_id.in_(trials))
    return query.group_by(Attempt.trial_id)


def stopped(sweep: str) -> Select[str]:
    """Select the trials whose last attempt was stopped early by the stopping rule of this sweep."""
    mine = (
        Attempt.sweep_id == sweep,
        Attempt.state == TrialState.STOPPED,
        Trial.state == TrialState.STOPPED,
    )
    last = select(func.max(Attempt.number)).where(Attempt.trial_id == Trial.id)
    newest = Attempt.number == last.correlate(Trial).scalar_subquery()
    return select(Trial.id).join(Attempt, Attempt.trial_id == Trial.id).where(*mine, newest)


def trials_of(sweep: str, states: Collection[TrialState] = ()) -> Query:
    """Select the trials of a sweep, in its order; only those in `states` unless it is empty."""
    joined = _trials(SweepTrial.config).join(SweepTrial, SweepTrial.trial_id == Trial.id)
    joined = joined.where(Trial.state.in_(states)) if states else joined
    return joined.where(SweepTrial.sweep_id == sweep).order_by(SweepTrial.position)


def all_trials(sweep: str | None) -> Query:
    """Select the trials of a sweep in its order, or for None every trial by id."""
    return trials().order_by(Trial.id) if sweep is None else trials_of(sweep)


def trial_view(row: AnyRow) -> TrialView:
    """Convert a row of `trials`."""
    return TrialView(**row._mapping)


def attempts(trial: str) -> Query:
    """Select the attempts of a trial, first to last."""
    renamed = {"trial_id": "trial", "sweep_id": "sweep"}
    columns = [c.label(renamed.get(c.key, c.key)) for c in _columns(Attempt) if c.key != "config"]
    query = select(*columns, config_of(Attempt.config)).join(Trial, Trial.id == Attempt.trial_id)
    return query.where(Attempt.trial_id == trial).order_by(Attempt.number)


def attempt_view(row: AnyRow) -> AttemptView:
    """Convert a row of `attempts`."""
    return AttemptView(**row._mapping)


def evaluations(trial: str, truth: str | None) -> Query:
    """Select the evaluations of a trial, by epoch, branch, protocol and ground truth."""
    return all_evaluations(None, truth).where(Evaluation.trial_id == trial)


def all_evaluations(sweep: str | None, truth: str | None, classes: bool = True) -> Query:
    """Select every evaluation, or those of a sweep, with its rule, ordered by its key.

    Only those against one ground truth, unless `truth` is None; with the values of its classes or
    without them.
    """
    query = select(*_columns(Evaluation), Protocol.rule.label("rule"))
    query = query.outerjoin(Protocol, Protocol.id == Evaluation.protocol)
    if classes:
        same = (column == getattr(EvaluationClasses, column.key) for column in _KEY)
        query = query.add_columns(EvaluationClasses.classes)
        query = query.outerjoin(EvaluationClasses, and_(*same))
    return _chosen(query, Evaluation, sweep, truth)


def plain_evaluations(sweep: str | None, truth: str | None) -> Query:
    """Select the columns of every evaluation, or of those of a sweep, without any JSON parsed.

    Ordered and chosen as by `all_evaluations`, with the columns `PLAIN_EVALUATION`.
    """
    changed = {
        "candidates": func.nullif(Evaluation.candidates, ""),
        "matches": func.nullif(Evaluation.matches, ""),
        "created_at": UtcText(Evaluation.created_at),
        "more": cast(Evaluation.more, Text),
    }
    columns = (changed.get(name, getattr(Evaluation, name)) for name in PLAIN_EVALUATION)
    return _chosen(select(*columns), Evaluation, sweep, truth)


def plain_classes(sweep: str | None) -> Query:
    """Select the key of every evaluation, or of those of a sweep, and its classes as JSON text."""
    key = (getattr(EvaluationClasses, column.key) for column in _KEY)
    query = select(*key, cast(EvaluationClasses.classes, Text))
    return _chosen(query, EvaluationClasses, sweep, None)


def _chosen(
    query: Query,
    table: type[Evaluation | EvaluationClasses],
    sweep: str | None,
    truth: str | None,
) -> Query:
    """Add the conditions of `all_evaluations` and its order to a query of one of the tables."""
    if sweep is not None:
        held = select(SweepTrial.trial_id).where(SweepTrial.sweep_id == sweep)
        query = query.where(table.trial_id.in_(held))
    if truth is not None:
        query = query.where(table.truth == truth)
    return query.order_by(*(getattr(table, column.key) for column in _KEY))


def all_losses(sweep: str | None, trial: str | None) -> Query:
    """Select the losses of every epoch, or of those of one sweep or trial, ordered by the key."""
    query = select(*_columns(EpochLosses))
    if sweep is not None:
        held = select(SweepTrial.trial_id).where(SweepTrial.sweep_id == sweep)
        query = query.where(EpochLosses.trial_id.in_(held))
    if trial is not None:
        query = query.where(EpochLosses.trial_id == trial)
    return query.order_by(EpochLosses.trial_id, EpochLosses.epoch)


def losses_view(row: AnyRow) -> EpochLossesView:
    """Convert a row of `all_losses`."""
    return EpochLossesView(row.trial_id, row.epoch, row.losses, row.created_at, row.positives or {})


def stored_files() -> CompoundSelect[str]:
    """Select the paths of candidates and matches, each once."""
    columns = (Evaluation.candidates, Evaluation.matches, Measurement.matches)
    return union(*(select(each).where(each != "") for each in columns))


def evaluation_view(row: AnyRow) -> EvaluationView:
    """Convert a row of `evaluations`."""
    values = row._mapping
    columns = {name: values[name] for name in METRICS if values[name] is not None}
    return EvaluationView(
        trial=row.trial_id,
        epoch=row.epoch,
        branch=row.branch,
        primary=row.is_primary,
        protocol=row.protocol,
        metrics=columns | row.more,
        classes=tuple(ClassGap(**each) for each in values.get("classes") or ()),
        candidates=row.candidates,
        matches=row.matches,
        truth=row.truth,
        rule=row.rule or {},
        attempt=row.attempt_id,
        created_at=row.created_at,
    )


def costs() -> Query:
    """Select the mean costs of first attempts that succeeded; later ones may be partial."""
    key = (Trial.dataset, Trial.assignment, Trial.epochs)
    seconds = (Attempt.wall_seconds, Attempt.cpu_seconds, Attempt.gpu_seconds)
    return (
        select(*key, *(func.avg(each) for each in seconds), func.count())
        .join(Attempt, Attempt.trial_id == Trial.id)
        .where(Attempt.state == TrialState.SUCCEEDED, Attempt.number == 1)
        .group_by(*key)
    )


def coverage(wanted: RowFilter) -> Query:
    """Select which protocols, branches and epochs the trials of `wanted` were evaluated at."""
    key = (Evaluation.protocol, Evaluation.branch)
    query = (
        select(*key, func.min(Evaluation.epoch), func.max(Evaluation.epoch))
        .join(Trial, Trial.id == Evaluation.trial_id)
        .where(Evaluation.truth == wanted.truth)
    )
    if wanted.sweep is not None:
        query = query.join(SweepTrial, _in_sweep(wanted.sweep))
    return query.where(*_trial_conditions(wanted)).group_by(*key).order_by(*key)


def _trials(config: SQLColumnExpression[dict[str, Any] | None]) -> Query:
    return select(Trial.id, *_TRIAL, config_of(config), Trial.state, Trial.created_at)


def config_of(own: SQLColumnExpression[dict[str, Any] | None]) -> Label[dict[str, Any]]:
    """Select a configuration of a sweep or an attempt; where it has none, that of the trial."""
    return func.coalesce(own, Trial.config, type_=JSON).label("config")


def newest_sweep(what: InstrumentedAttribute[T]) -> ScalarSelect[T]:
    """Select something of the most recent sweep that holds the trial of the row."""
    query = select(what).select_from(SweepTrial).join(Sweep, SweepTrial.sweep_id == Sweep.id)
    order = (Sweep.created_at.desc(), Sweep.id.desc())
    mine = query.where(SweepTrial.trial_id == Trial.id).correlate(Trial)
    return mine.order_by(*order).limit(1).scalar_subquery()


def _in_sweep(sweep: str) -> ColumnElement[bool]:
    return and_(SweepTrial.trial_id == Trial.id, SweepTrial.sweep_id == sweep)


def _trial_conditions(wanted: RowFilter) -> list[ColumnElement[bool]]:
    pairs = ((Trial.dataset, wanted.dataset), (Trial.assignment, wanted.assignment))
    chosen = [] if wanted.trials is None else [Trial.id.in_(wanted.trials)]
    return chosen + [column == value for column, value in pairs if value is not None]


def _columns(table: type[Attempt | Evaluation | EpochLosses]) -> list[InstrumentedAttribute[Any]]:
    return [getattr(table, column.key) for column in table.__table__.columns]
