"""What a driver decides, as pure functions: retry a trial, believe a lease, share a cluster, stop.

`queue`, `heartbeat` and `scheduler` carry the decisions out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gaplab.failures import Failure, group
from gaplab.records import Fault, Lease, Process
from gaplab.spec.models import Policy
from gaplab.states import TrialState

RETRIED: tuple[Fault, ...] = ("", "lost", "memory", "hang", "error")
"""Faults that another attempt may not meet; the same input fails the same way again."""


@dataclass(frozen=True)
class Ending:
    """How the latest attempt at a trial ended.

    failures: failed attempts since the driver's start, this one included.
    """

    state: TrialState
    fault: Fault
    failures: int


Verdict = Literal["done", "again", "given up"]


@dataclass(frozen=True)
class Next:
    """What a driver does with a trial whose attempt has ended; `wait` is in seconds."""

    verdict: Verdict
    wait: float = 0.0


def next_step(ending: Ending, policy: Policy) -> Next:
    """Decide what follows an attempt: nothing, another attempt, or giving up until a resume.

    A trial whose machine was taken away or whose driver died is tried again at once: neither says
    anything about the trial. One that was cancelled or stopped early is done.
    """
    if ending.state is TrialState.FAILED:
        if ending.fault in RETRIED and ending.failures <= policy.retries:
            return Next("again", policy.backoff(ending.failures))
        return Next("given up")
    return Next("again" if ending.state.open else "done")


def lost_reason(
    lease: Lease, now: datetime, machine: str, alive: Collection[Process]
) -> str | None:
    """Return why the driver of a lease counts as dead, or None while it counts as alive.

    Args:
        lease: the lease in question.
        now: the ledger's time.
        machine: this machine, see `Process`.
        alive: the living processes of this machine.

    """
    if lease.process.machine == machine and lease.process not in alive:
        return "its driver died"
    if lease.until <= now:
        return f"its driver on {lease.node} was silent for too long"
    return None


@dataclass(frozen=True)
class Demand:
    """A driver's demand on a cluster: `wants` slots, those of its running trials included."""

    driver: str
    priority: int
    wants: int


def share(slots: int, demands: Sequence[Demand], driver: str) -> int:
    """Return how many of `slots` slots `driver` may use.

    Higher priorities come first. Drivers of equal priority get equal parts; slots that one of them
    can't use go to the others, and a remainder goes to those earlier in `demands`.
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


def should_stop(failures: Sequence[Failure], policy: Policy) -> str | None:
    """Return in one line why a sweep should start no more trials, or None.

    failures: those of trials that are given up. A trial counts once, however often it failed.
    """
    limits = {"continue": None, "stop": 1, "stop_after_n_identical": policy.identical}
    limit = limits[policy.on_failure]
    for each in group(failures):
        if limit is not None and len(each.trials) >= limit:
            return f"{each.line()} (run.on_failure: {policy.on_failure})"
    return None
