"""The ledger's changes, each inside the caller's transaction. See `Ledger` for the rules."""

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from gaplab.ledger.clock import now
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
from gaplab.lifecycle import CLAIMABLE
from gaplab.records import (
    AttemptEnd,
    Claim,
    Cost,
    EvaluationRecord,
    Started,
    SweepRecord,
    TrialRecord,
)


class ClaimError(ValueError):
    """A trial that can't be claimed, or an attempt that is over: `state` is what it is in now."""

    def __init__(self, text: str, state: str | None) -> None:
        super().__init__(text)
        self.state = state


def add_sweep(connection: Connection, sweep: SweepRecord) -> None:
    """Insert the sweep, its new trials and their positions; what is there stays."""
    values = {"id": sweep.id, "name": sweep.name, "spec": sweep.spec}
    insert_new(connection, Sweep, [values | {"created_at": now(connection)}])
    held = _held(connection, sweep.id)
    if not held:
        _append(connection, sweep.id, sweep.trials, 0)
    elif not {trial.id for trial in sweep.trials} <= held:
        raise ValueError(f"sweep {sweep.id} is in the ledger with other trials")


def extend_sweep(
    connection: Connection, sweep: str, known: Sequence[str], more: Sequence[TrialRecord]
) -> bool:
    """Append trials to a sweep if `known` are all that it has."""
    connection.execute(select(Sweep.id).where(Sweep.id == sweep).with_for_update())
    if _held(connection, sweep) != set(known):
        return False
    _append(connection, sweep, more, len(known))
    return True


def _held(connection: Connection, sweep: str) -> set[str]:
    """The trials of a sweep."""
    query = select(SweepTrial.trial_id).where(SweepTrial.sweep_id == sweep)
    return set(connection.scalars(query))


def _append(connection: Connection, sweep: str, trials: Sequence[TrialRecord], first: int) -> None:
    """Insert the trials that are new, and the places of all, from `first` on."""
    at = now(connection)
    # In the order of ids, so that two drivers adding the same trials can't wait for each other.
    ordered = sorted(trials, key=lambda trial: trial.id)
    insert_new(connection, Trial, [_waiting(trial, at) for trial in ordered])
    places = [
        {"sweep_id": sweep, "trial_id": trial.id, "position": position}
        for position, trial in enumerate(trials, first)
    ]
    insert_new(connection, SweepTrial, places)


def start_attempt(connection: Connection, claim: Claim) -> int:
    """Set the trial running if it may run, and insert its next attempt; the same claim once."""
    said = select(Attempt.id).where(Attempt.token == claim.token)
    if (known := connection.scalar(said)) is not None:
        return known
    free = Trial.state.in_(CLAIMABLE)
    running = update(Trial).where(Trial.id == claim.trial, free).values(state="running")
    if connection.execute(running).rowcount == 0:
        # Cut off while it was committed and said again, the claim has waited for itself.
        if (known := connection.scalar(said)) is not None:
            return known
        state = connection.scalar(select(Trial.state).where(Trial.id == claim.trial))
        raise ClaimError(
            f"trial {claim.trial} can't start: it is {state or 'not in the ledger'}", state
        )
    number = connection.scalar(
        select(func.coalesce(func.max(Attempt.number), 0) + 1).where(
            Attempt.trial_id == claim.trial
        )
    )
    _check_newest(connection, claim)
    key = {"trial_id": claim.trial, "sweep_id": claim.sweep, "number": number}
    values = {"driver": claim.driver, "token": claim.token, **vars(claim.machine)}
    empty = {"reason": "", "fault": "", "notes": [], "provenance": {}}
    started = {"state": "running", "started_at": now(connection)}
    query = insert(Attempt).values(**key, **values, **empty, **started).returning(Attempt.id)
    try:
        return connection.execute(query).scalar_one()
    except IntegrityError as error:
        raise ValueError(
            f"trial {claim.trial} can't start: it is not in sweep {claim.sweep}"
        ) from error


def _check_newest(connection: Connection, claim: Claim) -> None:
    newest = connection.scalar(select(func.max(Attempt.id)).where(Attempt.trial_id == claim.trial))
    if claim.after is not None and (newest or 0) > claim.after:
        state = connection.scalar(select(Attempt.state).where(Attempt.id == newest))
        raise ClaimError(f"trial {claim.trial} was attempted meanwhile: it is {state}", state)


def begin_attempt(connection: Connection, attempt: int, started: Started) -> None:
    """Note where and with what a claimed attempt runs."""
    about = {"notes": list(started.notes), "provenance": started.provenance}
    _hold(connection, attempt, **vars(started.machine), **about)


def note_cost(connection: Connection, attempt: int, cost: Cost) -> None:
    """What a running attempt has cost so far."""
    _check_finite(f"attempt {attempt}", vars(cost).items())
    _hold(connection, attempt, **vars(cost))


def _hold(connection: Connection, attempt: int, **values: Any) -> None:
    """Write `values` into the row of a running attempt and keep it from ending meanwhile."""
    query = update(Attempt).where(Attempt.id == attempt, Attempt.state == "running")
    if connection.execute(query.values(**values)).rowcount == 0:
        state = connection.scalar(select(Attempt.state).where(Attempt.id == attempt))
        raise ClaimError(f"attempt {attempt} is over: it is {state or 'not in the ledger'}", state)


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
        "created_at": now(connection),
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
    new = {"uri": uri, "created_at": now(connection)}
    query = _insert(connection, Checkpoint).values(trial_id=trial, epoch=epoch, **new)
    key = [Checkpoint.trial_id, Checkpoint.epoch]
    try:
        connection.execute(query.on_conflict_do_update(index_elements=key, set_=new))
    except IntegrityError as error:
        raise ValueError(f"trial {trial} is not in the ledger") from error


def end_attempt(connection: Connection, attempt: int, end: AttemptEnd) -> None:
    """Close the attempt if it runs, and set its trial's state."""
    _check_finite(f"attempt {attempt}", vars(end.cost).items())
    how = {"state": end.state, "reason": _one_line(end.reason), "fault": end.fault}
    trial = connection.scalar(
        update(Attempt)
        .where(Attempt.id == attempt, Attempt.state == "running")
        .values(**how, ended_at=now(connection), **vars(end.cost))
        .returning(Attempt.trial_id)
    )
    if trial is not None:
        connection.execute(update(Trial).where(Trial.id == trial).values(state=end.state))
        return
    state = connection.scalar(select(Attempt.state).where(Attempt.id == attempt))
    if state != end.state:
        text = f"attempt {attempt} can't end as {end.state}: it is {state or 'not in the ledger'}"
        raise ClaimError(text, state)


def _keep_rule(connection: Connection, protocol: str, rule: dict[str, Any]) -> None:
    """Insert the rule unless the protocol has one; ValueError if it has another."""
    if not rule:
        return
    new = _as_text(rule)
    query = select(Protocol.rule).where(Protocol.id == protocol)
    known = connection.scalar(query)
    if known is None:
        values = {"id": protocol, "rule": rule, "created_at": now(connection)}
        insert_new(connection, Protocol, [values])
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


def _waiting(trial: TrialRecord, at: datetime) -> dict[str, Any]:
    columns = ("config", "assignment", "family", "dataset", "seed", "epochs", "results_version")
    values = {name: getattr(trial, name) for name in columns}
    return {"id": trial.id, **values, "state": "waiting", "created_at": at}


def _insert(connection: Connection, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can deal with a conflict, in the connection's dialect."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def insert_new(connection: Connection, table: type[Base], values: list[dict[str, Any]]) -> None:
    """Insert the rows whose keys are new."""
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
