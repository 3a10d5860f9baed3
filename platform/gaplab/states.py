"""The states of a trial and the transitions between them. No other file lists states.

A trial waits until a driver claims it, which starts an attempt, and the attempt ends in one of
several states. After every end except `succeeded` the trial may be claimed again; after `succeeded`
only if a rerun is requested.
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
    """The driver ended or died."""
    PREEMPTED = "preempted"
    """The machine was taken away."""
    CANCELLED = "cancelled"
    """A user cancelled the trial."""
    STOPPED = "stopped"
    """The stopping rule of the sweep ended the trial early."""

    @property
    def ended(self) -> bool:
        """Whether an attempt has ended in this state."""
        return self not in (TrialState.WAITING, TrialState.RUNNING)

    @property
    def open(self) -> bool:
        """Whether a driver of the sweep starts or continues the trial without being asked."""
        return self in (
            TrialState.WAITING,
            TrialState.RUNNING,
            TrialState.INTERRUPTED,
            TrialState.PREEMPTED,
        )

    @property
    def retryable(self) -> bool:
        """Whether a driver may claim the trial, for its first attempt or another one."""
        return self not in (TrialState.RUNNING, TrialState.SUCCEEDED)


CLAIM: Literal["claimed"] = "claimed"
RERUN: Literal["rerun"] = "rerun"
Transition = Literal["claimed", "rerun"] | TrialState
"""A change of a trial's state: a claim, the end of its running attempt (named by the state in which
it ends), or a rerun of a finished trial."""

ENDS = tuple(state for state in TrialState if state.ended)
TRANSITIONS: dict[Transition, tuple[tuple[TrialState, ...], TrialState]] = {
    CLAIM: (tuple(state for state in TrialState if state.retryable), TrialState.RUNNING),
    **{end: ((TrialState.RUNNING,), end) for end in ENDS},
    RERUN: ((TrialState.SUCCEEDED,), TrialState.WAITING),
}
"""For each transition the states in which it is allowed, and the state that follows."""
