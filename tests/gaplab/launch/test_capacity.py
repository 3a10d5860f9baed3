"""Capacity against a loop that puts workers on nodes one by one until none fits."""

from decimal import ROUND_DOWN, Decimal
from itertools import count as count_from_zero

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.launch.capacity import Node, concurrency, misfits, workers_that_fit
from gaplab.spec.models import Resources

nodes = st.lists(
    st.builds(
        Node, st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, 9.0, 40.0]), st.integers(0, 4).map(float)
    ),
    max_size=4,
)
gpus = st.one_of(
    st.integers(0, 4).map(float),
    st.floats(0.0001, 1.0).filter(lambda need: need > 0.02),
    # Sums and quotients of floats, and numbers around Ray's unit of 0.0001.
    st.sampled_from(
        [0.6, 0.1 * 3, 1 - 0.9, 1 / 3, 2 / 3, 1 / 6, 0.33335, 0.57, 0.50004, 0.50006, 0.1 + 0.2]
    ),
)
needs = st.builds(
    Resources,
    workers=st.integers(1, 5),
    cpus_per_worker=st.integers(1, 4),
    gpus_per_worker=gpus,
)


def packed(nodes: list[Node], need: Resources) -> int:
    """Put workers on every node until none fits, each part of a GPU on one GPU."""
    return sum(placed(node, need) for node in nodes)


def placed(node: Node, need: Resources) -> int:
    cpus, free = Decimal(node.cpus), [Decimal(1)] * int(node.gpus)
    part = Decimal(need.gpus_per_worker).quantize(Decimal("0.0001"), ROUND_DOWN)
    each = min(part, Decimal(1))
    for count in count_from_zero():
        chosen = [gpu for gpu, left in enumerate(free) if left >= each]
        wanted = max(1, int(part)) if part else 0
        if cpus < need.cpus_per_worker or len(chosen) < wanted:
            return count
        cpus -= need.cpus_per_worker
        for gpu in chosen[:wanted]:
            free[gpu] -= each
    raise AssertionError


@given(nodes, needs)
def test_workers_that_fit(nodes: list[Node], need: Resources) -> None:
    assert workers_that_fit(nodes, need) == packed(nodes, need)


@given(nodes, st.lists(needs, min_size=1, max_size=3))
def test_trials_that_run_at_once_fit_whatever_they_need(
    nodes: list[Node], needs: list[Resources]
) -> None:
    at_once = concurrency(nodes, needs)
    assert all(packed(nodes, need) >= at_once * need.workers for need in needs)
    assert any(packed(nodes, need) < (at_once + 1) * need.workers for need in needs)
    assert (at_once == 0) == bool(misfits(nodes, needs))


def test_a_misfit_is_reported_once_with_what_the_cluster_has() -> None:
    need = Resources(workers=8, gpus_per_worker=1.0)
    (line,) = misfits([Node(2, 0)], [need, need])
    assert line == (
        "resources: 8 workers x 1 CPU and 1 GPU can't run here: the cluster (1 node, 2 CPUs, "
        "0 GPUs) holds 0 of 8 workers; lower resources.* or use a larger cluster (--address)"
    )


def test_no_trials_need_no_resources() -> None:
    assert concurrency([Node(2, 0)], []) == 0
    assert misfits([], []) == []


@pytest.mark.parametrize(
    ("need", "fit"),
    [
        *((0.6, 2), (0.5, 4), (0.51, 2), (1 / 3, 6), (2 / 3, 2), (0.1 * 3, 6), (1 - 0.9, 20)),
        *((1 / 6, 12), (0.33335, 6), (0.14286, 14), (0.50004, 4), (0.50006, 4), (0.57, 2)),
    ],
)
def test_parts_of_two_gpus_as_ray_places_them(need: float, fit: int) -> None:
    """The numbers of placement groups that became ready on Ray 2.60 with two GPUs."""
    assert workers_that_fit([Node(60, 2)], Resources(gpus_per_worker=need)) == fit


def test_three_workers_with_more_than_half_a_gpu_do_not_fit_two_gpus() -> None:
    (line,) = misfits([Node(9, 2)], [Resources(workers=3, gpus_per_worker=0.6)])
    assert line == (
        "resources: 3 workers x 1 CPU and 0.6 GPUs can't run here: the cluster (1 node, 9 CPUs, "
        "2 GPUs) holds 2 of 3 workers; lower resources.* or use a larger cluster (--address)"
    )


def test_a_cluster_without_nodes_holds_nothing() -> None:
    assert concurrency([], [Resources()]) == 0
    assert len(misfits([], [Resources()])) == 1
