"""Does a sweep fit a cluster, and how many of its trials at once? Arithmetic only."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gaplab.spec.models import Resources


@dataclass(frozen=True)
class Node:
    """What one alive node offers."""

    cpus: float
    gpus: float


def workers_that_fit(nodes: Iterable[Node], need: Resources) -> int:
    """How many workers of `need` the empty nodes hold; a worker never spans two nodes."""
    return sum(_on_node(node, need) for node in nodes)


def concurrency(nodes: Iterable[Node], needs: Iterable[Resources]) -> int:
    """How many trials can run at once, whichever of `needs` they have; 0 where one can't run."""
    nodes = tuple(nodes)
    return min((workers_that_fit(nodes, need) // need.workers for need in needs), default=0)


def misfits(nodes: Iterable[Node], needs: Iterable[Resources]) -> list[str]:
    """One line for each distinct need that the empty cluster can't hold."""
    nodes = tuple(nodes)
    return [
        f"resources: {_describe(need)} can't run here: the cluster ({_total(nodes)}) has room for "
        f"{fit} of {need.workers} workers; lower resources.* or use a larger cluster (--address)"
        for need in dict.fromkeys(needs)
        if (fit := workers_that_fit(nodes, need)) < need.workers
    ]


def _on_node(node: Node, need: Resources) -> int:
    by_cpu = node.cpus / need.cpus_per_worker
    by_gpu = node.gpus / need.gpus_per_worker if need.gpus_per_worker else math.inf
    return math.floor(min(by_cpu, by_gpu))


def _describe(need: Resources) -> str:
    gpus = f" and {need.gpus_per_worker:g} GPUs" if need.gpus_per_worker else ""
    return f"{need.workers} workers x {need.cpus_per_worker} CPUs{gpus}"


def _total(nodes: tuple[Node, ...]) -> str:
    cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    return f"{len(nodes)} nodes, {cpus:g} CPUs, {gpus:g} GPUs"
