"""Claims and attempts: the changes of a trial's state, each inside the caller's transaction."""

from functools import cache
from typing import Any

from sqlalchemy import Connection, Update, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gaplab.formatting import one_line
from gaplab.ledger.clock import Clock
from gaplab.ledger.models import (
    Attempt,
    Base,
    Checkpoint,
    ChosenEvaluation,
    EpochLosses,
    Evaluation,
    EvaluationClasses,
    Sweep,
    Trial,
)
from gaplab.ledger.queries import AnyRow
from gaplab.ledger.writes import check_finite, own_config
from gaplab.records import AttemptEnd, Claim, Cost, Started
from gaplab.states import CLAIM, RERUN, TRANSITIONS, Transition, TrialState

_ATTEMPTS = Base.metadata.tables["attempt"]
_TRIALS = Base.metadata.tables["trial"]
_EMPTY: dict[str, Any] = {"reason": "", "fault": "", "notes": [], "provenance": {}}

# Built once: building a statement takes longer than executing it, and every trial needs these.
_ATTEMPTS_OF_TRIAL = (
    select(_ATTEMPTS.c.id, _ATTEMPTS.c.number, _ATTEMPTS.c.token, _ATTEMPTS.c.state)
    .where(_ATTEMPTS.c.trial_id == bindparam("which"))
    .order_by(_ATTEMPTS.c.number)
)
_CONFIG = select(Trial.config).where(Trial.id == bindparam("which"))
_LOCK_SWEEP = select(Sweep.id).where(Sweep.id == bindparam("which")).with_for_update(key_share=True)
_RUNNING_OF_SWEEP = select(func.count()).where(
    _ATTEMPTS.c.sweep_id == bindparam("which"), _ATTEMPTS.c.state == TrialState.RUNNING
)
_INSERT_RUNNING = (
    insert(_ATTEMPTS).values(state=TrialState.RUNNING, started_at=Clock()).returning(_ATTEMPTS.c.id)
)
_UPDATE_RUNNING = update(_ATTEMPTS).where(
    _ATTEMPTS.c.id == bindparam("which"), _ATTEMPTS.c.state == TrialState.RUNNING
)
_END_RUNNING = _UPDATE_RUNNING.values(ended_at=Clock()).returning(_ATTEMPTS.c.trial_id)


class ClaimError(ValueError):
    """A trial that cannot be claimed, or an attempt that has ended.

    Attributes:
        state: the state that the trial or the attempt is in; None if there is no such id.
    """

    def __init__(self, text: str, state: TrialState | None) -> None:
        super().__init__(text)
        self.state = state


class LimitError(ClaimError):
    """A trial that can be claimed once another attempt of its sweep has ended."""


@cache
def _update_state(transition: Transition) -> Update:
    """Build the statement that applies the transition where it is allowed."""
    before, after = TRANSITIONS[transition]
    allowed = (_TRIALS.c.id == bindparam("which"), _TRIALS.c.state.in_(before))
    return update(_TRIALS).where(*allowed).values(state=after)


def apply_transition(connection: Connection, trial: str, transition: Transition) -> bool:
    """Apply the transition if it is allowed. Returns whether the row changed."""
    return connection.execute(_update_state(transition), {"which": trial}).rowcount > 0


def start_attempt(connection: Connection, claim: Claim) -> int:
    """Set the trial running and insert its next attempt. Returns the attempt's id."""
    if claim.at_once is not None:  # one claim of the sweep at a time, so that all can be counted
        connection.execute(_LOCK_SWEEP, {"which": claim.sweep})
    claimed = apply_transition(connection, claim.trial, CLAIM)
    attempts = connection.execute(_ATTEMPTS_OF_TRIAL, {"which": claim.trial}).all()
    same = next((row.id for row in attempts if row.token == claim.token), None)
    if same is not None:
        if claimed:  # a repeated claim whose attempt has ended must not start another one
            connection.rollback()
        return int(same)
    last = attempts[-1] if attempts else None
    _check_claim(connection, claim, claimed, last)
    _check_limit(connection, claim, last)
    return _insert_attempt(connection, claim, last.number + 1 if last else 1)


def _check_claim(connection: Connection, claim: Claim, claimed: bool, last: AnyRow | None) -> None:
    """Raise ClaimError if the trial could not be claimed or has a later attempt than is known."""
    what = f"trial {claim.trial}"
    if not claimed:
        state = connection.scalar(select(Trial.state).where(Trial.id == claim.trial))
        raise ClaimError(f"{what} can't start: it is {state or 'not in the ledger'}", state)
    if claim.after is not None and last is not None and last.id > claim.after:
        raise ClaimError(f"{what} was attempted meanwhile: it is {last.state}", last.state)


def _check_limit(connection: Connection, claim: Claim, last: AnyRow | None) -> None:
    """Raise LimitError if as many attempts of the sweep are running as the claim allows."""
    if claim.at_once is None:
        return
    running = connection.scalar(_RUNNING_OF_SWEEP, {"which": claim.sweep}) or 0
    if running >= claim.at_once:
        text = f"trial {claim.trial} can't start: {running} of sweep {claim.sweep} are running"
        raise LimitError(text, last.state if last else TrialState.WAITING)


def _insert_attempt(connection: Connection, claim: Claim, number: int) -> int:
    key = {"trial_id": claim.trial, "sweep_id": claim.sweep, "number": number}
    stored = connection.scalar(_CONFIG, {"which": claim.trial})
    config = None if claim.config is None or stored is None else own_config(claim.config, stored)
    values = {"driver": claim.driver, "token": claim.token, "config": config}
    values |= vars(claim.machine) | _EMPTY
    try:
        return int(connection.execute(_INSERT_RUNNING, key | values).scalar_one())
    except IntegrityError as error:
        raise ValueError(
            f"trial {claim.trial} can't start: it is not in sweep {claim.sweep}"
        ) from error


def begin_attempt(connection: Connection, attempt: int, started: Started) -> None:
    """Store where and with what a running attempt was started."""
    about = {"notes": list(started.notes), "provenance": started.provenance}
    _update_running(connection, attempt, **vars(started.machine), **about)


def record_cost(connection: Connection, attempt: int, cost: Cost) -> None:
    """Store what a running attempt has cost so far."""
    check_finite(f"attempt {attempt}", vars(cost).items())
    _update_running(connection, attempt, **vars(cost))


def _update_running(connection: Connection, attempt: int, **values: Any) -> None:
    """Write `values` to the row of a running attempt; locks the row until the transaction ends."""
    if connection.execute(_UPDATE_RUNNING, {"which": attempt, **values}).rowcount == 0:
        state = connection.scalar(select(Attempt.state).where(Attempt.id == attempt))
        raise ClaimError(
            f"attempt {attempt} has ended: it is {state or 'not in the ledger'}", state
        )


def end_attempt(connection: Connection, attempt: int, end: AttemptEnd) -> None:
    """End the attempt if it is running, and set its trial's state."""
    check_finite(f"attempt {attempt}", vars(end.cost).items())
    how = {"state": end.state, "reason": one_line(end.reason), "fault": end.fault}
    trial = connection.scalar(_END_RUNNING, {"which": attempt, **how, **vars(end.cost)})
    if trial is not None:
        apply_transition(connection, trial, end.state)
        return
    state = connection.scalar(select(Attempt.state).where(Attempt.id == attempt))
    if state != end.state:
        text = f"attempt {attempt} can't end as {end.state}: it is {state or 'not in the ledger'}"
        raise ClaimError(text, state)


def rerun(connection: Connection, trial: str) -> bool:
    """Set a succeeded trial to waiting and delete what it has measured and saved."""
    if not apply_transition(connection, trial, RERUN):
        return False
    for table in (Evaluation, EvaluationClasses, ChosenEvaluation, Checkpoint, EpochLosses):
        connection.execute(delete(table).where(table.trial_id == trial))
    return True
