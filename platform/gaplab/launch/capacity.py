"""Whether the trials of a sweep fit a cluster, and how many of them at once. Arithmetic only."""

from collections.abc import Iterable
from dataclasses import dataclass

from gaplab.formatting import plural
from gaplab.spec.models import Resources

_UNITS = 10_000
"""Units of Ray per CPU or GPU."""


@dataclass(frozen=True)
class Node:
    """The processors of one alive node."""

    cpus: float
    gpus: float


def workers_that_fit(nodes: Iterable[Node], need: Resources) -> int:
    """Return how many workers of `need` empty nodes hold; a worker never spans two nodes."""
    return sum(_on_node(node, need) for node in nodes)


def concurrency(nodes: Iterable[Node], needs: Iterable[Resources]) -> int:
    """Return how many trials can run at once, whichever of `needs` each of them has.

    0 if there is a need that the cluster can't hold, or no need at all.
    """
    nodes = tuple(nodes)
    return min((workers_that_fit(nodes, need) // need.workers for need in needs), default=0)


def misfits(nodes: Iterable[Node], needs: Iterable[Resources]) -> list[str]:
    """Return one line for each distinct need that the empty cluster can't hold."""
    nodes = tuple(nodes)
    return [
        f"resources: {_describe(need)} can't run here: the cluster ({_total(nodes)}) holds "
        f"{fit} of {plural(need.workers, 'worker')}; lower resources.* or use a larger cluster "
        "(--address)"
        for need in dict.fromkeys(needs)
        if (fit := workers_that_fit(nodes, need)) < need.workers
    ]


def _on_node(node: Node, need: Resources) -> int:
    by_cpu = _units(node.cpus) // _units(need.cpus_per_worker)
    return by_cpu if not need.gpus_per_worker else min(by_cpu, _on_gpus(int(node.gpus), need))


def _on_gpus(gpus: int, need: Resources) -> int:
    """Return how many workers `gpus` GPUs hold: a fraction of a GPU lies on one GPU."""
    if need.gpus_per_worker < 1:
        return gpus * (_UNITS // _units(need.gpus_per_worker))
    return gpus // int(need.gpus_per_worker)


def _units(amount: float) -> int:
    """Return an amount as Ray counts it: in units of 0.0001, the rest cut off."""
    return int(amount * _UNITS)


def _describe(need: Resources) -> str:
    gpus = f" and {_count(need.gpus_per_worker, 'GPU')}" if need.gpus_per_worker else ""
    cpus = _count(need.cpus_per_worker, "CPU")
    return f"{plural(need.workers, 'worker')} x {cpus}{gpus}"


def _total(nodes: tuple[Node, ...]) -> str:
    cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    return f"{plural(len(nodes), 'node')}, {_count(cpus, 'CPU')}, {_count(gpus, 'GPU')}"


def _count(amount: float, noun: str) -> str:
    """Return an amount of processors, which need not be whole: `1 GPU`, `0.5 GPUs`."""
    return f"{amount:g} {noun}" if amount == 1 else f"{amount:g} {noun}s"
