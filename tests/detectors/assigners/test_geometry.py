import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.assigners.geometry import (
    center_distance,
    centers,
    in_center_square,
    ltrb,
    matching_quality,
)
from detectors.models.points import pyramid_points
from detectors.structures import Points, Predictions, Targets

Box = tuple[float, float, float, float]

POINTS = pyramid_points([(4, 5), (2, 3)], (4, 8), torch.device("cpu"))
# Quarters of small integers: every sum and product below is exact in float32.
quarter = st.integers(-40, 120).map(lambda n: n / 4)
side = st.integers(1, 100).map(lambda n: n / 4)
boxes = st.lists(
    st.tuples(quarter, quarter, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    max_size=5,
)
examples = settings(deadline=None, max_examples=30)


def targets(of: list[Box], labels: list[int] | None = None) -> Targets:
    names = torch.tensor(labels or [0] * len(of), dtype=torch.int64)
    return Targets(torch.tensor(of, dtype=torch.float32).reshape(-1, 4), names)


def located(points: Points) -> list[tuple[float, float, float]]:
    """(x, y, stride) of every point."""
    rows: list[list[float]] = torch.cat([points.xy, points.stride[:, None]], dim=1).tolist()
    return [(x, y, stride) for x, y, stride in rows]


def scalar_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - overlap)


@examples
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


@examples
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


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_matching_quality_is_the_weighted_geometric_mean(alpha: float, count: int) -> None:
    rng = torch.Generator().manual_seed(count)
    logits = 3 * torch.randn(len(POINTS), 3, generator=rng)
    corner = 16 * torch.rand(len(POINTS), 2, generator=rng)
    predicted = torch.cat([corner, corner + 1 + 8 * torch.rand(len(POINTS), 2, generator=rng)], 1)
    of: list[Box] = [(2.0, 2.0, 9.0, 12.0), (0.0, 0.0, 20.0, 16.0), (5.0, 1.0, 6.0, 2.0)]
    of, labels = [*of, of[0]][:count], [0, 2, 1, 1][:count]
    quality = matching_quality(Predictions(logits, predicted), targets(of, labels), alpha)
    assert quality.shape == (count, len(POINTS))
    for g, (box, label) in enumerate(zip(of, labels, strict=True)):
        for n, (x0, y0, x1, y1) in enumerate(predicted.tolist()):
            score = 1 / (1 + math.exp(-logits[n, label].item()))
            expected = score ** (1 - alpha) * scalar_iou(box, (x0, y0, x1, y1)) ** alpha
            assert quality[g, n].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_quality_stays_in_range_for_extreme_scores_and_degenerate_boxes() -> None:
    logits = torch.tensor([[200.0], [-200.0], [0.0], [0.0]])
    flat = [[1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0], [5.0, 5.0, 5.0, 5.0], [9.0, 9.0, 1.0, 1.0]]
    of = targets([(1.0, 1.0, 9.0, 9.0)])
    quality = matching_quality(Predictions(logits, torch.tensor(flat)), of, 0.8)
    assert quality.tolist() == [[1.0, 0.0, 0.0, 0.0]]
