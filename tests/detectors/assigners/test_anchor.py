from math import hypot

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.anchor import Anchor
from detectors.models.points import anchor_shapes, pyramid_points
from detectors.structures import Points, Predictions, Progress, Targets
from tests.detectors.assigners.ordering import check_order
from tests.examples import examples

Box = tuple[float, float, float, float]

CPU = torch.device("cpu")
SMALL = pyramid_points([(2, 2), (1, 1)], (4, 8), CPU, anchors=((1.0, 1.0),))
NINE = pyramid_points(
    [(8, 8), (4, 4)], (4, 8), CPU, anchors=anchor_shapes((2.0, 2.5, 3.2), (0.5, 1.0, 2.0))
)
half = st.integers(-4, 20).map(lambda n: n / 2)
side = st.integers(1, 40).map(lambda n: n / 2)
any_box = st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def assign(anchor: Anchor, points: Points, boxes: list[Box]) -> dict[int, int]:
    """Return the point of each object."""
    predictions = Predictions(torch.zeros(len(points), 1), torch.zeros(len(points), 4))
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    targets = Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)
    found = anchor.assign(points, predictions, targets, Progress(0, 1, 0, 1))
    assert found.degree.tolist() == (found.object >= 0).float().tolist()
    return {g: n for n, g in enumerate(found.object.tolist()) if g >= 0}


def scalar_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - overlap)


def overlap(points: Points, n: int, box: Box) -> float:
    x0, y0, x1, y1 = points.anchors[n].tolist()
    return scalar_iou(box, (x0, y0, x1, y1))


def apart(points: Points, n: int, box: Box) -> float:
    x, y = points.xy[n].tolist()
    return hypot(x - (box[0] + box[2]) / 2, y - (box[1] + box[3]) / 2)


@examples(30)
@given(st.lists(any_box, max_size=4))
def test_no_other_choice_overlaps_more(boxes: list[Box]) -> None:
    """Most objects overlap their anchor; then IoU is largest, then the others' distance least."""
    size = (len(boxes), len(SMALL))
    cells = [(g, n) for g in range(size[0]) for n in range(size[1])]
    iou = {(g, n): overlap(SMALL, n, boxes[g]) for g, n in cells}
    away = {(g, n): apart(SMALL, n, boxes[g]) for g, n in cells}
    found = assign(Anchor(), SMALL, boxes).items()
    check_order(found, size, lambda p: iou[p] > 0, iou.__getitem__, away.__getitem__, 1e-5)


@pytest.mark.parametrize("solver", ["lsa", "argmax"])
def test_a_single_object_takes_the_anchor_of_its_position_size_and_shape(solver: str) -> None:
    box: Box = (10.0, 4.0, 18.0, 20.0)
    chosen = assign(Anchor.model_validate({"solver": solver}), NINE, [box])[0]
    assert overlap(NINE, chosen, box) == max(overlap(NINE, n, box) for n in range(len(NINE)))
    width, height = (NINE.anchors[chosen, 2:] - NINE.anchors[chosen, :2]).tolist()
    assert height / width == pytest.approx(2.0)


def test_an_object_that_loses_its_anchor_takes_the_next_best_or_none() -> None:
    boxes: list[Box] = [(0.0, 0.0, 4.5, 4.0), (0.0, 0.0, 4.0, 4.0)]
    contested = SMALL.xy.tolist().index([2.0, 2.0])
    exact = assign(Anchor(), SMALL, boxes)
    assert exact[1] == contested
    assert overlap(SMALL, exact[0], boxes[0]) > 0
    assert assign(Anchor(solver="argmax"), SMALL, boxes) == {1: contested}


def test_an_object_that_overlaps_no_anchor_takes_the_nearest_or_none() -> None:
    boxes: list[Box] = [(100.0, 100.0, 102.0, 102.0)]
    chosen = assign(Anchor(), SMALL, boxes)[0]
    assert SMALL.xy[chosen].tolist() == [6.0, 6.0]
    assert assign(Anchor(solver="argmax"), SMALL, boxes) == {}
