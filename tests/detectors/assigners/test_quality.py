"""The three rules of 003 Table 9 that depend on predictions, compared with loops in Python."""

from collections.abc import Callable
from math import exp, inf
from statistics import mean, stdev
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.assigners import quality as module
from detectors.assigners.geometry import matching_quality
from detectors.assigners.quality_atss import QualityAtss
from detectors.assigners.quality_fcos import QualityFcos
from detectors.assigners.quality_topk import QualityTopk
from detectors.models.points import pyramid_points
from detectors.structures import Points, Predictions, Progress, Targets
from tests.detectors.assigners.rounding import shaken
from tests.detectors.batching import batched, packed
from tests.examples import examples

Box = tuple[float, float, float, float]
Rule = QualityAtss | QualityFcos | QualityTopk

STRIDES, CLASSES = (4, 8, 16), 3
half = st.integers(-8, 80).map(lambda n: n / 2)
side = st.integers(1, 90).map(lambda n: n / 2)
boxes = st.lists(
    st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    max_size=6,
)


def points_of(height: int, width: int, strides: tuple[int, ...] = STRIDES) -> Points:
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    return pyramid_points(sizes, strides, torch.device("cpu"))


def random_predictions(points: Points, seed: int) -> Predictions:
    rng = torch.Generator().manual_seed(seed)
    reach = 0.1 + 3 * torch.rand(len(points), 4, generator=rng) * points.stride[:, None]
    predicted = torch.cat([points.xy - reach[:, :2], points.xy + reach[:, 2:]], dim=1)
    return Predictions(3 * torch.randn(len(points), CLASSES, generator=rng), predicted)


def blank(points: Points) -> Predictions:
    """Predict no class anywhere, and boxes without area."""
    return Predictions(torch.full((len(points), CLASSES), -4.0), points.xy.repeat(1, 2))


def targets(boxes: list[Box]) -> Targets:
    labels = torch.arange(len(boxes)) % CLASSES
    return Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)


def assign(rule: Rule, points: Points, predicted: Predictions, boxes: list[Box]) -> list[int]:
    found = rule.assign(points, predicted, targets(boxes), Progress(0, 1, 0, 1))
    assert found.degree.tolist() == [float(obj >= 0) for obj in found.object.tolist()]
    assert found.weight is None
    objects: list[int] = found.object.tolist()
    return objects


def scalar_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - overlap)


def equation(alpha: float, predicted: Predictions, box: Box, label: int) -> list[float]:
    """Compute 003 Eq. 4 without the prior, at every point."""
    scores = [1 / (1 + exp(-row[label])) for row in predicted.logits.tolist()]
    ious = [scalar_iou(box, tuple(row)) for row in predicted.boxes.tolist()]
    return [p ** (1 - alpha) * iou**alpha for p, iou in zip(scores, ious, strict=True)]


def qualities(rule: Rule, predicted: Predictions, boxes: list[Box]) -> Tensor:
    """Compute the qualities that are ranked, and compare them with the equation in plain Python.

    The loops below rank these numbers, not those of the equation: points or objects whose
    qualities differ by no more than rounding may be ranked in either order.
    """
    of = packed(targets(boxes))
    found = matching_quality(batched(predicted), of, rule.alpha)[0, : len(boxes)]
    for g, box in enumerate(boxes):
        row = equation(rule.alpha, predicted, box, g % CLASSES)
        assert found[g].tolist() == pytest.approx(row, rel=1e-4, abs=1e-9)
    return found


def inside(points: Points, box: Box) -> list[bool]:
    return [box[0] < x < box[2] and box[1] < y < box[3] for x, y in points.xy.tolist()]


def best(quality: list[float], members: list[int], count: int) -> list[int]:
    return sorted(members, key=lambda n: (-quality[n], n))[:count]


def topk_positives(rule: Rule, points: Points, box: Box, quality: list[float]) -> list[int]:
    assert isinstance(rule, QualityTopk)
    within = inside(points, box)
    return best(quality, [n for n in range(len(points)) if within[n]], rule.topk)


def atss_positives(rule: Rule, points: Points, box: Box, quality: list[float]) -> list[int]:
    assert isinstance(rule, QualityAtss)
    levels: list[int] = points.level.tolist()
    candidates = []
    for level in sorted(set(levels)):
        members = [n for n in range(len(points)) if levels[n] == level]
        candidates += best(quality, members, rule.topk)
    values = [quality[n] for n in candidates]
    threshold = mean(values) + (stdev(values) if len(values) > 1 else 0.0)
    within = inside(points, box)
    return [n for n in candidates if within[n] and quality[n] >= threshold]


def fcos_positives(rule: Rule, points: Points, box: Box, quality: list[float]) -> list[int]:
    assert isinstance(rule, QualityFcos)
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    within, levels = inside(points, box), points.level.tolist()
    square = []
    for n, (x, y) in enumerate(points.xy.tolist()):
        reach = rule.radius * STRIDES[levels[n]]
        if within[n] and max(abs(x - cx), abs(y - cy)) < reach:
            square.append(n)
    level = {levels[n] for n in best(quality, square, 1)}
    return [n for n in square if levels[n] in level]


Positives = Callable[[Rule, Points, Box, list[float]], list[int]]
ORACLES: dict[type[Rule], Positives] = {
    QualityAtss: atss_positives,
    QualityFcos: fcos_positives,
    QualityTopk: topk_positives,
}
each = pytest.mark.parametrize("kind", ORACLES, ids=lambda kind: kind.__name__)


def ranked(rule: Rule, points: Points, boxes: list[Box], quality_GN: Tensor) -> list[int]:
    """Find the object of each point in loops; of equal qualities the first object wins."""
    highest, owner = [-inf] * len(points), [-1] * len(points)
    for g, (box, quality) in enumerate(zip(boxes, quality_GN.tolist(), strict=True)):
        for n in ORACLES[type(rule)](rule, points, box, quality):
            if quality[n] > highest[n]:
                highest[n], owner[n] = quality[n], g
    return owner


def looped(rule: Rule, points: Points, predicted: Predictions, boxes: list[Box]) -> list[int]:
    return ranked(rule, points, boxes, qualities(rule, predicted, boxes))


@each
@examples(30)
@given(
    st.sampled_from([(32, 32), (64, 48), (7, 33), (1, 1)]),
    boxes,
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.5, 0.8, 1.0]),
)
def test_equals_the_loop_over_objects(
    kind: type[Rule], size: tuple[int, int], of: list[Box], seed: int, alpha: float
) -> None:
    points, rule = points_of(*size), kind(alpha=alpha)
    predicted = random_predictions(points, seed)
    assert assign(rule, points, predicted, of) == looped(rule, points, predicted, of)


@each
@examples(10)
@given(boxes, st.integers(0, 10_000))
def test_equals_the_loop_however_the_last_bits_are_rounded(
    kind: type[Rule], of: list[Box], seed: int
) -> None:
    points, rule, crowd = points_of(32, 32), kind(), of * 3
    predicted = random_predictions(points, seed)
    quality = shaken(qualities(rule, predicted, crowd), seed)
    batch = quality[None] if of else torch.zeros(1, 1, len(points))
    with mock.patch.object(module, "matching_quality", return_value=batch):
        assert assign(rule, points, predicted, crowd) == ranked(rule, points, crowd, quality)


@each
def test_a_crowd(kind: type[Rule]) -> None:
    """There are more objects than points on the coarse levels, so every point is contested."""
    points = points_of(32, 32)
    predicted = random_predictions(points, 3)
    rng = torch.Generator().manual_seed(4)
    corner = 24 * torch.rand(90, 2, generator=rng)
    crowd = torch.cat([corner, corner + 4 + 16 * torch.rand(90, 2, generator=rng)], 1)
    of: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in crowd.tolist()]
    found = assign(kind(), points, predicted, of)
    assert found == looped(kind(), points, predicted, of)
    assert len(set(found)) > 10


@each
def test_no_objects(kind: type[Rule]) -> None:
    points = points_of(32, 32)
    assert set(assign(kind(), points, random_predictions(points, 5), [])) == {-1}


@each
def test_of_equal_boxes_the_one_whose_class_is_predicted_takes_the_points(
    kind: type[Rule],
) -> None:
    points = points_of(32, 32)
    predicted = blank(points)
    predicted.logits[:, 1] = 2.0
    predicted.boxes[:] = torch.tensor([2.0, 2.0, 30.0, 30.0])
    found = assign(kind(), points, predicted, [(2.0, 2.0, 30.0, 30.0)] * 3)
    assert set(found) == {-1, 1}


@each
def test_points_inside_the_box_are_positive_even_if_all_qualities_are_zero(
    kind: type[Rule],
) -> None:
    """As at the start of training, where predicted boxes have no area."""
    points, box = points_of(32, 32), (0.0, 0.0, 32.0, 32.0)
    found = assign(kind(), points, blank(points), [box])
    assert found == looped(kind(), points, blank(points), [box])
    assert found.count(0) >= 4


def test_topk_ranks_over_all_levels_and_inside_the_box() -> None:
    """Six predictions in the box are perfect, five on the coarse level and one on the fine one."""
    points, box = points_of(64, 64), (0.0, 0.0, 64.0, 40.0)
    predicted, level = blank(points), points.level.tolist()
    within = inside(points, box)
    inner = [n for n in range(len(points)) if within[n]]
    good = [n for n in inner if level[n] == 2][:5] + [n for n in inner if level[n] == 0][:1]
    outer = [n for n in range(len(points)) if not within[n]][:10]
    predicted.boxes[good + outer] = torch.tensor(box)
    predicted.logits[good + outer, 0] = 2.0
    found = assign(QualityTopk(topk=6), points, predicted, [box])
    assert [n for n, g in enumerate(found) if g == 0] == sorted(good)


def test_topk_gives_no_other_point_for_a_lost_one() -> None:
    points, box = points_of(32, 32), (0.0, 0.0, 32.0, 32.0)
    predicted = blank(points)
    predicted.boxes[:] = torch.tensor(box)
    predicted.logits[:12] = torch.linspace(3.0, 1.0, 12)[:, None]
    predicted.logits[0, 1] = 5.0
    found = assign(QualityTopk(topk=4), points, predicted, [box, box])
    assert found[:5] == [1, 0, 0, 0, -1]


def test_atss_counts_candidates_outside_the_box_in_the_threshold() -> None:
    """Perfect predictions outside the box raise the threshold above a middling one inside."""
    points, box = points_of(16, 48, (4,)), (0.0, 0.0, 16.0, 16.0)
    middling, perfect = (0.0, 0.0, 16.0, 8.0), box
    predicted, within = blank(points), inside(points, box)
    predicted.logits[:] = 0.0
    here = next(n for n in range(len(points)) if within[n])
    predicted.boxes[here] = torch.tensor(middling)
    assert assign(QualityAtss(), points, predicted, [box])[here] == 0
    outside = [n for n in range(len(points)) if not within[n]][:8]
    predicted.boxes[outside] = torch.tensor(perfect)
    assert set(assign(QualityAtss(), points, predicted, [box])) == {-1}


@pytest.mark.parametrize("level", [0, 1, 2])
def test_fcos_takes_the_centre_square_of_the_level_that_predicts_best(level: int) -> None:
    points, box = points_of(64, 64), (8.0, 8.0, 56.0, 56.0)
    predicted, stride = blank(points), STRIDES[level]
    n = min(
        (n for n in range(len(points)) if points.level[n] == level),
        key=lambda n: (points.xy[n] - 32).abs().sum().item(),
    )
    predicted.boxes[n], predicted.logits[n, 0] = torch.tensor(box), 3.0
    found = assign(QualityFcos(), points, predicted, [box])
    near = {32 - stride / 2, 32 + stride / 2}
    positive = [n for n, g in enumerate(found) if g == 0]
    assert {int(points.level[n]) for n in positive} == {level}
    assert sorted(tuple(points.xy[n].tolist()) for n in positive) == sorted(
        (x, y) for x in near for y in near
    )
