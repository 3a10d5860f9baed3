"""Sweeps, evaluations and checkpoints, each change inside the caller's transaction."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningInsert

from detectors.evaluation.metrics import ClassGap, names_of
from gaplab.ledger.chosen import KEY, choose_evaluation
from gaplab.ledger.clock import Clock, now
from gaplab.ledger.models import (
    Base,
    Evaluation,
    EvaluationClasses,
    Protocol,
    Sweep,
    SweepTrial,
    Trial,
)
from gaplab.ledger.settings import add_settings
from gaplab.ledger.statements import insert_new
from gaplab.ledger.statements import insert_of as _insert
from gaplab.ledger.views import METRICS
from gaplab.records import (
    EvaluationRecord,
    SweepRecord,
    TrialRecord,
)
from gaplab.states import TrialState

_EVALUATIONS, _CHECKPOINTS, _LOSSES = (
    Base.metadata.tables[name] for name in ("evaluation", "checkpoint", "epoch_losses")
)
_CHUNK = 5000  # ids in one IN (...): below every database's limit on bound parameters
_UPDATE_CONFIG = (
    update(Base.metadata.tables["sweep_trial"])
    .where(SweepTrial.sweep_id == bindparam("sweep"), SweepTrial.trial_id == bindparam("which"))
    .values(config=bindparam("config"))
)


def add_sweep(connection: Connection, sweep: SweepRecord) -> None:
    """Insert the sweep, its new trials and their positions, or update its spec and settings."""
    values = {"id": sweep.id, "name": sweep.name, "spec": sweep.spec}
    insert_new(connection, Sweep, [values | {"created_at": now(connection)}])
    stored = _trials_of(connection, sweep.id)
    if not stored:
        _append(connection, sweep.id, sweep.trials, 0)
    elif not {trial.id for trial in sweep.trials} <= stored:
        raise ValueError(f"sweep {sweep.id} is in the ledger with other trials")
    elif not sweep.from_ledger:
        _update(connection, sweep)


def _update(connection: Connection, sweep: SweepRecord) -> None:
    """Replace the text of a stored sweep's spec, and the settings of its trials."""
    mine = (Sweep.id == sweep.id, Sweep.spec != sweep.spec)
    connection.execute(update(Sweep).where(*mine).values(spec=sweep.spec))
    query = select(SweepTrial.trial_id, SweepTrial.config).where(SweepTrial.sweep_id == sweep.id)
    before = {row.trial_id: row.config for row in connection.execute(query)}
    after = _own_configs(connection, sweep.trials)
    changed = [
        {"sweep": sweep.id, "which": trial, "config": after[trial]}
        for trial in sorted(after)
        if after[trial] != before[trial]
    ]
    if changed:
        connection.execute(_UPDATE_CONFIG, changed)


def extend_sweep(
    connection: Connection, sweep: str, known: Sequence[str], more: Sequence[TrialRecord]
) -> bool:
    """Append trials to a sweep if `known` are all that it has. Returns whether it did."""
    connection.execute(select(Sweep.id).where(Sweep.id == sweep).with_for_update())
    if _trials_of(connection, sweep) != set(known):
        return False
    _append(connection, sweep, more, len(known))
    return True


def _trials_of(connection: Connection, sweep: str) -> set[str]:
    """Return the ids of a sweep's trials."""
    query = select(SweepTrial.trial_id).where(SweepTrial.sweep_id == sweep)
    return set(connection.scalars(query))


def _append(connection: Connection, sweep: str, trials: Sequence[TrialRecord], first: int) -> None:
    """Insert the trials that are new, and the positions of all, counted from `first`."""
    at = now(connection)
    # In the order of ids, so that two drivers that add the same trials cannot deadlock.
    ordered = sorted(trials, key=lambda trial: trial.id)
    insert_new(connection, Trial, [_trial_row(trial, at) for trial in ordered])
    own = _own_configs(connection, trials, at)
    positions = [
        {"sweep_id": sweep, "trial_id": trial.id, "position": position, "config": own[trial.id]}
        for position, trial in enumerate(trials, first)
    ]
    insert_new(connection, SweepTrial, positions)
    add_settings(connection, {trial.id: trial.config for trial in ordered})


def _own_configs(
    connection: Connection, trials: Sequence[TrialRecord], inserted_at: datetime | None = None
) -> dict[str, dict[str, Any] | None]:
    """Return the configuration of each trial; None where it equals that of the stored trial.

    Trials that were stored at `inserted_at` are equal without comparison.
    """
    ids = [trial.id for trial in trials]
    stored = dict[str, dict[str, Any]]()
    for start in range(0, len(ids), _CHUNK):
        query = select(Trial.id, Trial.config).where(Trial.id.in_(ids[start : start + _CHUNK]))
        if inserted_at is not None:
            query = query.where(Trial.created_at != inserted_at)
        stored |= {row.id: row.config for row in connection.execute(query)}
    configs = {trial.id: trial.config for trial in trials}
    return {
        key: own_config(config, stored[key]) if key in stored else None
        for key, config in configs.items()
    }


def own_config(config: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any] | None:
    """Return a configuration of the same trial as `stored`; None if the two are equal.

    The protocol is that of `stored`: protocols of equal values may differ in their name, and all
    results of a trial are found under one.
    """
    if "evaluation" in config and "protocol" in stored.get("evaluation", {}):
        protocol = {"protocol": stored["evaluation"]["protocol"]}
        config = config | {"evaluation": config["evaluation"] | protocol}
    return None if config == stored else config


def record(connection: Connection, evaluation: EvaluationRecord, attempt: int) -> bool:
    """Insert the evaluation, or add what the stored one lacks. Returns whether it is new."""
    _check(evaluation)
    check_rule(connection, evaluation.protocol, evaluation.rule)
    values = {
        "trial_id": evaluation.trial,
        "epoch": evaluation.epoch,
        "branch": evaluation.branch,
        "protocol": evaluation.protocol,
        "truth": evaluation.truth,
        "attempt_id": attempt,
        "is_primary": evaluation.primary,
        **_metric_columns(evaluation),
        "candidates": evaluation.candidates,
        "matches": evaluation.matches,
    }
    try:
        kept = connection.execute(_evaluation_insert(connection.dialect.name), values).first()
    except IntegrityError as error:
        raise ValueError(f"attempt {attempt} is not one of trial {evaluation.trial}") from error
    if kept is None:
        _complete(connection, evaluation)
        return False
    key = {name: values[name] for name in KEY}
    classes = [dict(vars(each)) for each in evaluation.classes]
    connection.execute(insert(EvaluationClasses), key | {"classes": classes})
    choose_evaluation(connection, key)
    return True


@cache
def _evaluation_insert(dialect: str) -> ReturningInsert[str]:
    """Build the statement that inserts an evaluation if its key is new; once, as it is slow."""
    query = _insert(dialect, _EVALUATIONS).values(created_at=Clock())
    return query.on_conflict_do_nothing().returning(_EVALUATIONS.c.trial_id)


@cache
def _checkpoint_insert(dialect: str) -> Insert:
    """Build the statement that inserts a checkpoint or replaces the URI of the stored one."""
    query = _insert(dialect, _CHECKPOINTS).values(created_at=Clock())
    new = {"uri": query.excluded.uri, "created_at": query.excluded.created_at}
    return query.on_conflict_do_update(index_elements=["trial_id", "epoch"], set_=new)


def write_order(e: EvaluationRecord) -> tuple[str, str, str, str, int]:
    """Return the sort key by which every writer orders the evaluations of one transaction."""
    return (e.protocol, e.trial, e.branch, e.truth, e.epoch)


def add_checkpoint(connection: Connection, trial: str, epoch: int, uri: str) -> None:
    """Insert the checkpoint, or replace the URI of the one of the same epoch."""
    try:
        values = {"trial_id": trial, "epoch": epoch, "uri": uri}
        connection.execute(_checkpoint_insert(connection.dialect.name), values)
    except IntegrityError as error:
        raise ValueError(f"trial {trial} is not in the ledger") from error


def add_losses(
    connection: Connection,
    trial: str,
    losses: Mapping[int, Mapping[str, float]],
    positives: Mapping[int, Mapping[str, float]],
) -> None:
    """Insert the losses of epochs, with their positives; those that are stored already stay.

    Raises:
        ValueError: a value is not finite.
    """
    for epoch, values in sorted(losses.items()):
        more = positives.get(epoch, {})
        check_finite(f"losses of epoch {epoch} of trial {trial}", values.items())
        check_finite(f"positives of epoch {epoch} of trial {trial}", more.items())
        row = {"trial_id": trial, "epoch": epoch, "losses": dict(values), "positives": dict(more)}
        connection.execute(_losses_insert(connection.dialect.name), row)


@cache
def _losses_insert(dialect: str) -> Insert:
    """Build the statement that inserts the losses of an epoch unless there are some."""
    return _insert(dialect, _LOSSES).values(created_at=Clock()).on_conflict_do_nothing()


_RULE = select(Protocol.rule).where(Protocol.id == bindparam("which"))


def check_rule(connection: Connection, protocol: str, rule: dict[str, Any]) -> None:
    """Insert the rule if the protocol has none. Raises ValueError if it has another."""
    if not rule:
        return
    new = _to_json(rule)
    known = connection.scalar(_RULE, {"which": protocol})
    if known is None:
        values = {"id": protocol, "rule": rule, "created_at": now(connection)}
        insert_new(connection, Protocol, [values])
        known = connection.scalar(_RULE, {"which": protocol})
    if (old := _to_json(known)) != new:
        raise ValueError(
            f"protocol {protocol} is in the ledger with another rule: there {old}, here {new}; "
            "give the new rule another name"
        )


def _to_json(rule: dict[str, Any] | None) -> str:
    """Return JSON with sorted keys. `identity.canonical` would import pydantic for every reader."""
    return json.dumps(rule, sort_keys=True, allow_nan=False)


def _metric_columns(evaluation: EvaluationRecord) -> dict[str, Any]:
    """Return the values of the columns that hold metrics.

    A metric with a column but no value is stored in `more` as well: NULL alone means not measured.
    """
    metrics = {n: None if v is None else float(v) for n, v in evaluation.metrics.items()}
    more = {n: v for n, v in metrics.items() if n not in METRICS or v is None}
    return {name: metrics.get(name) for name in METRICS} | {"more": more}


def _complete(connection: Connection, evaluation: EvaluationRecord) -> None:
    """Set the URIs of the stored evaluation that are empty, and add the metrics that it lacks.

    Metrics with a column stay as they are: every release has measured them.
    """
    found = (
        Evaluation.trial_id == evaluation.trial,
        Evaluation.epoch == evaluation.epoch,
        Evaluation.branch == evaluation.branch,
        Evaluation.protocol == evaluation.protocol,
        Evaluation.truth == evaluation.truth,
    )
    for name in ("candidates", "matches"):
        if uri := getattr(evaluation, name):
            empty = getattr(Evaluation, name) == ""
            connection.execute(update(Evaluation).where(*found, empty).values({name: uri}))
    stored = connection.scalars(select(Evaluation.more).where(*found).with_for_update()).one()
    new = {n: v for n, v in _metric_columns(evaluation)["more"].items() if n not in METRICS}
    if not new.keys() <= stored.keys():
        connection.execute(update(Evaluation).where(*found).values(more=new | stored))


def _trial_row(trial: TrialRecord, at: datetime) -> dict[str, Any]:
    columns = ("config", "assignment", "family", "dataset", "seed", "epochs", "results_version")
    values = {name: getattr(trial, name) for name in columns}
    return {"id": trial.id, **values, "state": TrialState.WAITING, "created_at": at}


def _check(evaluation: EvaluationRecord) -> None:
    """Raise ValueError unless all required metrics have a value and all values are finite."""
    what = f"evaluation of trial {evaluation.trial}, epoch {evaluation.epoch}"
    check_metrics(what, evaluation.metrics, evaluation.classes)


def check_metrics(
    what: str, metrics: Mapping[str, float | None], classes: Iterable[ClassGap]
) -> None:
    """Raise ValueError unless all required metrics have a value and all values are finite."""
    if missing := [name for name in names_of("ap") if metrics.get(name) is None]:
        raise ValueError(f"{what}: no value for {', '.join(missing)}")
    check_finite(what, metrics.items())
    for each in classes:
        values = (("ap", each.ap), ("ap_nms", each.ap_nms), ("gap", each.gap))
        check_finite(f"{what}, class {each.name}", values)


def check_finite(what: str, values: Iterable[tuple[str, float | None]]) -> None:
    """Raise ValueError naming the values that are not finite. None is allowed."""
    wrong = [name for name, value in values if value is not None and not math.isfinite(value)]
    if wrong:
        raise ValueError(f"{what}: not finite: {', '.join(wrong)}")
