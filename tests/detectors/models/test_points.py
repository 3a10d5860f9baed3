import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.models.points import pyramid_points

CPU = torch.device("cpu")
sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


@settings(deadline=None)
@given(sizes, st.sampled_from([4, 7, 8]))
def test_points_stand_in_the_middle_of_their_cells_row_by_row_finest_first(
    of: list[tuple[int, int]], finest: int
) -> None:
    strides = [finest * 2**level for level in range(len(of))]
    points = pyramid_points(of, strides, CPU)
    expected = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride, level)
        for level, ((height, width), stride) in enumerate(zip(of, strides, strict=True))
        for row in range(height)
        for column in range(width)
    ]
    assert len(points) == len(expected)
    assert points.xy.tolist() == [[x, y] for x, y, _, _ in expected]
    assert points.stride.tolist() == [stride for _, _, stride, _ in expected]
    assert points.level.tolist() == [level for _, _, _, level in expected]
    assert points.xy.dtype == points.stride.dtype == torch.float32
    assert points.level.dtype == torch.int64
