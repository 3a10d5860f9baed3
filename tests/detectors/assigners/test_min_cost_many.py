"""H-DETR's matching with repeated objects, compared with its released code."""

import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.hybrid import Hybrid
from detectors.assigners.min_cost import MinCost
from detectors.assigners.min_cost_many import MinCostMany
from detectors.models.points import whole_image
from detectors.structures import Predictions, Progress, Targets
from tests.detectors.batching import CPU, packed
from tests.examples import examples

EXTENT = 32
RULES = {
    "default": MinCostMany(),
    "two": MinCostMany(repeats=2, l1_of="center_sides"),
    "no classes": MinCostMany(repeats=3, classification=False),
    "once": MinCostMany(repeats=1, giou_weight=1.0),
}
NOW = Progress(0, 1, 0, 1)


def random_boxes(count: int, rng: torch.Generator) -> torch.Tensor:
    corner = 20 * torch.rand(count, 2, generator=rng)
    return torch.cat([corner, corner + 1 + 11 * torch.rand(count, 2, generator=rng)], 1)


def released_cost(rule: MinCostMany, predicted: Predictions, objects: Targets) -> torch.Tensor:
    """HungarianMatcher of Deformable DETR and H-DETR, with boxes in [0, 1]: [N, G]."""
    p = predicted.logits.double().sigmoid()
    negative = (1 - rule.focal_alpha) * p**rule.focal_gamma * -(1 - p + 1e-8).log()
    positive = rule.focal_alpha * (1 - p) ** rule.focal_gamma * -(p + 1e-8).log()
    cost = rule.cls_weight * (positive - negative)[:, objects.labels] * rule.classification
    a, b = predicted.boxes.double() / EXTENT, objects.boxes.double() / EXTENT
    if rule.l1_of == "center_sides":
        c, d = ((torch.cat([(x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2]], 1)) for x in (a, b))
    else:
        c, d = a, b
    cost = cost + rule.l1_weight * (c[:, None] - d[None]).abs().sum(2)
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    inner = (torch.minimum(a[:, None, 2:], b[None, :, 2:]) - low).clamp(min=0).prod(2)
    union = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1) - inner
    hull = torch.maximum(a[:, None, 2:], b[None, :, 2:]) - torch.minimum(
        a[:, None, :2], b[None, :, :2]
    )
    giou = inner / union - (hull.prod(2) - union) / hull.prod(2)
    return cost - rule.giou_weight * giou


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@examples(15)
@given(st.integers(1, 30), st.integers(0, 6), st.integers(0, 10_000))
def test_equals_the_matching_of_repeated_objects(
    rule: MinCostMany, count: int, number: int, seed: int
) -> None:
    """`target["boxes"].repeat(k, 1)`, then `linear_sum_assignment`: engine.py of H-DETR."""
    rng = torch.Generator().manual_seed(seed)
    predicted = Predictions(3 * torch.randn(count, 3, generator=rng), random_boxes(count, rng))
    objects = Targets(random_boxes(number, rng), torch.randint(3, (number,), generator=rng))
    found = rule.assign(whole_image(EXTENT, EXTENT, count, CPU), predicted, objects, NOW)
    cost = released_cost(rule, predicted, objects)
    repeated = cost.repeat(1, rule.repeats).numpy()
    points, columns = scipy.optimize.linear_sum_assignment(repeated)
    expected = [-1] * count
    for point, column in zip(points, columns, strict=True):
        expected[point] = int(column) % max(1, number)
    assert found.object.tolist() == expected
    assert found.degree.tolist() == [float(each >= 0) for each in expected]


def test_once_is_the_one_to_one_matching() -> None:
    rng = torch.Generator().manual_seed(0)
    images = [Targets(random_boxes(n, rng), torch.randint(3, (n,), generator=rng)) for n in (4, 0)]
    predicted = Predictions(
        torch.randn(2, 9, 3, generator=rng), torch.stack([random_boxes(9, rng) for _ in images])
    )
    points, targets = whole_image(EXTENT, EXTENT, 9, CPU), packed(*images)
    many = MinCostMany(repeats=1).assign_batch(points, predicted, targets, NOW)
    one = MinCost().assign_batch(points, predicted, targets, NOW)
    assert torch.equal(many.object, one.object)


def test_hybrid_epochs_of_queries_need_no_positions() -> None:
    """H-DETR's other scheme: repeated objects in the first epochs, one-to-one in the others."""
    hybrid = Hybrid(first=MinCostMany(), then=MinCost())
    assert not hybrid.needs_positions
    assert Hybrid(first=MinCostMany()).needs_positions
    assert Hybrid(then=MinCost()).needs_positions
