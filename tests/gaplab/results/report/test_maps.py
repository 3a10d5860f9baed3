"""Maps of values at points: one per level, and which labels are soft."""

import pytest
import torch

from detectors.models.points import pyramid_points
from detectors.structures import Assignment, Points
from gaplab.results.report.maps import is_soft, level_maps


@pytest.fixture
def points() -> Points:
    """Two levels of 2 x 3 and 1 x 2 cells with strides 8 and 16, one point per cell."""
    return pyramid_points([(2, 3), (1, 2)], (8, 16), torch.device("cpu"))


def test_a_value_is_in_the_cell_of_its_point(points: Points) -> None:
    values = torch.arange(8.0)
    maps = {stride: grid.tolist() for stride, grid in level_maps(points, values)}
    assert maps == {8.0: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], 16.0: [[6.0, 7.0]]}


def test_a_cell_with_several_anchors_has_their_highest_value(points: Points) -> None:
    twice = points.take(torch.arange(8).repeat(2))
    values = torch.cat([torch.arange(8.0), torch.arange(8.0) + 10])
    maps = {stride: grid.tolist() for stride, grid in level_maps(twice, values)}
    assert maps[16.0] == [[16.0, 17.0]]


@pytest.mark.parametrize(
    ("degrees", "soft"), [([0.0, 1.0], False), ([0.0, 0.4], True), ([], False)]
)
def test_soft_labels_are_between_none_and_certain(degrees: list[float], soft: bool) -> None:
    degree = torch.tensor(degrees)
    assert is_soft(Assignment((degree > 0).long() - 1, degree)) is soft
