"""The decisions of a driver as pure functions.

They decide whether a trial is retried, whether the driver of a lease is lost, how drivers share a
cluster, and whether failures end a sweep. `queue`, `heartbeat` and `scheduler` act on them.
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
"""Faults that another attempt may avoid; the same input would fail the same way again."""


@dataclass(frozen=True)
class Ending:
    """How the latest attempt at a trial ended.

    Attributes:
        state: the state in which it ended.
        fault: what it failed of, empty unless it failed.
        failures: number of failed attempts since the driver started, this one included.
    """

    state: TrialState
    fault: Fault
    failures: int


@dataclass(frozen=True)
class NextStep:
    """What a driver does with a trial after an attempt.

    Attributes:
        action: `done`: the trial is settled; `retry`: start another attempt; `give up`: the trial
            is settled until somebody resumes the sweep.
        wait: seconds before the retry.
    """

    action: Literal["done", "retry", "give up"]
    wait: float = 0.0


def next_step(ending: Ending, policy: Policy) -> NextStep:
    """Return what follows an attempt.

    A trial whose machine was taken away or whose driver died is retried at once, since neither
    says anything about the trial. A trial that was cancelled or stopped early is done.
    """
    if ending.state is TrialState.FAILED:
        if ending.fault in RETRIED and ending.failures <= policy.retries:
            return NextStep("retry", policy.backoff(ending.failures))
        return NextStep("give up")
    return NextStep("retry" if ending.state.open else "done")


def lost_reason(
    lease: Lease, now: datetime, machine: str, alive: Collection[Process]
) -> str | None:
    """Return why the driver of a lease counts as lost, or None while it counts as running.

    Args:
        lease: the lease in question.
        now: the ledger's time.
        machine: this machine, see `Process`.
        alive: the processes that are running on this machine.
    """
    if lease.process.machine == machine and lease.process not in alive:
        return "its driver died"
    if lease.until <= now:
        return f"its driver on {lease.node} sent no heartbeat for too long"
    return None


@dataclass(frozen=True)
class Demand:
    """The demand of one driver on a cluster.

    Attributes:
        driver: id of the driver.
        priority: `run.priority` of its sweep; a larger number goes first.
        slots: number of trials that it runs or could start.
    """

    driver: str
    priority: int
    slots: int


def share(slots: int, demands: Sequence[Demand], driver: str) -> int:
    """Return how many of the `slots` slots of a cluster `driver` may use.

    Higher priorities come first. Drivers of equal priority get equal parts; slots that one of them
    can't use go to the others, and a remainder goes to those earlier in `demands`.
    """
    given, left = {each.driver: 0 for each in demands}, slots
    for priority in sorted({each.priority for each in demands}, reverse=True):
        open_ = [each for each in demands if each.priority == priority]
        while left and (open_ := [each for each in open_ if given[each.driver] < each.slots]):
            part = max(1, left // len(open_))
            for each in open_[:left]:
                more = min(part, each.slots - given[each.driver])
                given[each.driver] += more
                left -= more
    return given[driver]


def should_stop(failures: Sequence[Failure], policy: Policy) -> str | None:
    """Return in one line why a sweep should start no more trials, or None.

    Args:
        failures: failures of the trials that are given up. A trial counts once, however often it
            failed.
        policy: `on_failure` says how many equal failures end a sweep.
    """
    limits = {"continue": None, "stop": 1, "stop_after_n_identical": policy.identical}
    limit = limits[policy.on_failure]
    for each in group(failures):
        if limit is not None and len(each.trials) >= limit:
            return f"{each.line()} (run.on_failure: {policy.on_failure})"
    return None
