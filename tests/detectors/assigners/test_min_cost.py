from itertools import permutations
from math import exp, inf, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.min_cost import MinCost
from detectors.models.points import pyramid_points
from detectors.structures import Points, Predictions, Progress, Targets
from tests.examples import examples

Box = tuple[float, float, float, float]

STRIDES, CLASSES = (4, 8, 16), 3
CPU = torch.device("cpu")
SMALL = pyramid_points([(2, 2), (1, 1), (1, 1)], STRIDES, CPU)
LARGE = pyramid_points([(16, 12), (8, 6), (4, 3)], STRIDES, CPU)
half = st.integers(-4, 20).map(lambda n: n / 2)
side = st.integers(1, 40).map(lambda n: n / 2)
any_box = st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
seeds = st.integers(0, 10_000)
VARIANTS = {
    "predicted": MinCost(),
    "centres and sides": MinCost(l1_of="center_sides"),
    "weights": MinCost(cls_weight=0.5, l1_weight=1.0, giou_weight=3.0),
    "focal": MinCost(focal_alpha=0.6, focal_gamma=1.0),
    "no classes": MinCost(classification=False),
    "anchors": MinCost(location="anchors"),
    "points": MinCost(location="points", range_factor=1.0),
    "points, any level": MinCost(location="points", level_range=False, classification=False),
    "points, bug": MinCost(location="points", range_factor=1.0, compat_level_bug=True),
    "predicted, own level": MinCost(level_range=True, range_factor=1.0),
    "predicted, own level, bug": MinCost(
        level_range=True, range_factor=1.0, compat_level_bug=True, classification=False
    ),
    "anchors, own level": MinCost(location="anchors", level_range=True, range_factor=1.0),
}


def predictions(points: Points, seed: int) -> Predictions:
    rng = torch.Generator().manual_seed(seed)
    reach = 0.1 + 2 * torch.rand(len(points), 4, generator=rng) * points.stride[:, None]
    boxes = torch.cat([points.xy - reach[:, :2], points.xy + reach[:, 2:]], dim=1)
    return Predictions(3 * torch.randn(len(points), CLASSES, generator=rng), boxes)


def assign(
    min_cost: MinCost, points: Points, predicted: Predictions, boxes: list[Box]
) -> dict[int, int]:
    """Return the point of each object; object g has class g modulo the number of classes."""
    labels = torch.arange(len(boxes)) % CLASSES
    targets = Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)
    found = min_cost.assign(points, predicted, targets, Progress(0, 1, 0, 1))
    assert found.degree.tolist() == (found.object >= 0).float().tolist()
    return {g: n for n, g in enumerate(found.object.tolist()) if g >= 0}


def scalar_giou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union - (hull - union) / hull


class Equation:
    """001 Eq. 3 and the released code's predefined costs, per pair in plain Python."""

    def __init__(self, options: MinCost, points: Points, predicted: Predictions) -> None:
        self.options, self.points, self.predicted = options, points, predicted

    def cost(self, g: int, n: int, box: Box) -> float:
        o, total = self.options, self.location(n, box)
        by_level = o.location == "points" if o.level_range is None else o.level_range
        total += 9999 if by_level and self.off_level(n, box) else 0
        if o.classification:
            p = 1 / (1 + exp(-self.predicted.logits[n, g % CLASSES].item()))
            positive = -o.focal_alpha * pow(1 - p, o.focal_gamma) * log(p)
            negative = -(1 - o.focal_alpha) * pow(p, o.focal_gamma) * log(1 - p)
            total += o.cls_weight * (positive - negative)
        return total

    def location(self, n: int, box: Box) -> float:
        o, (width, height) = self.options, self.points.extent
        if o.location == "points":
            x, y = self.xy(n)
            l1 = abs(2 * x - box[0] - box[2]) / width + abs(2 * y - box[1] - box[3]) / height
            return o.l1_weight * l1
        boxes = self.predicted.boxes if o.location == "predicted" else self.points.anchors
        x0, y0, x1, y1 = boxes[n].tolist()
        parts = [(box[0] - x0, width), (box[1] - y0, height)]
        parts += [(box[2] - x1, width), (box[3] - y1, height)]
        if o.l1_of == "center_sides":
            (a, _), (b, _), (c, _), (d, _) = parts
            parts = [((a + c) / 2, width), ((b + d) / 2, height), (c - a, width), (d - b, height)]
        l1 = float(sum(abs(difference) / extent for difference, extent in parts))
        return o.l1_weight * l1 - o.giou_weight * scalar_giou(box, (x0, y0, x1, y1))

    def xy(self, n: int) -> tuple[float, float]:
        x, y = self.points.xy[n].tolist()
        return float(x), float(y)

    def off_level(self, n: int, box: Box) -> bool:
        x, y = self.xy(n)
        left, top, right, bottom = x - box[0], y - box[1], box[2] - x, box[3] - y
        reach = max(left, bottom if self.options.compat_level_bug else top, right, bottom)
        ends = [-inf, *(self.options.range_factor * s for s in STRIDES[:-1]), inf]
        level = int(self.points.level[n])
        return not ends[level] <= reach <= ends[level + 1]


@pytest.mark.parametrize("name", VARIANTS)
@examples(15)
@given(boxes=st.lists(any_box, max_size=4), seed=seeds)
def test_no_permutation_costs_less(name: str, boxes: list[Box], seed: int) -> None:
    options, predicted = VARIANTS[name], predictions(SMALL, seed)
    equation = Equation(options, SMALL, predicted)
    costs = [[equation.cost(g, n, box) for n in range(len(SMALL))] for g, box in enumerate(boxes)]
    found = assign(options, SMALL, predicted, boxes)
    assert sorted(found) == list(range(len(boxes)))
    ours = sum(costs[g][n] for g, n in found.items())
    choices = permutations(range(len(SMALL)), len(boxes))
    least = min(sum(costs[g][n] for g, n in enumerate(choice)) for choice in choices)
    assert ours == pytest.approx(least, abs=2e-3)


@pytest.mark.parametrize("name", VARIANTS)
@examples(8)
@given(boxes=st.lists(any_box, max_size=6), seed=seeds)
def test_argmin_is_each_objects_own_minimum(name: str, boxes: list[Box], seed: int) -> None:
    options = VARIANTS[name].model_copy(update={"solver": "argmin"})
    predicted, near = predictions(SMALL, seed), 2e-3
    equation = Equation(options, SMALL, predicted)
    costs = [[equation.cost(g, n, box) for n in range(len(SMALL))] for g, box in enumerate(boxes)]
    found = assign(options, SMALL, predicted, boxes)
    minima = [{n for n, each in enumerate(row) if each <= min(row) + near} for row in costs]
    for g, n in found.items():
        assert n in minima[g]
        rivals = [costs[h][n] for h in range(len(boxes)) if minima[h] == {n}]
        assert costs[g][n] <= min(rivals, default=inf) + near
    for g in set(range(len(boxes))) - set(found):
        assert minima[g] & set(found.values())


def test_the_best_prediction_is_chosen_wherever_its_point_is() -> None:
    """Without a spatial prior the best box may belong to a point far outside the object."""
    box: Box = (4.0, 4.0, 12.0, 12.0)
    predicted = Predictions(torch.zeros(len(LARGE), CLASSES), predictions(LARGE, 3).boxes)
    far = LARGE.xy.tolist().index([46.0, 62.0])
    predicted.boxes[far], predicted.logits[far, 0] = torch.tensor(box), 4.0
    assert assign(MinCost(), LARGE, predicted, [box]) == {0: far}
    assert assign(MinCost(location="points"), LARGE, predicted, [box]) != {0: far}


def test_without_classes_a_point_is_chosen_by_its_position_alone() -> None:
    boxes: list[Box] = [(10.0, 10.0, 19.0, 19.0)]
    first, second = predictions(LARGE, 4), predictions(LARGE, 5)
    blind = MinCost(location="points", classification=False)
    assert assign(blind, LARGE, first, boxes) == assign(blind, LARGE, second, boxes)
    chosen = assign(blind, LARGE, first, boxes)[0]
    assert LARGE.xy[chosen].tolist() == [14.0, 14.0]


def test_level_range_decides_the_level_and_the_bug_moves_a_low_object() -> None:
    """From points near its lower side, the object's top is outside the range of its level."""
    box: Box = (20.0, 12.0, 26.0, 36.0)
    scores = Predictions(torch.full((len(LARGE), CLASSES), -9.0), torch.zeros(len(LARGE), 4))
    low = LARGE.xy.tolist().index([22.0, 34.0])
    scores.logits[low] = 9.0
    options = MinCost(location="points", range_factor=4.0, l1_weight=0.1)
    assert assign(options, LARGE, scores, [box])[0] != low
    assert assign(options.model_copy(update={"level_range": False}), LARGE, scores, [box])[0] == low
    assert assign(options.model_copy(update={"compat_level_bug": True}), LARGE, scores, [box]) == {
        0: low
    }


@pytest.mark.parametrize("scale", [60.0, 300.0])
def test_extreme_logits_have_finite_costs(scale: float) -> None:
    predicted = predictions(LARGE, 6)
    sure = Predictions(predicted.logits.sign() * scale, predicted.boxes)
    boxes: list[Box] = [(4.0, 4.0, 12.0, 12.0), (20.0, 20.0, 40.0, 50.0)]
    found = assign(MinCost(), LARGE, sure, boxes)
    assert [sure.logits[found[g], g].item() for g in (0, 1)] == [scale, scale]


def test_level_range_of_predicted_boxes_is_an_option() -> None:
    """The best prediction is of a level for larger objects: 001 takes it, the text of 000 not."""
    box: Box = (20.0, 20.0, 28.0, 28.0)
    predicted = Predictions(torch.full((len(LARGE), CLASSES), -4.0), predictions(LARGE, 7).boxes)
    coarse = next(n for n in range(len(LARGE)) if LARGE.xy[n].tolist() == [24.0, 24.0])
    assert LARGE.stride[coarse] == 16.0
    predicted.boxes[coarse], predicted.logits[coarse, 0] = torch.tensor(box), 4.0
    assert assign(MinCost(), LARGE, predicted, [box]) == {0: coarse}
    assert assign(MinCost(level_range=False), LARGE, predicted, [box]) == {0: coarse}
    chosen = assign(MinCost(level_range=True), LARGE, predicted, [box])[0]
    assert LARGE.stride[chosen] == 4.0
