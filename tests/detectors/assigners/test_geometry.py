import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.geometry import (
    Combination,
    center_distance,
    centers,
    class_logits,
    class_score,
    fits_level,
    in_box,
    in_center_square,
    in_prior,
    ltrb,
    matching_quality,
)
from detectors.boxes import paired_giou, pairwise_giou
from detectors.losses import focal_change, sigmoid_focal
from detectors.models.points import pyramid_points
from detectors.structures import Points, Predictions, Targets
from tests.detectors.batching import packed
from tests.examples import examples

Box = tuple[float, float, float, float]

POINTS = pyramid_points([(4, 5), (2, 3)], (4, 8), torch.device("cpu"))
# Quarters of small integers: every sum and product below is exact in float32.
quarter = st.integers(-40, 120).map(lambda n: n / 4)
side = st.integers(1, 100).map(lambda n: n / 4)
boxes = st.lists(
    st.tuples(quarter, quarter, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    max_size=5,
)


def targets(of: list[Box], labels: list[int] | None = None) -> Targets:
    names = torch.tensor(labels or [0] * len(of), dtype=torch.int64)
    return Targets(torch.tensor(of, dtype=torch.float32).reshape(-1, 4), names)


def located(points: Points) -> list[tuple[float, float, float]]:
    """Return (x, y, stride) of every point."""
    rows: list[list[float]] = torch.cat([points.xy, points.stride[:, None]], dim=1).tolist()
    return [(x, y, stride) for x, y, stride in rows]


def scalar_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - overlap)


@examples(30)
@given(boxes)
def test_distances_to_sides_and_centres(of: list[Box]) -> None:
    sides, distances = ltrb(POINTS, targets(of)), center_distance(POINTS, targets(of))
    assert sides.shape == (len(of), len(POINTS), 4)
    assert distances.shape == (len(of), len(POINTS))
    for g, (x0, y0, x1, y1) in enumerate(of):
        assert centers(targets(of))[g].tolist() == [(x0 + x1) / 2, (y0 + y1) / 2]
        for n, (x, y, _) in enumerate(located(POINTS)):
            assert sides[g, n].tolist() == [x - x0, y - y0, x1 - x, y1 - y]
            expected = math.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2)
            assert distances[g, n].item() == pytest.approx(expected)


@examples(30)
@given(boxes, st.sampled_from([0.5, 1.5, 2.5, 100.0]))
def test_centre_square_is_that_of_the_level_clipped_to_the_box(
    of: list[Box], radius: float
) -> None:
    inside = in_center_square(POINTS, targets(of), radius)
    assert inside.shape == (len(of), len(POINTS))
    for g, (x0, y0, x1, y1) in enumerate(of):
        for n, (x, y, stride) in enumerate(located(POINTS)):
            reach, cx, cy = radius * stride, (x0 + x1) / 2, (y0 + y1) / 2
            square = (max(x0, cx - reach), max(y0, cy - reach), min(x1, cx + reach))
            left, top, right = square
            bottom = min(y1, cy + reach)
            assert inside[g, n].item() == (left < x < right and top < y < bottom)


@examples(30)
@given(boxes)
def test_priors_are_square_box_and_everywhere(of: list[Box]) -> None:
    found = targets(of)
    inside = in_prior(POINTS, found, "box", 1.0)
    assert torch.equal(inside, ltrb(POINTS, found).amin(2) > 0)
    assert torch.equal(inside, in_box(POINTS, found))
    square = in_prior(POINTS, found, "center", 1.0)
    assert torch.equal(square, in_center_square(POINTS, found, 1.0))
    everywhere = in_prior(POINTS, found, "global", 1.0)
    assert everywhere.shape == (len(of), len(POINTS))
    assert everywhere.all()


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.5, 1.0])
def test_inside_is_more_than_the_margin_from_each_side(margin: float) -> None:
    """The point (2, 2) is `gap` from one side and far from the others."""
    for gap in (0.0, margin, margin + 0.005):
        for moved in range(4):
            box = [-8.0, -8.0, 12.0, 12.0]
            box[moved] = 2 - gap if moved < 2 else 2 + gap
            inside = in_box(POINTS, Targets(torch.tensor([box]), torch.tensor([0])), margin)
            assert inside[0, 0].item() == (gap > margin)


@pytest.mark.parametrize(
    ("reach", "stride", "level", "expected"),
    [
        (-5.0, 8, 0, True),
        (64.0, 8, 0, True),
        (64.5, 8, 0, False),
        (63.5, 16, 1, False),
        (64.0, 16, 1, True),
        (64.5, 16, 1, True),
        (128.0, 16, 1, True),
        (127.5, 32, 2, False),
        (128.0, 32, 2, True),
        (1e9, 32, 2, True),
    ],
)
def test_levels_have_the_ranges_of_fcos(
    reach: float, stride: float, level: int, expected: bool
) -> None:
    points = pyramid_points([(1, 1)] * 3, (8, 16, 32), torch.device("cpu"))
    assert points.stride[level] == stride
    fits = fits_level(points, torch.full((1, 3), reach), 8.0)
    assert fits[0, level].item() == expected


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_matching_quality_is_a_weighted_mean(
    alpha: float, count: int, combine: Combination
) -> None:
    rng = torch.Generator().manual_seed(count)
    logits = 3 * torch.randn(len(POINTS), 3, generator=rng)
    corner = 16 * torch.rand(len(POINTS), 2, generator=rng)
    predicted = torch.cat([corner, corner + 1 + 8 * torch.rand(len(POINTS), 2, generator=rng)], 1)
    of: list[Box] = [(2.0, 2.0, 9.0, 12.0), (0.0, 0.0, 20.0, 16.0), (5.0, 1.0, 6.0, 2.0)]
    of, labels = [*of, of[0]][:count], [0, 2, 1, 1][:count]
    found = targets(of, labels)
    batch, of_batch = Predictions(logits[None], predicted[None]), packed(found)
    quality = matching_quality(batch, of_batch, alpha, combine)[0, :count]
    assert quality.shape == (count, len(POINTS))
    for g, (box, label) in enumerate(zip(of, labels, strict=True)):
        for n, (x0, y0, x1, y1) in enumerate(predicted.tolist()):
            score = 1 / (1 + math.exp(-logits[n, label].item()))
            iou = scalar_iou(box, (x0, y0, x1, y1))
            geometric = score ** (1 - alpha) * iou**alpha
            expected = geometric if combine == "mul" else (1 - alpha) * score + alpha * iou
            assert quality[g, n].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
            assert class_score(batch, of_batch)[0, g, n].item() == pytest.approx(score, rel=1e-5)
            assert class_logits(batch, of_batch)[0, g, n] == logits[n, label]


def test_quality_stays_in_range_for_extreme_scores_and_degenerate_boxes() -> None:
    logits = torch.tensor([[200.0], [-200.0], [0.0], [0.0]])
    flat = [[1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0], [5.0, 5.0, 5.0, 5.0], [9.0, 9.0, 1.0, 1.0]]
    of = packed(targets([(1.0, 1.0, 9.0, 9.0)]))
    quality = matching_quality(Predictions(logits[None], torch.tensor([flat])), of, 0.8)
    assert quality.tolist() == [[[1.0, 0.0, 0.0, 0.0]]]


@examples(30)
@given(boxes, boxes)
def test_pairwise_giou_is_that_of_the_pairs(first: list[Box], second: list[Box]) -> None:
    a, b = targets(first).boxes, targets(second).boxes
    found = pairwise_giou(a, b)
    assert found.shape == (len(a), len(b))
    for g in range(len(a)):
        expected = paired_giou(a[g].expand_as(b), b)
        assert found[g].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_giou_of_degenerate_boxes_is_finite() -> None:
    a = torch.tensor([[1.0, 1.0, 9.0, 9.0], [5.0, 5.0, 5.0, 5.0]])
    b = torch.tensor([[9.0, 9.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0], [20.0, 5.0, 20.0, 5.0]])
    expected = [paired_giou(row.expand_as(b), b).tolist() for row in a]
    assert pairwise_giou(a, b).tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (1.0, 1.5)])
def test_focal_loss_and_its_change_by_a_positive(alpha: float, gamma: float) -> None:
    logits = torch.tensor([-6.0, -1.0, 0.0, 0.5, 4.0], dtype=torch.float64)
    for x, loss, change in zip(
        logits.tolist(),
        sigmoid_focal(logits, torch.ones_like(logits), alpha, gamma).tolist(),
        focal_change(logits, alpha, gamma).tolist(),
        strict=True,
    ):
        p = 1 / (1 + math.exp(-x))
        positive = -alpha * (1 - p) ** gamma * math.log(p)
        negative = -(1 - alpha) * p**gamma * math.log(1 - p)
        assert loss == pytest.approx(positive)
        assert change == pytest.approx(positive - negative)


def test_focal_change_of_extreme_logits_is_finite_and_falls() -> None:
    found = focal_change(torch.tensor([-500.0, -50.0, 0.0, 50.0, 500.0]), 0.25, 2.0)
    assert found.tolist() == pytest.approx([125.0, 12.5, -0.0866, -37.5, -375.0], rel=1e-3)
