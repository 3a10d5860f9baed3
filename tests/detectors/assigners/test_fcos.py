from math import inf
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.fcos import Fcos
from detectors.models.points import pyramid_points
from detectors.structures import Points, Predictions, Progress, Targets
from tests.examples import examples

Box = tuple[float, float, float, float]

STRIDES = (4, 8, 16)
# Halves of small integers: every comparison below is exact in float32.
half = st.integers(-8, 120).map(lambda n: n / 2)
side = st.integers(1, 160).map(lambda n: n / 2)
boxes = st.lists(
    st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    max_size=8,
)


def points_of(height: int, width: int, strides: tuple[int, ...] = STRIDES) -> Points:
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    return pyramid_points(sizes, strides, torch.device("cpu"))


def assign(assigner: Fcos, points: Points, boxes: list[Box]) -> list[int]:
    predictions = Predictions(torch.zeros(len(points), 1), torch.zeros(len(points), 4))
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    targets = Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)
    found = assigner.assign(points, predictions, targets, Progress(0, 1, 0, 1))
    assert found.degree.tolist() == [float(obj >= 0) for obj in found.object.tolist()]
    objects: list[int] = found.object.tolist()
    return objects


def ranges(strides: tuple[int, ...], factor: float) -> list[tuple[float, float]]:
    """Return the size range (from, up to) of every level, as in FCOS's table."""
    ends = [factor * s for s in strides[:-1]]
    return list(zip([-inf, *(factor * s / 2 for s in strides[1:])], [*ends, inf], strict=True))


def looped(assigner: Fcos, points: Points, strides: tuple[int, ...], boxes: list[Box]) -> list[int]:
    """Apply the rule in loops over points and objects."""
    chosen = []
    for (x, y), level in zip(points.xy.tolist(), points.level.tolist(), strict=True):
        least, owner = inf, -1
        above, up_to = ranges(strides, assigner.range_factor)[level]
        reach = {"center": assigner.radius * strides[level], "box": inf}[assigner.prior]
        for g, (x0, y0, x1, y1) in enumerate(boxes):
            cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
            in_x = max(x0, cx - reach) < x < min(x1, cx + reach)
            in_y = max(y0, cy - reach) < y < min(y1, cy + reach)
            in_range = above <= max(x - x0, y - y0, x1 - x, y1 - y) <= up_to
            size = (x1 - x0) * (y1 - y0)
            if in_x and in_y and in_range and size < least:
                least, owner = size, g
        chosen.append(owner)
    return chosen


def test_ranges_of_the_loop_are_those_of_fcos() -> None:
    table = [(-inf, 64), (64, 128), (128, 256), (256, 512), (512, inf)]
    assert ranges((8, 16, 32, 64, 128), 8.0) == table


@examples(30)
@given(
    st.sampled_from([(32, 32), (64, 48), (7, 33)]),
    boxes,
    st.sampled_from([1.0, 1.5, 3.0]),
    st.sampled_from([2.0, 4.0, 8.0]),
    st.sampled_from(["center", "box"]),
)
def test_equals_the_loop_over_points_and_objects(
    size: tuple[int, int],
    of: list[Box],
    radius: float,
    factor: float,
    prior: Literal["center", "box"],
) -> None:
    assigner = Fcos(radius=radius, range_factor=factor, prior=prior)
    points = points_of(*size)
    assert assign(assigner, points, of) == looped(assigner, points, STRIDES, of)


@pytest.mark.parametrize("strides", [(8,), (4, 8), (8, 16, 32, 64, 128)])
def test_any_number_of_levels(strides: tuple[int, ...]) -> None:
    points = points_of(128, 160, strides)
    of: list[Box] = [(0.0, 0.0, 128.0, 128.0), (10.0, 20.0, 50.0, 40.0), (90.0, 60.0, 99.0, 69.0)]
    found = assign(Fcos(), points, of)
    assert found == looped(Fcos(), points, strides, of)
    assert set(found) == {-1, 0, 1, 2}


def test_upper_end_of_a_range_belongs_to_the_level() -> None:
    """The centre of the box is a point of both levels; half its side is 8 fine strides."""
    xy, stride = torch.tensor([[36.0, 36.0], [36.0, 36.0]]), torch.tensor([4.0, 8.0])
    points = Points(
        xy, stride, torch.tensor([0, 1]), torch.cat([xy - 8, xy + 8], 1), (72.0, 72.0), (1, 1)
    )
    assert assign(Fcos(range_factor=8.0), points, [(4.0, 4.0, 68.0, 68.0)]) == [0, 0]
    assert assign(Fcos(range_factor=8.0), points, [(3.5, 3.5, 68.5, 68.5)]) == [-1, 0]


def test_the_smallest_of_nested_objects_takes_the_point() -> None:
    outer, inner = (2.0, 2.0, 30.0, 30.0), (15.0, 15.0, 21.0, 21.0)
    points = points_of(32, 32)
    found = assign(Fcos(range_factor=8.0), points, [outer, inner])
    owners = {tuple(points.xy[n].tolist()): g for n, g in enumerate(found) if g >= 0}
    fine = {(x, y): 0 for x in (14.0, 18.0) for y in (14.0, 18.0)}
    assert owners == {**fine, (18.0, 18.0): 1}


def test_of_equal_objects_the_first_takes_all_points() -> None:
    assert set(assign(Fcos(), points_of(32, 32), [(4.0, 4.0, 28.0, 28.0)] * 3)) == {-1, 0}


def test_an_object_between_points_gets_none() -> None:
    assert set(assign(Fcos(), points_of(32, 32), [(3.5, 3.5, 4.5, 4.5)])) == {-1}


def test_without_centre_sampling_every_point_in_the_box_is_positive() -> None:
    """On a single level only the box decides, as in mmdetection's plain FCOS."""
    points, box = points_of(32, 32, (4,)), (2.0, 2.0, 31.0, 18.0)
    found = assign(Fcos(prior="box"), points, [box])
    xy: list[list[float]] = points.xy.tolist()
    assert [n for n, g in enumerate(found) if g == 0] == [
        n for n, (x, y) in enumerate(xy) if 2 < x < 31 and 2 < y < 18
    ]
    assert found.count(0) == 21
    assert set(assign(Fcos(), points, [box])) == {-1, 0}
    assert assign(Fcos(), points, [box]).count(0) < 21


@pytest.mark.parametrize("box", [(0.0, 0.0, 72.0, 20.0), (0.0, 0.0, 20.0, 72.0)])
def test_a_reach_of_exactly_an_end_is_in_the_ranges_of_two_levels(box: Box) -> None:
    """From (8, 8), the far side is 64 pixels away: the end of stride 8 and the start of 16."""
    points = points_of(128, 128, (8, 16))
    found = assign(Fcos(prior="box"), points, [box])
    coarse = [points.xy[n].tolist() for n, g in enumerate(found) if g == 0 and points.level[n] == 1]
    assert [8.0, 8.0] in coarse
    fine = [points.xy[n].tolist() for n, g in enumerate(found) if g == 0 and points.level[n] == 0]
    assert [12.0, 12.0] in fine
