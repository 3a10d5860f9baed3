"""The ledger's changes, each inside the caller's transaction. See `Ledger` for the rules."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from gaplab.ledger.models import (
    METRICS,
    Attempt,
    Base,
    Checkpoint,
    Evaluation,
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
    """Insert the evaluation unless its key is there; True if it was inserted."""
    _check(evaluation)
    values = {
        "trial_id": evaluation.trial,
        "epoch": evaluation.epoch,
        "branch": evaluation.branch,
        "protocol": evaluation.protocol,
        "attempt_id": attempt,
        "is_primary": evaluation.primary,
        "classes": [dict(vars(each)) for each in evaluation.classes],
        "created_at": datetime.now(UTC),
    } | {name: float(value) for name, value in evaluation.metrics.items()}
    query = _insert(connection, Evaluation).on_conflict_do_nothing()
    try:
        kept = connection.execute(query.returning(Evaluation.trial_id), values).first()
    except IntegrityError as error:
        raise ValueError(f"attempt {attempt} is not one of trial {evaluation.trial}") from error
    return kept is not None


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
    """Raise ValueError unless exactly the known metrics are there, all of them finite."""
    what = f"evaluation of trial {evaluation.trial}, epoch {evaluation.epoch}"
    if wrong := set(METRICS) ^ evaluation.metrics.keys():
        raise ValueError(f"{what}: missing or unknown metrics {sorted(wrong)}")
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
