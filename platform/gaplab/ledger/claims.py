"""Claims and attempts in the ledger, each inside the caller's transaction; see `Ledger`."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gaplab.ledger.clock import now
from gaplab.ledger.models import Attempt, Checkpoint, Evaluation, Trial
from gaplab.ledger.writes import check_finite
from gaplab.lifecycle import TRANSITIONS, Happening
from gaplab.records import AttemptEnd, Claim, Cost, Started
from gaplab.text import one_line


class ClaimError(ValueError):
    """A trial that can't be claimed, or an attempt that is over: `state` is what it is in now."""

    def __init__(self, text: str, state: str | None) -> None:
        super().__init__(text)
        self.state = state


def move(connection: Connection, which: ColumnElement[bool], happening: Happening) -> int:
    """Change the state of those of these trials that it can befall; how many that were."""
    before, after = TRANSITIONS[happening]
    query = update(Trial).where(which, Trial.state.in_(before)).values(state=after)
    return connection.execute(query).rowcount


def start_attempt(connection: Connection, claim: Claim) -> int:
    """Set the trial running if it may run, and insert its next attempt; the same claim once."""
    said = select(Attempt.id).where(Attempt.token == claim.token)
    if (known := connection.scalar(said)) is not None:
        return known
    if move(connection, Trial.id == claim.trial, "claimed") == 0:
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
    check_finite(f"attempt {attempt}", vars(cost).items())
    _hold(connection, attempt, **vars(cost))


def _hold(connection: Connection, attempt: int, **values: Any) -> None:
    """Write `values` into the row of a running attempt and keep it from ending meanwhile."""
    query = update(Attempt).where(Attempt.id == attempt, Attempt.state == "running")
    if connection.execute(query.values(**values)).rowcount == 0:
        state = connection.scalar(select(Attempt.state).where(Attempt.id == attempt))
        raise ClaimError(f"attempt {attempt} is over: it is {state or 'not in the ledger'}", state)


def end_attempt(connection: Connection, attempt: int, end: AttemptEnd) -> None:
    """Close the attempt if it runs, and set its trial's state."""
    check_finite(f"attempt {attempt}", vars(end.cost).items())
    how = {"state": end.state, "reason": one_line(end.reason), "fault": end.fault}
    trial = connection.scalar(
        update(Attempt)
        .where(Attempt.id == attempt, Attempt.state == "running")
        .values(**how, ended_at=now(connection), **vars(end.cost))
        .returning(Attempt.trial_id)
    )
    if trial is not None:
        move(connection, Trial.id == trial, end.state)
        return
    state = connection.scalar(select(Attempt.state).where(Attempt.id == attempt))
    if state != end.state:
        text = f"attempt {attempt} can't end as {end.state}: it is {state or 'not in the ledger'}"
        raise ClaimError(text, state)


def rerun(connection: Connection, trial: str) -> bool:
    """Set a finished trial waiting, without evaluations and checkpoints; False if it is not."""
    if move(connection, Trial.id == trial, "rerun") == 0:
        return False
    for table in (Evaluation, Checkpoint):
        connection.execute(delete(table).where(table.trial_id == trial))
    return True
