import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.retinanet import RetinaNetIou
from detectors.models.points import Shape, anchor_shapes, pyramid_points
from detectors.structures import Assignment, Points, Predictions, Progress, Targets
from tests.examples import examples

Box = tuple[float, float, float, float]

STRIDES = (4, 8, 16)
NINE = anchor_shapes((4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)), (0.5, 1.0, 2.0))
# Halves of small integers: products and sums are exact in float32, so equal IoUs are equal bits.
half = st.integers(-8, 80).map(lambda n: n / 2)
side = st.integers(1, 90).map(lambda n: n / 2)
boxes = st.lists(
    st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    max_size=6,
)


def points_of(height: int, width: int, anchors: tuple[Shape, ...] = ((4.0, 4.0),)) -> Points:
    sizes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    return pyramid_points(sizes, STRIDES, torch.device("cpu"), anchors)


def anchors_at(*anchors: Box) -> Points:
    """Build points of one level with the given reference boxes."""
    boxes = torch.tensor(anchors)
    n = len(boxes)
    xy, level = (boxes[:, :2] + boxes[:, 2:]) / 2, torch.zeros(n, dtype=torch.int64)
    return Points(xy, torch.full((n,), 8.0), level, boxes, (64.0, 64.0), (n,))


def assign(assigner: RetinaNetIou, points: Points, boxes: list[Box]) -> Assignment:
    predictions = Predictions(torch.zeros(len(points), 3), torch.zeros(len(points), 4))
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    targets = Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)
    found = assigner.assign(points, predictions, targets, Progress(0, 1, 0, 1))
    assert found.degree.tolist() == [float(obj >= 0) for obj in found.object.tolist()]
    assert found.weight is not None
    assert found.weight.shape == (len(points), 1)
    return found


def kinds(found: Assignment) -> list[int]:
    """Return the object of a positive anchor, -1 for a negative and -2 for an ignored one."""
    assert found.weight is not None
    weights = found.weight[:, 0].tolist()
    assert set(weights) <= {0.0, 1.0}
    pairs = zip(found.object.tolist(), weights, strict=True)
    return [obj if weight else {-1: -2}[obj] for obj, weight in pairs]


def scalar_iou(a: Box, b: Box) -> np.float32:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return np.float32(overlap / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - overlap))


def looped(assigner: RetinaNetIou, points: Points, boxes: list[Box]) -> list[int]:
    """Apply the thresholds per anchor, then find the best anchors per object."""
    table = [[scalar_iou(box, tuple(a)) for a in points.anchors.tolist()] for box in boxes]
    high, low = np.float32(assigner.positive_iou), np.float32(assigner.negative_iou)
    found = []
    for n in range(len(points)):
        column = [row[n] for row in table]
        best = max(column, default=np.float32(0))
        forced = any(row[n] == max(row) > 0 for row in table)
        if best >= high or (assigner.low_quality and forced):
            found.append(column.index(best))
        else:
            found.append(-1 if best < low else -2)
    return found


@examples(30)
@given(
    st.sampled_from([(32, 32), (64, 48), (7, 33), (1, 1)]),
    boxes,
    st.sampled_from([(0.4, 0.5), (0.25, 0.25), (0.0, 1.0), (0.3, 0.7)]),
    st.booleans(),
)
def test_equals_the_loop_over_anchors_and_objects(
    size: tuple[int, int], of: list[Box], thresholds: tuple[float, float], low_quality: bool
) -> None:
    low, high = thresholds
    assigner = RetinaNetIou(negative_iou=low, positive_iou=high, low_quality=low_quality)
    points = points_of(*size)
    assert kinds(assign(assigner, points, of)) == looped(assigner, points, of)


def test_nine_anchors_per_cell_are_nine_points() -> None:
    points = points_of(64, 64, NINE)
    assert len(points) == 9 * (256 + 64 + 16)
    of: list[Box] = [(3.0, 5.0, 21.0, 17.0), (10.0, 20.0, 59.0, 50.0), (40.0, 2.0, 52.0, 31.0)]
    found = kinds(assign(RetinaNetIou(), points, of))
    assert found == looped(RetinaNetIou(), points, of)
    assert set(found) == {-2, -1, 0, 1, 2}


def test_ends_of_the_ignored_range() -> None:
    """Of a box of 100: IoU 0.5 is positive, 0.49 and 0.4 are ignored, 0.39 is negative."""
    points = anchors_at(*((0.0, 0.0, width, 10.0) for width in (5.0, 4.9, 4.0, 3.9)))
    found = kinds(assign(RetinaNetIou(low_quality=False), points, [(0.0, 0.0, 10.0, 10.0)]))
    assert found == [0, -2, -2, -1]


def test_every_best_anchor_is_positive_however_little_it_overlaps() -> None:
    points = anchors_at((0.0, 0.0, 1.0, 10.0), (9.0, 0.0, 10.0, 10.0), (4.0, 0.0, 4.5, 10.0))
    of: list[Box] = [(0.0, 0.0, 10.0, 10.0)]
    assert kinds(assign(RetinaNetIou(), points, of)) == [0, 0, -1]
    assert kinds(assign(RetinaNetIou(low_quality=False), points, of)) == [-1, -1, -1]


def test_an_objects_best_anchor_goes_to_another_object_that_it_overlaps_more() -> None:
    points = anchors_at((0.0, 0.0, 10.0, 10.0))
    weak, strong = (0.0, 0.0, 3.0, 10.0), (0.0, 0.0, 4.5, 10.0)
    assert kinds(assign(RetinaNetIou(), points, [weak])) == [0]
    assert kinds(assign(RetinaNetIou(), points, [weak, strong])) == [1]
    assert kinds(assign(RetinaNetIou(), points, [strong, weak])) == [0]


@pytest.mark.parametrize("low_quality", [True, False])
def test_an_object_away_from_all_anchors_makes_none_positive(low_quality: bool) -> None:
    found = assign(
        RetinaNetIou(low_quality=low_quality), points_of(32, 32), [(200.0, 200.0, 210.0, 210.0)]
    )
    assert set(kinds(found)) == {-1}


def test_without_objects_every_anchor_is_negative() -> None:
    assert set(kinds(assign(RetinaNetIou(negative_iou=0.1), points_of(32, 32), []))) == {-1}


def test_more_equal_objects_than_anchors() -> None:
    points = anchors_at((0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0))
    assert kinds(assign(RetinaNetIou(), points, [(0.0, 0.0, 10.0, 9.0)] * 5)) == [0, -1]


def test_negatives_may_not_overlap_more_than_positives() -> None:
    with pytest.raises(ValueError, match=r"negative_iou must not be above.*0\.6 > 0\.5"):
        RetinaNetIou(negative_iou=0.6)


def own_last(points: Points, boxes: list[Box], found: list[int]) -> list[int]:
    """Give the best anchors of each object to it, one object after the other (mmdetection)."""
    found = list(found)
    for g, box in enumerate(boxes):
        ious = [scalar_iou(box, tuple(a)) for a in points.anchors.tolist()]
        for n, iou in enumerate(ious):
            if iou == max(ious) and iou > 0:
                found[n] = g
    return found


@examples(30)
@given(boxes)
def test_low_quality_anchors_may_belong_to_their_own_object(of: list[Box]) -> None:
    points = points_of(32, 32)
    highest = kinds(assign(RetinaNetIou(), points, of))
    own = kinds(assign(RetinaNetIou(low_quality_owner="own"), points, of))
    assert own == own_last(points, of, highest)


def test_the_owner_of_a_low_quality_anchor_that_another_object_overlaps_more() -> None:
    """The small object overlaps only this anchor, which the large object overlaps more."""
    points = anchors_at((0.0, 0.0, 16.0, 16.0), (40.0, 40.0, 56.0, 56.0))
    of: list[Box] = [(0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 16.0, 15.0)]
    assert kinds(assign(RetinaNetIou(), points, of)) == [1, -1]
    for objects, owner in ((of, 1), (of[::-1], 1)):
        found = assign(RetinaNetIou(low_quality_owner="own"), points, objects)
        assert kinds(found) == [owner, -1]
    assert kinds(assign(RetinaNetIou(low_quality=False), points, of)) == [1, -1]
