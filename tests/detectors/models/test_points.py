import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.models.points import anchor_shapes, pyramid_points
from tests.examples import examples

CPU = torch.device("cpu")
sizes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4)
shapes = st.lists(st.tuples(st.sampled_from([1.0, 4.0, 5.5]), st.sampled_from([2.0, 3.0])))


@examples(30)
@given(sizes, st.sampled_from([4, 7, 8]), shapes.filter(len), st.sampled_from([0.5, 0.0, 0.25]))
def test_points_are_in_their_cells_row_by_row_finest_level_first(
    of: list[tuple[int, int]], finest: int, anchors: list[tuple[float, float]], offset: float
) -> None:
    """Every anchor of a cell is a point, by default at its centre, in the order of `anchors`."""
    strides = [finest * 2**level for level in range(len(of))]
    points = pyramid_points(of, strides, CPU, anchors, offset)
    if offset == 0.5:
        assert torch.equal(points.xy, pyramid_points(of, strides, CPU, anchors).xy)
    expected = [
        ((column + offset) * stride, (row + offset) * stride, stride, level, width, height)
        for level, ((rows, columns), stride) in enumerate(zip(of, strides, strict=True))
        for row in range(rows)
        for column in range(columns)
        for width, height in anchors
    ]
    assert len(points) == len(expected)
    assert points.xy.tolist() == [[x, y] for x, y, *_ in expected]
    assert points.stride.tolist() == [stride for _, _, stride, *_ in expected]
    assert points.level.tolist() == [level for _, _, _, level, _, _ in expected]
    assert points.anchors.tolist() == [
        [x - w * s / 2, y - h * s / 2, x + w * s / 2, y + h * s / 2]
        for x, y, s, _, w, h in expected
    ]
    assert points.xy.dtype == points.stride.dtype == points.anchors.dtype == torch.float32
    assert points.level.dtype == torch.int64


def test_by_default_a_cell_has_one_square_anchor_of_four_strides() -> None:
    points = pyramid_points([(2, 3), (1, 2)], [8, 16], CPU)
    assert len(points) == 8
    assert (points.anchors[:, 2:] - points.anchors[:, :2]).tolist() == [[32, 32]] * 6 + [
        [64, 64]
    ] * 2


def test_extent_is_the_area_of_the_finest_cells() -> None:
    """It is (width, height), without what coarser levels add by rounding up."""
    assert pyramid_points([(5, 3), (3, 2)], [8, 16], CPU).extent == (24.0, 40.0)
    assert pyramid_points([(1, 1)], [4], CPU).extent == (4.0, 4.0)


def test_points_are_taken_by_their_index() -> None:
    points = pyramid_points([(2, 2), (1, 1)], [8, 16], CPU, ((4.0, 2.0), (1.0, 1.0)))
    index = torch.tensor([9, 0, 9])
    taken = points.take(index)
    assert taken.extent == points.extent
    for name in ("xy", "stride", "level", "anchors"):
        assert torch.equal(getattr(taken, name), getattr(points, name)[index])


def test_points_keep_their_columns_on_another_device() -> None:
    points = pyramid_points([(2, 2)], [8], CPU, ((4.0, 2.0), (1.0, 1.0)))
    moved = points.to("cpu")
    assert {name: str(value) for name, value in vars(moved).items()} == {
        name: str(value) for name, value in vars(points).items()
    }


@examples(30)
@given(
    st.lists(st.floats(0.5, 16), min_size=1, max_size=3),
    st.lists(st.floats(0.2, 5), min_size=1, max_size=3),
)
def test_anchor_shapes_have_the_area_of_their_scale_and_the_ratio_of_their_sides(
    scales: list[float], ratios: list[float]
) -> None:
    found = anchor_shapes(scales, ratios)
    pairs = [(scale, ratio) for ratio in ratios for scale in scales]
    assert len(found) == len(pairs)
    for (width, height), (scale, ratio) in zip(found, pairs, strict=True):
        assert width * height == pytest.approx(scale**2)
        assert height / width == pytest.approx(ratio)


def test_retinanets_anchors_of_the_finest_level_by_hand() -> None:
    """32 pixels and two thirds of an octave above it at stride 8, three ratios each."""
    scales = [4 * 2 ** (i / 3) for i in range(3)]
    points = pyramid_points([(1, 1)], [8], CPU, anchor_shapes(scales, [0.5, 1, 2]))
    sides = (points.anchors[:, 2:] - points.anchors[:, :2]).tolist()
    expected = [
        [32 * 2 ** (i / 3) * math.sqrt(1 / r), 32 * 2 ** (i / 3) * math.sqrt(r)]
        for r in (0.5, 1, 2)
        for i in range(3)
    ]
    assert sides == [pytest.approx(side, rel=1e-6) for side in expected]
