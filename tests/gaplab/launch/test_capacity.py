"""Capacity against a loop that puts workers on nodes one by one until none fits."""

from hypothesis import given
from hypothesis import strategies as st

from gaplab.launch.capacity import Node, concurrency, misfits, workers_that_fit
from gaplab.spec.models import Resources

nodes = st.lists(
    st.builds(Node, st.integers(0, 9).map(float), st.integers(0, 4).map(float)), max_size=4
)
needs = st.builds(
    Resources,
    workers=st.integers(1, 5),
    cpus_per_worker=st.integers(1, 4),
    gpus_per_worker=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)


def packed(nodes: list[Node], need: Resources) -> int:
    count = 0
    for node in nodes:
        cpus, gpus = node.cpus, node.gpus
        while cpus >= need.cpus_per_worker and gpus >= need.gpus_per_worker:
            cpus, gpus, count = cpus - need.cpus_per_worker, gpus - need.gpus_per_worker, count + 1
    return count


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
