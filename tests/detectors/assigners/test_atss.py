from math import inf
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.atss import Atss
from detectors.models.points import Shape, pyramid_points
from detectors.structures import Points, Predictions, Progress, Targets
from tests.examples import examples

Box = tuple[float, float, float, float]

STRIDES = (4, 8, 16)
SQUARE: tuple[Shape, ...] = ((4.0, 4.0),)
# Halves of small integers: products and sums are exact in float32, so equal IoUs are equal bits.
half = st.integers(-8, 80).map(lambda n: n / 2)
side = st.integers(1, 90).map(lambda n: n / 2)
boxes = st.lists(
    st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    max_size=6,
)


def points_of(
    height: int,
    width: int,
    strides: tuple[int, ...] = STRIDES,
    anchors: tuple[Shape, ...] = SQUARE,
) -> Points:
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    return pyramid_points(sizes, strides, torch.device("cpu"), anchors)


def assign(assigner: Atss, points: Points, boxes: list[Box]) -> list[int]:
    predictions = Predictions(torch.zeros(len(points), 1), torch.zeros(len(points), 4))
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    targets = Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)
    found = assigner.assign(points, predictions, targets, Progress(0, 1, 0, 1))
    assert found.degree.tolist() == [float(obj >= 0) for obj in found.object.tolist()]
    assert found.weight is None
    objects: list[int] = found.object.tolist()
    return objects


def scalar_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - overlap
    return float(np.float32(overlap / union))


def looped(points: Points, boxes: list[Box], topk: int) -> list[int]:
    """Run ATSS in loops over objects and levels; the mean and the deviation are exact."""
    best, owner = [-inf] * len(points), [-1] * len(points)
    xy, anchors, levels = points.xy.tolist(), points.anchors.tolist(), points.level.tolist()
    for g, box in enumerate(boxes):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        away = [(x - cx) ** 2 + (y - cy) ** 2 for x, y in xy]
        candidates = []
        for level in sorted(set(levels)):
            members = [n for n in range(len(points)) if levels[n] == level]
            candidates += sorted(members, key=lambda n: (away[n], n))[:topk]
        ious = [scalar_iou(box, tuple(anchors[n])) for n in candidates]
        threshold = mean(ious) + (stdev(ious) if len(ious) > 1 else 0.0)
        for n, iou in zip(candidates, ious, strict=True):
            x, y = xy[n]
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if inside and iou >= threshold and iou > best[n]:
                best[n], owner[n] = iou, g
    return owner


@examples(30)
@given(st.sampled_from([(32, 32), (64, 48), (7, 33), (1, 1)]), boxes, st.sampled_from([1, 4, 9]))
def test_equals_the_loop_over_objects_and_levels(
    size: tuple[int, int], of: list[Box], topk: int
) -> None:
    points = points_of(*size)
    assert assign(Atss(topk=topk), points, of) == looped(points, of, topk)


@pytest.mark.parametrize("strides", [(8,), (4, 8), (8, 16, 32, 64, 128)])
@pytest.mark.parametrize("scale", [4.0, 8.0])
def test_any_number_of_levels_even_with_fewer_points_than_candidates(
    strides: tuple[int, ...], scale: float
) -> None:
    points = points_of(128, 160, strides, ((scale, scale),))
    of: list[Box] = [(0.0, 0.0, 128.0, 128.0), (10.0, 20.0, 50.0, 40.0), (90.0, 60.0, 99.0, 69.0)]
    found = assign(Atss(), points, of)
    assert found == looped(points, of, 9)
    assert 1 in found or strides == (4, 8)


def test_with_two_levels_an_object_may_have_no_point() -> None:
    """Of nine good and nine poor candidates, mean + unbiased deviation is above all."""
    points = points_of(128, 128, (4, 8), ((8.0, 8.0),))
    assert set(assign(Atss(), points, [(0.0, 0.0, 127.0, 127.0)])) == {-1}
    assert 0 in assign(Atss(topk=1), points_of(128, 128, (8,)), [(0.0, 0.0, 127.0, 127.0)])


def test_anchors_of_one_cell_compete_as_points() -> None:
    points = points_of(48, 48, anchors=((4.0, 4.0), (2.0, 8.0), (8.0, 2.0)))
    of: list[Box] = [(4.0, 4.0, 44.0, 20.0), (10.0, 2.0, 20.0, 46.0)]
    found = assign(Atss(topk=12), points, of)
    assert found == looped(points, of, 12)
    assert set(found) == {-1, 0, 1}


def test_the_level_whose_anchors_fit_is_found() -> None:
    """The box equals an anchor of the middle level; no other candidate is near its IoU."""
    points = points_of(64, 64)
    middle = next(n for n, xy in enumerate(points.xy.tolist()) if xy == [28.0, 28.0])
    assert points.level[middle] == 1
    assert points.anchors[middle].tolist() == [12.0, 12.0, 44.0, 44.0]
    found = assign(Atss(), points, [(12.0, 12.0, 44.0, 44.0)])
    assert found[middle] == 0
    assert {int(points.level[n]) for n, g in enumerate(found) if g == 0} == {1}


def test_a_contested_point_goes_to_the_higher_iou_not_to_the_smaller_object() -> None:
    points = points_of(64, 64, (8,))
    fits, small = (12.0, 12.0, 44.0, 44.0), (20.0, 20.0, 36.0, 36.0)
    middle = points.xy.tolist().index([28.0, 28.0])
    assert assign(Atss(), points, [small])[middle] == 0
    assert assign(Atss(), points, [small, fits])[middle] == 1


def test_an_object_larger_than_all_anchors_keeps_its_equal_candidates() -> None:
    """Nine anchors inside the box have the same IoU, so all are positive."""
    found = assign(Atss(), points_of(128, 128, (8,)), [(0.5, 3.0, 127.0, 126.5)])
    assert found.count(0) == 9


def test_of_equal_objects_the_first_takes_all_points() -> None:
    assert set(assign(Atss(), points_of(64, 64), [(12.0, 12.0, 44.0, 44.0)] * 80)) == {-1, 0}


def test_an_object_that_holds_no_point_gets_none() -> None:
    assert set(assign(Atss(), points_of(32, 32), [(3.5, 3.5, 4.5, 4.5)])) == {-1}


def test_a_positive_point_is_more_than_the_margin_inside() -> None:
    """(10, 10) is 0.005 pixels from the left side: ATSS's code has a margin of 0.01, 003 has 0."""
    points, box = points_of(32, 32, (4,)), (9.995, 8.0, 11.9, 12.1)
    edge = [n for n, xy in enumerate(points.xy.tolist()) if xy == [10.0, 10.0]]
    assert edge
    without = assign(Atss(topk=1, margin=0), points, [box])
    with_margin = assign(Atss(topk=1), points, [box])
    assert without[edge[0]] == 0
    assert with_margin[edge[0]] == -1
    assert [n for n, g in enumerate(without) if g == 0 and with_margin[n] != 0] == edge
