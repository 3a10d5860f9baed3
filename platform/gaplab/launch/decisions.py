"""What may happen to a trial, and what to do next: decisions alone, carried out elsewhere.

A trial waits, is claimed by one driver (an attempt begins), and the attempt ends. Every ending but
`succeeded` leaves the trial to be claimed again; nothing leads out of `succeeded`, save a person
who asks for the trial once more.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, get_args

from gaplab.records import EndState, Fault, TrialState

if TYPE_CHECKING:  # for its type alone: who only reads the ledger needs no pydantic
    from gaplab.spec.models import Policy

Happening = Literal["claimed", "rerun"] | EndState
"""What can befall a trial: a claim, the end of its running attempt, or a person's wish to have a
finished one again."""

ENDS: tuple[EndState, ...] = get_args(EndState)
RETRIED: tuple[Fault, ...] = ("", "lost", "memory", "hang", "error")
"""Faults that another attempt may not meet; the same input fails the same way again."""
TRANSITIONS: dict[Happening, tuple[tuple[TrialState, ...], TrialState]] = {
    "claimed": (("waiting", *(end for end in ENDS if end != "succeeded")), "running"),
    **{end: (("running",), end) for end in ENDS},
    "rerun": (("succeeded",), "waiting"),
}
"""What can befall a trial: the states in which it may, and the one that follows. All else is
refused."""


@dataclass(frozen=True)
class Ending:
    """How the latest attempt at a trial ended, as a driver sees it.

    failures: failed attempts since the driver's start, this one included.
    """

    state: EndState
    fault: Fault
    failures: int


Verdict = Literal["done", "again", "given up"]


@dataclass(frozen=True)
class Next:
    """What a driver does with a trial whose attempt has ended; `wait` seconds from now."""

    verdict: Verdict
    wait: float = 0.0


def next_step(ending: Ending, policy: "Policy") -> Next:
    """Done, again (now or after a pause), or given up until somebody resumes the sweep.

    A machine that was taken away or a driver that died says nothing about the trial: again at once.
    A trial that was cancelled or stopped early is left alone.
    """
    match ending.state:
        case "succeeded" | "stopped" | "cancelled":
            return Next("done")
        case "interrupted" | "preempted":
            return Next("again")
        case "failed" if ending.fault in RETRIED and ending.failures <= policy.retries:
            return Next("again", policy.backoff(ending.failures))
        case _:
            return Next("given up")


@dataclass(frozen=True)
class Process:
    """One process for all time: a later one of the same number was born at another moment.

    machine: where process numbers mean the same (one boot of one kernel, one container, one user).
    """

    machine: str
    pid: int
    born: int


@dataclass(frozen=True)
class Lease:
    """A driver's word that it lives: who, where, and until when it is believed."""

    driver: str
    node: str
    process: Process
    until: datetime


def gone(lease: Lease, now: datetime, machine: str, alive: Collection[Process]) -> str | None:
    """Why its driver is taken for dead, or None: it died on this machine, or its lease is over.

    machine: this one, see `Process`; alive: those of its processes that live.
    """
    if lease.process.machine == machine and lease.process not in alive:
        return "its driver died"
    if lease.until <= now:
        return f"its driver on {lease.node} was silent for too long"
    return None


@dataclass(frozen=True)
class Demand:
    """What a driver wants of a cluster: at most `wants` trials at once, those that run included."""

    driver: str
    priority: int
    wants: int


def share(slots: int, demands: Sequence[Demand], driver: str) -> int:
    """How many of `slots` places `driver` may fill.

    Higher priorities first; equals get equal parts, what one can't use goes to the others, and a
    rest that can't be divided to the earlier of them in `demands`.
    """
    found, left = {each.driver: 0 for each in demands}, slots
    for priority in sorted({each.priority for each in demands}, reverse=True):
        open_ = [each for each in demands if each.priority == priority]
        while left and (open_ := [each for each in open_ if found[each.driver] < each.wants]):
            part = max(1, left // len(open_))
            for each in open_[:left]:
                given = min(part, each.wants - found[each.driver])
                found[each.driver] += given
                left -= given
    return found[driver]
