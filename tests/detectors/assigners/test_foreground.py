from math import exp, hypot, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.foreground import Foreground
from detectors.models.points import pyramid_points
from detectors.structures import Points, Predictions, Progress, Targets
from tests.detectors.assigners.ordering import check_order
from tests.detectors.batching import batched, packed
from tests.examples import examples

Box = tuple[float, float, float, float]

STRIDES, CLASSES = (4, 8, 16), 3
SMALL = pyramid_points([(2, 2), (1, 1), (1, 1)], STRIDES, torch.device("cpu"))
LARGE = pyramid_points([(16, 16), (8, 8), (4, 4)], STRIDES, torch.device("cpu"))
half = st.integers(-4, 20).map(lambda n: n / 2)
side = st.integers(1, 40).map(lambda n: n / 2)
any_box = st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def predictions(points: Points, seed: int) -> Predictions:
    rng = torch.Generator().manual_seed(seed)
    reach = 0.1 + 2 * torch.rand(len(points), 4, generator=rng) * points.stride[:, None]
    boxes = torch.cat([points.xy - reach[:, :2], points.xy + reach[:, 2:]], dim=1)
    return Predictions(3 * torch.randn(len(points), CLASSES, generator=rng), boxes)


def assign(
    options: Foreground, points: Points, predicted: Predictions, boxes: list[Box]
) -> dict[int, int]:
    """Return the point of each object; object g has class g modulo the number of classes."""
    labels = torch.arange(len(boxes)) % CLASSES
    targets = Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)
    found = options.assign(points, predicted, targets, Progress(0, 1, 0, 1))
    return {g: n for n, g in enumerate(found.object.tolist()) if g >= 0}


def scalar_giou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union - (hull - union) / hull


def cost(options: Foreground, predicted: Predictions, g: int, n: int, box: Box) -> float:
    """Compute 003 Eq. 2: focal loss class by class, and 1 - GIoU of the box."""
    total = 0.0
    for label, logit in enumerate(predicted.logits[n].tolist()):
        p, target = 1 / (1 + exp(-logit)), label == g % CLASSES
        weight = options.focal_alpha if target else 1 - options.focal_alpha
        p_t = p if target else 1 - p
        total += -weight * (1 - p_t) ** options.focal_gamma * log(p_t)
    x0, y0, x1, y1 = predicted.boxes[n].tolist()
    return total + options.box_weight * (1 - scalar_giou(box, (x0, y0, x1, y1)))


def inside(options: Foreground, points: Points, n: int, box: Box) -> bool:
    (x, y), reach = points.xy[n].tolist(), options.radius * points.stride[n].item()
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    within = box[0] < x < box[2] and box[1] < y < box[3]
    return within and bool(max(abs(x - cx), abs(y - cy)) < reach)


def apart(n: int, box: Box) -> float:
    x, y = SMALL.xy[n].tolist()
    return hypot(x - (box[0] + box[2]) / 2, y - (box[1] + box[3]) / 2)


@examples(30)
@given(st.lists(any_box, max_size=4), st.integers(0, 10_000), st.sampled_from([0.0, 2.0]))
def test_no_permutation_has_less_loss(boxes: list[Box], seed: int, box_weight: float) -> None:
    """Most objects are in their squares; then their loss is least, then the others' distance."""
    options, predicted = Foreground(box_weight=box_weight, radius=1.0), predictions(SMALL, seed)
    size = (len(boxes), len(SMALL))
    cells = [(g, n) for g in range(size[0]) for n in range(size[1])]
    gain = {(g, n): -cost(options, predicted, g, n, boxes[g]) for g, n in cells}
    square = {(g, n): inside(options, SMALL, n, boxes[g]) for g, n in cells}
    away = {(g, n): apart(n, boxes[g]) for g, n in cells}
    found = assign(options, SMALL, predicted, boxes).items()
    check_order(found, size, square.__getitem__, gain.__getitem__, away.__getitem__, 1e-4)


@pytest.mark.parametrize("sure", [6.0, 60.0, 1e4])
def test_the_only_candidate_of_two_goes_to_the_lower_cost_whatever_other_costs_are(
    sure: float,
) -> None:
    """A third object has candidates of a much higher cost, and the loser has far to go."""
    level = pyramid_points([(4, 4)], (8,), torch.device("cpu"))
    contested, third = (level.xy.tolist().index(xy) for xy in ([12.0, 12.0], [28.0, 28.0]))
    logits = torch.full((len(level), 2), 0.01).logit()
    logits[contested], logits[third] = torch.tensor([0.32, 0.54]).logit(), sure
    predicted = Predictions(logits, torch.cat([level.xy - 4, level.xy + 4], dim=1))
    predicted.boxes[contested] = torch.tensor([9.5, 9.5, 16.14, 16.14])
    boxes = [(10.0, 10.0, 14.0, 14.0), (9.0, 9.0, 19.5, 19.5), (17.0, 17.0, 31.0, 31.0)]
    of = Targets(torch.tensor(boxes), torch.tensor([0, 1, 0]))
    found = Foreground().assign(level, predicted, of, Progress(0, 1, 0, 1)).object.tolist()
    costs = Foreground()._cost(batched(predicted), packed(of))[0, :2, contested].tolist()
    assert costs == pytest.approx([1.576, 1.262], abs=1e-3)
    assert found[contested] == 1
    assert found[level.xy.tolist().index([12.0, 4.0])] == 0


def test_a_single_object_has_the_point_of_least_loss_in_its_square() -> None:
    options, predicted, box = Foreground(), predictions(LARGE, 1), (9.0, 11.0, 41.0, 37.0)
    costs = {
        n: cost(options, predicted, 0, n, box)
        for n in range(len(LARGE))
        if inside(options, LARGE, n, box)
    }
    assert len(costs) > 5
    assert assign(options, LARGE, predicted, [box]) == {0: min(costs, key=lambda n: costs[n])}


def test_other_classes_count_against_a_point() -> None:
    """Unlike POTO, where only the own class counts, a point sure of another class loses."""
    box: Box = (8.0, 8.0, 24.0, 24.0)
    boxes = torch.tensor([box]).repeat(len(LARGE), 1)
    sure, torn = (LARGE.xy.tolist().index(xy) for xy in ([14.0, 14.0], [18.0, 18.0]))
    logits = torch.full((len(LARGE), CLASSES), -4.0)
    logits[sure, 0] = 1.0
    logits[torn] = torch.tensor([1.5, 5.0, -4.0])
    assert assign(Foreground(), LARGE, Predictions(logits, boxes), [box]) == {0: sure}


@pytest.mark.parametrize("scale", [60.0, 300.0])
def test_extreme_logits_leave_the_object_in_its_square(scale: float) -> None:
    predicted, box = predictions(LARGE, 2), (8.0, 8.0, 24.0, 24.0)
    sure = Predictions(predicted.logits.sign() * scale, predicted.boxes)
    assert inside(Foreground(), LARGE, assign(Foreground(), LARGE, sure, [box])[0], box)


def test_an_object_between_all_points_gets_the_nearest() -> None:
    box: Box = (31.0, 31.0, 32.5, 32.5)
    chosen = assign(Foreground(), LARGE, predictions(LARGE, 3), [box])[0]
    distances = (LARGE.xy - torch.tensor([31.75, 31.75])).norm(dim=1)
    assert distances[chosen] == distances.min()
