"""What a sweep would cost, from what its like has cost before."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gaplab.ledger.views import Cost, CostKey
from gaplab.records import TrialRecord


@dataclass(frozen=True)
class Estimate:
    """Expected cost of the trials that are still to run.

    wall_seconds: with `at_once` of them side by side. unknown: trials without any precedent in the
    ledger; the sums leave them out. basis: attempts that the estimate rests on.
    """

    trials: int
    unknown: int
    at_once: int
    wall_seconds: float
    cpu_seconds: float
    gpu_seconds: float
    basis: int


def estimate(
    trials: Sequence[TrialRecord], costs: Mapping[CostKey, Cost], at_once: int
) -> Estimate:
    """Cost of `trials`: each like the mean of its own kind, else like its data set by epochs."""
    known = [cost for trial in trials if (cost := _expected(trial, costs)) is not None]
    return Estimate(
        trials=len(trials),
        unknown=len(trials) - len(known),
        at_once=at_once,
        wall_seconds=makespan([cost.wall_seconds for cost in known], at_once),
        cpu_seconds=sum(cost.cpu_seconds for cost in known),
        gpu_seconds=sum(cost.gpu_seconds for cost in known),
        basis=sum(cost.attempts for cost in costs.values()),
    )


def makespan(seconds: Sequence[float], at_once: int) -> float:
    """When the last of these jobs ends if each in turn takes the first free of `at_once` places."""
    places = [0.0] * max(1, at_once)
    for duration in seconds:
        heapq.heapreplace(places, places[0] + duration)
    return max(places)


def _expected(trial: TrialRecord, costs: Mapping[CostKey, Cost]) -> Cost | None:
    own = costs.get(CostKey(trial.dataset, trial.assignment, trial.epochs))
    if own is not None:
        return own
    like = [(key, cost) for key, cost in costs.items() if key.dataset == trial.dataset]
    if not like:
        return None
    per_epoch = [[seconds / key.epochs for seconds in cost[:3]] for key, cost in like]
    wall, cpu, gpu = (
        sum(column) / len(like) * trial.epochs for column in zip(*per_epoch, strict=True)
    )
    return Cost(wall, cpu, gpu, sum(cost.attempts for _, cost in like))
