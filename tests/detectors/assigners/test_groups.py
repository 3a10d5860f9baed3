"""Groups of points, compared with an assignment of each group for itself."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.base import Assigner
from detectors.assigners.groups import assign_groups
from detectors.assigners.min_cost import MinCost
from detectors.assigners.min_cost_many import MinCostMany
from detectors.assigners.o2f import O2F
from detectors.engine import assign
from detectors.models.points import whole_image
from detectors.structures import Predictions, Progress, Targets
from tests.detectors.batching import CPU, packed
from tests.examples import examples

RULES: list[Assigner] = [
    MinCost(),
    MinCostMany(repeats=2),
    O2F(prior="global", ambiguous_weight=0.5),
]
NOW = Progress(1, 8, 0, 4)


def objects(count: int, rng: torch.Generator) -> Targets:
    corner = 20 * torch.rand(count, 2, generator=rng)
    boxes = torch.cat([corner, corner + 1 + 12 * torch.rand(count, 2, generator=rng)], 1)
    return Targets(boxes, torch.randint(3, (count,), generator=rng))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@examples(10)
@given(st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(0, 6), min_size=1, max_size=3))
def test_equals_the_groups_one_by_one(
    rule: Assigner, groups: int, size: int, counts: list[int]
) -> None:
    rng = torch.Generator().manual_seed(groups + 10 * size)
    targets = packed(*(objects(count, rng) for count in counts))
    shape = (len(counts), groups * size)
    corner = 20 * torch.rand(*shape, 2, generator=rng)
    boxes = torch.cat([corner, corner + 1 + 12 * torch.rand(*shape, 2, generator=rng)], 2)
    logits = 3 * torch.randn(*shape, 3, generator=rng)
    points = whole_image(32, 32, groups * size, CPU, groups)
    found = assign_groups(rule, points, Predictions(logits, boxes), targets, NOW)
    own = replace(whole_image(32, 32, size, CPU))
    for group in range(groups):
        rows = slice(group * size, (group + 1) * size)
        part = Predictions(logits[:, rows], boxes[:, rows])
        one = rule.assign_batch(own, part, targets, NOW)
        assert torch.equal(found.object[:, rows], one.object)
        assert torch.equal(found.degree[:, rows], one.degree)
        assert (found.weight is None) == (one.weight is None)
        if found.weight is not None and one.weight is not None:
            assert torch.equal(found.weight[:, rows], one.weight)
    image, point = (found.object >= 0).nonzero(as_tuple=True)
    assert all(map(torch.equal, found.positives(), (image, point)))
    if groups > 1:
        assert list(found.counts) == (found.object >= 0).sum(1).tolist()


@pytest.mark.parametrize("heads", [1, 2])
def test_training_assigns_every_head_in_groups(heads: int) -> None:
    rng = torch.Generator().manual_seed(1)
    boxes = objects(6, rng).boxes[None]
    points, predicted = whole_image(32, 32, 6, CPU, 3), Predictions(torch.zeros(1, 6, 3), boxes)
    found = assign(MinCost(), points, [predicted] * heads, packed(objects(1, rng)), NOW)
    assert len(found) == heads
    for each in found:
        assert (each.object >= 0).view(3, 2).sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_there_may_be_no_points(rule: Assigner, groups: int) -> None:
    targets = packed(objects(2, torch.Generator()), objects(0, torch.Generator()))
    nothing = Predictions(torch.zeros(2, 0, 3), torch.zeros(2, 0, 4))
    points = whole_image(32, 32, 0, CPU, groups)
    found = assign_groups(rule, points, nothing, targets, NOW).located()
    assert found.object.shape == found.degree.shape == (2, 0)
    assert (found.object.dtype, found.degree.dtype) == (torch.int64, torch.float32)
    assert found.counts == (0, 0)
