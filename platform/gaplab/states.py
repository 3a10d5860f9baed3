"""The states of a trial and the transitions between them. No other file lists states.

A trial waits, is claimed by one driver (an attempt begins), and the attempt ends. After every end
but `succeeded` the trial may be claimed again. Nothing follows `succeeded`, unless a person asks
for the trial once more.
"""

from enum import StrEnum
from typing import Literal


class TrialState(StrEnum):
    """The state of a trial: that of its last attempt, or `waiting` before the first one."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Its driver ended or died."""
    PREEMPTED = "preempted"
    """Its machine was taken away."""
    CANCELLED = "cancelled"
    """A person cancelled it."""
    STOPPED = "stopped"
    """The sweep's stopping rule ended it early."""

    @property
    def ended(self) -> bool:
        """Whether an attempt has ended in this state."""
        return self not in (TrialState.WAITING, TrialState.RUNNING)

    @property
    def open(self) -> bool:
        """Whether a driver of the sweep trains on without anybody asking for it."""
        return self in (
            TrialState.WAITING,
            TrialState.RUNNING,
            TrialState.INTERRUPTED,
            TrialState.PREEMPTED,
        )

    @property
    def retryable(self) -> bool:
        """Whether a driver may claim the trial: begin its first attempt, or another one."""
        return self not in (TrialState.RUNNING, TrialState.SUCCEEDED)


CLAIM: Literal["claimed"] = "claimed"
RERUN: Literal["rerun"] = "rerun"
Transition = Literal["claimed", "rerun"] | TrialState
"""What changes a trial's state: a claim, the end of its running attempt (named by the state it
ends in), or a person who asks for a finished trial once more."""

ENDS = tuple(state for state in TrialState if state.ended)
TRANSITIONS: dict[Transition, tuple[tuple[TrialState, ...], TrialState]] = {
    CLAIM: (tuple(state for state in TrialState if state.retryable), TrialState.RUNNING),
    **{end: ((TrialState.RUNNING,), end) for end in ENDS},
    RERUN: ((TrialState.SUCCEEDED,), TrialState.WAITING),
}
"""Each transition: the states in which it is allowed, and the state that follows."""
