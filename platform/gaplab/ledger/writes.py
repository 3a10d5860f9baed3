"""The ledger's changes, each inside the caller's transaction. See `Ledger` for the rules."""

import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from gaplab.ledger.models import (
    METRICS,
    REQUIRED,
    Attempt,
    Base,
    Checkpoint,
    Evaluation,
    Protocol,
    Sweep,
    SweepTrial,
    Trial,
)
from gaplab.records import AttemptEnd, EvaluationRecord, Machine, SweepRecord, TrialRecord


def add_sweep(connection: Connection, sweep: SweepRecord) -> None:
    """Insert the sweep, its new trials and their positions; what is there stays."""
    now = datetime.now(UTC)
    values = {"id": sweep.id, "name": sweep.name, "spec": sweep.spec, "created_at": now}
    _insert_new(connection, Sweep, [values])
    # In the order of ids, so that two drivers adding the same trials can't wait for each other.
    trials = sorted(sweep.trials, key=lambda trial: trial.id)
    _insert_new(connection, Trial, [_waiting(trial, now) for trial in trials])
    places = [
        {"sweep_id": sweep.id, "trial_id": trial.id, "position": position}
        for position, trial in enumerate(sweep.trials)
    ]
    _insert_new(connection, SweepTrial, places)
    held = connection.scalars(
        select(SweepTrial.trial_id).where(SweepTrial.sweep_id == sweep.id)
    ).all()
    if set(held) != {trial.id for trial in trials}:
        raise ValueError(f"sweep {sweep.id} is in the ledger with other trials")


def start_attempt(
    connection: Connection, trial: str, sweep: str, machine: Machine, driver: str
) -> int:
    """Set the trial running if it may run, and insert its next attempt."""
    free = Trial.state.not_in(("running", "succeeded"))
    claim = update(Trial).where(Trial.id == trial, free).values(state="running")
    if connection.execute(claim).rowcount == 0:
        state = connection.scalar(select(Trial.state).where(Trial.id == trial))
        raise ValueError(f"trial {trial} can't start: it is {state or 'not in the ledger'}")
    number = connection.scalar(
        select(func.coalesce(func.max(Attempt.number), 0) + 1).where(Attempt.trial_id == trial)
    )
    started = {"state": "running", "reason": "", "started_at": datetime.now(UTC)}
    values = {"trial_id": trial, "sweep_id": sweep, "number": number, "driver": driver, **started}
    query = insert(Attempt).values(**values, **vars(machine)).returning(Attempt.id)
    try:
        return connection.execute(query).scalar_one()
    except IntegrityError as error:
        raise ValueError(f"trial {trial} can't start: it is not in sweep {sweep}") from error


def record(connection: Connection, evaluation: EvaluationRecord, attempt: int) -> bool:
    """Insert the evaluation, or the addresses that the one of its key lacks; True if inserted."""
    _check(evaluation)
    _keep_rule(connection, evaluation.protocol, evaluation.rule)
    values = {
        "trial_id": evaluation.trial,
        "epoch": evaluation.epoch,
        "branch": evaluation.branch,
        "protocol": evaluation.protocol,
        "attempt_id": attempt,
        "is_primary": evaluation.primary,
        **_numbers(evaluation),
        "classes": [dict(vars(each)) for each in evaluation.classes],
        "candidates": evaluation.candidates,
        "matches": evaluation.matches,
        "created_at": datetime.now(UTC),
    }
    query = _insert(connection, Evaluation).on_conflict_do_nothing()
    try:
        kept = connection.execute(query.returning(Evaluation.trial_id), values).first()
    except IntegrityError as error:
        raise ValueError(f"attempt {attempt} is not one of trial {evaluation.trial}") from error
    if kept is None:
        _fill(connection, evaluation)
    return kept is not None


def place(evaluation: EvaluationRecord) -> tuple[str, str, int, str]:
    """Where the evaluation stands in the order in which several of them are written."""
    return (evaluation.protocol, evaluation.trial, evaluation.epoch, evaluation.branch)


def add_checkpoint(connection: Connection, trial: str, epoch: int, uri: str) -> None:
    """Insert the checkpoint, or give the one of that epoch its new address."""
    new = {"uri": uri, "created_at": datetime.now(UTC)}
    query = _insert(connection, Checkpoint).values(trial_id=trial, epoch=epoch, **new)
    key = [Checkpoint.trial_id, Checkpoint.epoch]
    try:
        connection.execute(query.on_conflict_do_update(index_elements=key, set_=new))
    except IntegrityError as error:
        raise ValueError(f"trial {trial} is not in the ledger") from error


def end_attempt(connection: Connection, attempt: int, end: AttemptEnd) -> None:
    """Close the attempt if it runs, and set its trial's state."""
    _check_finite(f"attempt {attempt}", vars(end.cost).items())
    values = {"state": end.state, "reason": _one_line(end.reason), "ended_at": datetime.now(UTC)}
    trial = connection.scalar(
        update(Attempt)
        .where(Attempt.id == attempt, Attempt.state == "running")
        .values(**values, **vars(end.cost))
        .returning(Attempt.trial_id)
    )
    if trial is not None:
        connection.execute(update(Trial).where(Trial.id == trial).values(state=end.state))
        return
    state = connection.scalar(select(Attempt.state).where(Attempt.id == attempt))
    if state != end.state:
        raise ValueError(
            f"attempt {attempt} can't end as {end.state}: it is {state or 'not in the ledger'}"
        )


def close_orphans(connection: Connection, driver: str, reason: str) -> list[str]:
    """Mark the driver's running attempts as interrupted; their trials, in the order of ids."""
    orphans = (Attempt.state == "running", Attempt.driver == driver)
    trials = select(Attempt.trial_id).where(*orphans)
    connection.execute(update(Trial).where(Trial.id.in_(trials)).values(state="interrupted"))
    values = {"reason": _one_line(reason), "ended_at": datetime.now(UTC)}
    query = update(Attempt).where(*orphans).values(state="interrupted", **values)
    return sorted(connection.scalars(query.returning(Attempt.trial_id)))


def _keep_rule(connection: Connection, protocol: str, rule: dict[str, Any]) -> None:
    """Insert the rule unless the protocol has one; ValueError if it has another."""
    if not rule:
        return
    new = _as_text(rule)
    query = select(Protocol.rule).where(Protocol.id == protocol)
    known = connection.scalar(query)
    if known is None:
        values = {"id": protocol, "rule": rule, "created_at": datetime.now(UTC)}
        _insert_new(connection, Protocol, [values])
        known = connection.scalar(query)
    if (old := _as_text(known)) != new:
        raise ValueError(
            f"protocol {protocol} is in the ledger with another rule: there {old}, here {new}; "
            "give the new rule a name of its own"
        )


def _as_text(rule: dict[str, Any] | None) -> str:
    return json.dumps(rule, sort_keys=True, allow_nan=False)


def _numbers(evaluation: EvaluationRecord) -> dict[str, Any]:
    """Values of the columns that hold metrics.

    A metric that has a column but no value stands in `more` as well, so that it comes back.
    """
    metrics = {n: None if v is None else float(v) for n, v in evaluation.metrics.items()}
    more = {n: v for n, v in metrics.items() if n not in METRICS or v is None}
    return {name: metrics.get(name) for name in METRICS} | {"more": more}


def _fill(connection: Connection, evaluation: EvaluationRecord) -> None:
    """Give the row of the evaluation's key those of its addresses that are still empty."""
    found = (
        Evaluation.trial_id == evaluation.trial,
        Evaluation.epoch == evaluation.epoch,
        Evaluation.branch == evaluation.branch,
        Evaluation.protocol == evaluation.protocol,
    )
    for name in ("candidates", "matches"):
        if uri := getattr(evaluation, name):
            empty = getattr(Evaluation, name) == ""
            connection.execute(update(Evaluation).where(*found, empty).values({name: uri}))


def _waiting(trial: TrialRecord, now: datetime) -> dict[str, Any]:
    columns = ("config", "assignment", "family", "dataset", "seed", "epochs", "results_version")
    values = {name: getattr(trial, name) for name in columns}
    return {"id": trial.id, **values, "state": "waiting", "created_at": now}


def _insert(connection: Connection, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can deal with a conflict, in the connection's dialect."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def _insert_new(connection: Connection, table: type[Base], values: list[dict[str, Any]]) -> None:
    if values:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), values)


def _check(evaluation: EvaluationRecord) -> None:
    """Raise ValueError unless the required metrics have a value and all values are finite."""
    what = f"evaluation of trial {evaluation.trial}, epoch {evaluation.epoch}"
    if missing := [name for name in REQUIRED if evaluation.metrics.get(name) is None]:
        raise ValueError(f"{what}: no value for {', '.join(missing)}")
    _check_finite(what, evaluation.metrics.items())
    for each in evaluation.classes:
        values = (("ap", each.ap), ("ap_nms", each.ap_nms), ("gap", each.gap))
        _check_finite(f"{what}, class {each.name}", values)


def _check_finite(what: str, values: Iterable[tuple[str, float | None]]) -> None:
    wrong = [name for name, value in values if value is not None and not math.isfinite(value)]
    if wrong:
        raise ValueError(f"{what}: not finite: {', '.join(wrong)}")


def _one_line(text: str) -> str:
    """`text` as a database takes it: one line of valid Unicode, free of NUL."""
    clean = text.encode("utf-8", "replace").decode().replace("\0", " ")
    return " ".join(clean.split())
