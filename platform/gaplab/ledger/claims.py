"""Claims and attempts in the ledger, each inside the caller's transaction; see `Ledger`."""

from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Update,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from gaplab.formatting import one_line
from gaplab.ledger.clock import Clock
from gaplab.ledger.models import Attempt, Base, Checkpoint, Evaluation, Trial
from gaplab.ledger.queries import AnyRow
from gaplab.ledger.writes import check_finite
from gaplab.records import AttemptEnd, Claim, Cost, Started
from gaplab.states import CLAIM, RERUN, TRANSITIONS, Transition, TrialState

_ATTEMPTS = Base.metadata.tables["attempt"]
_TRIALS = Base.metadata.tables["trial"]
_EMPTY: dict[str, Any] = {"reason": "", "fault": "", "notes": [], "provenance": {}}

# Made once: to make a statement takes longer than to execute it, and each trial needs these.
_OF_TRIAL = (
    select(_ATTEMPTS.c.id, _ATTEMPTS.c.number, _ATTEMPTS.c.token, _ATTEMPTS.c.state)
    .where(_ATTEMPTS.c.trial_id == bindparam("which"))
    .order_by(_ATTEMPTS.c.number)
)
_START = (
    insert(_ATTEMPTS).values(state=TrialState.RUNNING, started_at=Clock()).returning(_ATTEMPTS.c.id)
)
_HOLD = update(_ATTEMPTS).where(
    _ATTEMPTS.c.id == bindparam("which"), _ATTEMPTS.c.state == TrialState.RUNNING
)
_END = _HOLD.values(ended_at=Clock()).returning(_ATTEMPTS.c.trial_id)


class ClaimError(ValueError):
    """A trial that can't be claimed, or an attempt that is over: `state` is what it is in now."""

    def __init__(self, text: str, state: TrialState | None) -> None:
        super().__init__(text)
        self.state = state


@cache
def _moving(transition: Transition) -> Update:
    before, after = TRANSITIONS[transition]
    one = (_TRIALS.c.id == bindparam("which"), _TRIALS.c.state.in_(before))
    return update(_TRIALS).where(*one).values(state=after)


def move(connection: Connection, trial: str, transition: Transition) -> bool:
    """Apply the transition if it is allowed. Returns whether the row changed."""
    return connection.execute(_moving(transition), {"which": trial}).rowcount > 0


def start_attempt(connection: Connection, claim: Claim) -> int:
    """Set the trial running if it may run, and insert its next attempt; the same claim once."""
    moved = move(connection, claim.trial, CLAIM)
    found = connection.execute(_OF_TRIAL, {"which": claim.trial}).all()
    said = next((row.id for row in found if row.token == claim.token), None)
    if said is not None:
        if moved:  # said again after it was over: nothing has begun
            connection.rollback()
        return int(said)
    newest = found[-1] if found else None
    _check_free(connection, claim, moved, newest)
    return _insert_next(connection, claim, newest.number + 1 if newest else 1)


def _check_free(connection: Connection, claim: Claim, moved: bool, newest: AnyRow | None) -> None:
    """Raise ClaimError where the trial was not free, or had an attempt that we don't know of."""
    what = f"trial {claim.trial}"
    if not moved:
        state = connection.scalar(select(Trial.state).where(Trial.id == claim.trial))
        raise ClaimError(f"{what} can't start: it is {state or 'not in the ledger'}", state)
    if claim.after is not None and newest is not None and newest.id > claim.after:
        raise ClaimError(f"{what} was attempted meanwhile: it is {newest.state}", newest.state)


def _insert_next(connection: Connection, claim: Claim, number: int) -> int:
    key = {"trial_id": claim.trial, "sweep_id": claim.sweep, "number": number}
    values = {"driver": claim.driver, "token": claim.token, **vars(claim.machine), **_EMPTY}
    try:
        return int(connection.execute(_START, key | values).scalar_one())
    except IntegrityError as error:
        raise ValueError(
            f"trial {claim.trial} can't start: it is not in sweep {claim.sweep}"
        ) from error


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
    if connection.execute(_HOLD, {"which": attempt, **values}).rowcount == 0:
        state = connection.scalar(select(Attempt.state).where(Attempt.id == attempt))
        raise ClaimError(f"attempt {attempt} is over: it is {state or 'not in the ledger'}", state)


def end_attempt(connection: Connection, attempt: int, end: AttemptEnd) -> None:
    """Close the attempt if it runs, and set its trial's state."""
    check_finite(f"attempt {attempt}", vars(end.cost).items())
    how = {"state": end.state, "reason": one_line(end.reason), "fault": end.fault}
    trial = connection.scalar(_END, {"which": attempt, **how, **vars(end.cost)})
    if trial is not None:
        move(connection, trial, end.state)
        return
    state = connection.scalar(select(Attempt.state).where(Attempt.id == attempt))
    if state != end.state:
        text = f"attempt {attempt} can't end as {end.state}: it is {state or 'not in the ledger'}"
        raise ClaimError(text, state)


def rerun(connection: Connection, trial: str) -> bool:
    """Set a finished trial waiting, without evaluations and checkpoints; False if it is not."""
    if not move(connection, trial, RERUN):
        return False
    for table in (Evaluation, Checkpoint):
        connection.execute(delete(table).where(table.trial_id == trial))
    return True
