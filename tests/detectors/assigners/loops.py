"""Random scenes in double precision, and what loops over objects and points need.

In double precision, values of different pairs differ by more than the rounding of a formula.
"""

from math import exp

import torch
from hypothesis import strategies as st

from detectors.models.points import pyramid_points
from detectors.structures import Points, Predictions, Targets

Box = tuple[float, ...]

STRIDES, CLASSES = (4, 8, 16), 3
SIZES = [(32, 32), (64, 48), (7, 33), (1, 1)]
half = st.integers(-8, 80).map(lambda n: n / 2)
side = st.integers(1, 90).map(lambda n: n / 2)
boxes = st.lists(
    st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    max_size=6,
)
sizes, seeds = st.sampled_from(SIZES), st.integers(0, 10_000)


def points_of(height: int, width: int, strides: tuple[int, ...] = STRIDES) -> Points:
    grid = [(-(-height // s), -(-width // s)) for s in strides]
    return pyramid_points(grid, strides, torch.device("cpu"))


def random_predictions(points: Points, seed: int) -> Predictions:
    rng = torch.Generator().manual_seed(seed)
    reach = torch.rand(len(points), 4, generator=rng, dtype=torch.float64)
    reach = (0.1 + 3 * reach) * points.stride[:, None]
    predicted = torch.cat([points.xy - reach[:, :2], points.xy + reach[:, 2:]], dim=1)
    logits = 3 * torch.randn(len(points), CLASSES, generator=rng, dtype=torch.float64)
    return Predictions(logits, predicted)


def targets_at(boxes: list[Box]) -> Targets:
    """Return objects of the classes 0, 1, 2, 0, ..."""
    labels = torch.arange(len(boxes)) % CLASSES
    return Targets(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), labels)


def sigmoid(logit: float) -> float:
    return 1 / (1 + exp(-logit))


def scalar_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - overlap)


def ious(predicted: Predictions, boxes: list[Box]) -> list[list[float]]:
    """Compute the IoU of every object and the predicted box of every point."""
    return [[scalar_iou(box, tuple(row)) for row in predicted.boxes.tolist()] for box in boxes]


def inside(points: Points, box: Box) -> list[bool]:
    return [box[0] < x < box[2] and box[1] < y < box[3] for x, y in points.xy.tolist()]
