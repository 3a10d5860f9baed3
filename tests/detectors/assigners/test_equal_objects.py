"""Objects of the same box and class: the first of them gets every point they compete for.

Vectorised powers and exponentials give the last bits of an element by its position in a tensor, so
the qualities of equal objects could differ there, and the processor would decide between them.
"""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from detectors.assigners.anchor import Anchor
from detectors.assigners.base import Assigner
from detectors.assigners.center import Center
from detectors.assigners.foreground import Foreground
from detectors.assigners.geometry import Combination, equalize, matching_quality
from detectors.assigners.min_cost import MinCost
from detectors.assigners.min_cost_many import MinCostMany
from detectors.assigners.o2f import O2F
from detectors.assigners.o2m import O2M
from detectors.assigners.poto import Poto
from detectors.models.points import pyramid_points
from detectors.structures import Predictions, Progress, Targets
from tests.detectors.batching import batched, packed
from tests.detectors.entries import quick
from tests.examples import examples

Box = tuple[float, float, float, float]

CLASSES = 3
POINTS = pyramid_points([(8, 8), (4, 4), (2, 2)], (4, 8, 16), torch.device("cpu"))
COMPETING: tuple[Assigner, ...] = (
    *(quick(entry) for entry in O2M.values() if entry is not MinCostMany),
    O2F(),
    O2F(k=1, alpha=0.8),
    O2F(prior="box", combine="add"),
    Poto(solver="argmax"),
    Poto(solver="argmax", prior="global", combine="add"),
    MinCost(solver="argmin"),
    MinCost(solver="argmin", location="anchors"),
    Center(solver="argmax"),
    Anchor(solver="argmax"),
)
"""Assigners where objects compete for a point and the loser gets no other one."""


def predictions(seed: int) -> Predictions:
    rng = torch.Generator().manual_seed(seed)
    reach = 0.1 + 3 * torch.rand(len(POINTS), 4, generator=rng) * POINTS.stride[:, None]
    around = torch.cat([POINTS.xy - reach[:, :2], POINTS.xy + reach[:, 2:]], dim=1)
    return Predictions(3 * torch.randn(len(POINTS), CLASSES, generator=rng), around)


def targets(objects: list[tuple[Box, int]]) -> Targets:
    boxes = torch.tensor([box for box, _ in objects], dtype=torch.float32).reshape(-1, 4)
    return Targets(boxes, torch.tensor([label for _, label in objects], dtype=torch.int64))


half = st.integers(0, 40).map(lambda n: n / 2)
side = st.integers(1, 60).map(lambda n: n / 2)
boxes = st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
kinds = st.lists(st.tuples(boxes, st.integers(0, CLASSES - 1)), min_size=1, max_size=4)
crowds = kinds.flatmap(lambda some: st.lists(st.sampled_from(some), min_size=2, max_size=12))
"""Lists of objects, many of them equal."""
SMALL, FLAT = ((0.0, 0.0, 0.5, 0.5), 1), ((0.0, 11.0, 6.0, 12.5), 0)


@pytest.mark.parametrize("assigner", COMPETING, ids=lambda a: f"{a.name} {a.branch}")
@examples(15)
@given(crowds, st.integers(0, 1000))
@example([FLAT, SMALL, (SMALL[0], 2), FLAT], 0)
def test_only_the_first_of_equal_objects_has_points(
    assigner: Assigner, objects: list[tuple[Box, int]], seed: int
) -> None:
    found = assigner.assign(POINTS, predictions(seed), targets(objects), Progress(1, 3, 1, 3))
    owners = {g for g in found.object.tolist() if g >= 0}
    assert owners <= {objects.index(each) for each in objects}


@pytest.mark.parametrize("count", range(13))
@pytest.mark.parametrize("combine", ["mul", "add"])
def test_equal_objects_have_the_same_qualities_to_the_last_bit(
    count: int, combine: Combination
) -> None:
    of = packed(targets([((0.0, 0.0, 32.0, 32.0), 1)] * count))
    quality = matching_quality(batched(predictions(0)), of, 0.8, combine)[0, :count]
    assert quality.shape == (count, len(POINTS))
    assert torch.equal(quality, quality[:1].expand_as(quality))


def test_values_of_the_first_of_equal_objects_stand_for_all() -> None:
    """Another box, or another class, makes another object."""
    box, other = (0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 4.0, 5.0)
    of = targets([(box, 0), (other, 0), (box, 0), (box, 1), (other, 0)])
    few = targets([(other, 0), (box, 0), (other, 0)])
    values = torch.arange(20.0).reshape(2, 5, 2)
    first, second = equalize(values, packed(of, few))
    assert torch.equal(first, values[0, [0, 1, 0, 3, 1]])
    assert torch.equal(second[:3], values[1, [0, 1, 0]])
    assert torch.equal(equalize(values[:1, :1], packed(targets([(box, 0)]))), values[:1, :1])


@pytest.mark.parametrize("assigner", [Poto(), Foreground(), MinCost(), Center(), Anchor()])
def test_an_exact_matching_gives_each_of_equal_objects_a_point(assigner: Assigner) -> None:
    of = targets([((4.0, 4.0, 28.0, 28.0), 1)] * 5)
    found = assigner.assign(POINTS, predictions(0), of, Progress(0, 1, 0, 1))
    assert sorted(g for g in found.object.tolist() if g >= 0) == [0, 1, 2, 3, 4]
