from math import hypot, inf

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.center import Center
from detectors.models.points import pyramid_points
from detectors.structures import Points, Predictions, Progress, Targets
from tests.detectors.assigners.ordering import check_order
from tests.examples import examples

Box = tuple[float, float, float, float]

STRIDES = (4, 8, 16)
SMALL = pyramid_points([(2, 2), (1, 1), (1, 1)], STRIDES, torch.device("cpu"))
LARGE = pyramid_points([(16, 16), (8, 8), (4, 4)], STRIDES, torch.device("cpu"))
half = st.integers(-8, 40).map(lambda n: n / 2)
side = st.integers(1, 160).map(lambda n: n / 2)
any_box = st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def targets(boxes: list[Box]) -> Targets:
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)


def assign(
    points: Points, boxes: list[Box], factor: float = 8.0, solver: str = "lsa"
) -> dict[int, int]:
    """Return the point of each object."""
    predictions = Predictions(torch.zeros(len(points), 1), torch.zeros(len(points), 4))
    center = Center.model_validate({"range_factor": factor, "solver": solver})
    found = center.assign(points, predictions, targets(boxes), Progress(0, 1, 0, 1))
    return {g: n for n, g in enumerate(found.object.tolist()) if g >= 0}


def own_levels(box: Box, factor: float) -> list[int]:
    """Return the levels whose range has half of the longer side, ends included."""
    half_side = max(box[2] - box[0], box[3] - box[1]) / 2
    ends = [-inf, *(factor * s for s in STRIDES[:-1]), inf]
    return [n for n in range(len(STRIDES)) if ends[n] <= half_side <= ends[n + 1]]


def apart(points: Points, n: int, box: Box) -> float:
    x, y = points.xy[n].tolist()
    return hypot(x - (box[0] + box[2]) / 2, y - (box[1] + box[3]) / 2)


@examples(30)
@given(st.lists(any_box, max_size=4), st.sampled_from([1.0, 8.0]))
def test_no_other_choice_is_nearer_on_the_objects_levels(boxes: list[Box], factor: float) -> None:
    """Most objects are on their level; their distance is least, then that of the others."""
    size = (len(boxes), len(SMALL))
    cells = [(g, n) for g in range(size[0]) for n in range(size[1])]
    own = {(g, n): SMALL.level[n].item() in own_levels(boxes[g], factor) for g, n in cells}
    away = {(g, n): apart(SMALL, n, boxes[g]) for g, n in cells}
    found = assign(SMALL, boxes, factor).items()
    check_order(found, size, own.__getitem__, lambda p: -away[p], away.__getitem__, 1e-3)


@examples(30)
@given(any_box)
def test_a_single_object_gets_the_nearest_point_of_its_level(box: Box) -> None:
    levels = own_levels(box, 8.0)
    of_level = [n for n, at in enumerate(LARGE.level.tolist()) if at in levels]
    nearest = min(apart(LARGE, n, box) for n in of_level)
    chosen = assign(LARGE, [box])[0]
    assert chosen in of_level
    assert apart(LARGE, chosen, box) == pytest.approx(nearest, abs=1e-3)


def test_objects_that_do_not_fit_on_their_level_take_the_nearest_point_elsewhere() -> None:
    """Both would take the point of the coarsest level; the next nearest is (6, 6) of the finest."""
    boxes: list[Box] = [(-72.0, -72.0, 88.0, 88.0)] * 2
    spots = [SMALL.xy[n].tolist() for n in assign(SMALL, boxes).values()]
    assert sorted(spots) == [[6.0, 6.0], [8.0, 8.0]]


def test_an_object_at_the_end_of_a_range_may_use_two_levels() -> None:
    """Half of its side is 32 pixels, and the nearest point of either level is at its centre."""
    fine, coarse = ((30.0, 30.0, 94.0, 94.0), (28.0, 28.0, 92.0, 92.0))
    points = pyramid_points([(32, 32), (16, 16), (8, 8)], STRIDES, torch.device("cpu"))
    levels = [points.level[assign(points, [box])[0]].item() for box in (fine, coarse)]
    assert levels == [0, 1]


def per_level(points: Points, boxes: list[Box], factor: float) -> list[int]:
    """Apply the rule of the released code in loops; return the object of each point, or -1."""
    areas, owners = [inf] * len(points), [-1] * len(points)
    ends = [-inf, *(factor * s for s in STRIDES[:-1]), inf]
    for g, (x0, y0, x1, y1) in enumerate(boxes):
        for level in range(len(STRIDES)):
            of_level = [n for n, at in enumerate(points.level.tolist()) if at == level]
            n = min(of_level, key=lambda n, box=boxes[g]: apart(points, n, box))  # type: ignore[misc]
            x, y = points.xy[n].tolist()
            reach = max(x - x0, y - y0, x1 - x, y1 - y)
            if ends[level] <= reach <= ends[level + 1] and (x1 - x0) * (y1 - y0) < areas[n]:
                areas[n], owners[n] = (x1 - x0) * (y1 - y0), g
    return owners


@examples(30)
@given(st.lists(any_box, max_size=5), st.sampled_from([1.0, 8.0]))
def test_per_level_is_the_rule_of_the_released_code(boxes: list[Box], factor: float) -> None:
    predictions = Predictions(torch.zeros(len(LARGE), 1), torch.zeros(len(LARGE), 4))
    center = Center(range_factor=factor, solver="per_level")
    found = center.assign(LARGE, predictions, targets(boxes), Progress(0, 1, 0, 1))
    assert found.object.tolist() == per_level(LARGE, boxes, factor)
    assert found.degree.tolist() == (found.object >= 0).float().tolist()


def test_per_level_leaves_a_contested_point_to_the_smaller_object() -> None:
    boxes: list[Box] = [(24.0, 24.0, 36.0, 36.0), (27.0, 27.0, 35.0, 35.0)]
    contested = LARGE.xy.tolist().index([30.0, 30.0])
    assert assign(LARGE, boxes, solver="per_level") == {1: contested}
    assert assign(LARGE, boxes, solver="argmax") == {0: contested}


def test_equal_objects_take_the_points_around_their_centre() -> None:
    found = assign(LARGE, [(24.0, 24.0, 40.0, 40.0)] * 4)
    around = {tuple(LARGE.xy[n].tolist()) for n in found.values()}
    assert around == {(30.0, 30.0), (30.0, 34.0), (34.0, 30.0), (34.0, 34.0)}


def test_argmax_leaves_a_contested_point_to_the_nearer_object() -> None:
    boxes: list[Box] = [(23.0, 23.0, 36.0, 36.0), (24.0, 24.0, 37.0, 37.0)]
    contested = LARGE.xy.tolist().index([30.0, 30.0])
    exact = assign(LARGE, boxes)
    assert sorted(exact) == [0, 1]
    assert contested in exact.values()
    assert assign(LARGE, boxes, solver="argmax") == {0: contested}
    assert assign(LARGE, boxes[1:], solver="argmax") == {0: contested}
