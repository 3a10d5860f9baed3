from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.evaluation.crowd import recall_ceiling
from detectors.evaluation.crowding import crowding, nearest_iou
from detectors.evaluation.protocol import PROTOCOLS
from detectors.evaluation.truth import GroundTruth
from tests.detectors.evaluation import cases
from tests.examples import examples

corner, side = st.integers(0, 4), st.integers(0, 6)
boxes = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
objects = st.lists(st.tuples(st.integers(0, 2), boxes, st.integers(0, 1), st.booleans()))


def make_truth(objects: Sequence[Any]) -> GroundTruth:
    truth = []
    for image in range(3):
        own = [row for row in objects if row[0] == image]
        columns = ([row[k] for row in own] for k in (1, 2, 3))
        truth.append(cases.image_truth(10 - image, *columns))
    return GroundTruth.of(truth, "ab")


@examples(60)
@given(objects, st.booleans())
def test_nearest_neighbour_is_that_of_plain_loops(objects: list[Any], class_wise: bool) -> None:
    objects = sorted(objects, key=lambda row: int(row[0]))
    expected = [
        max(
            (
                cases.iou(mine[1], other[1])
                for j, other in enumerate(objects)
                if i != j
                and mine[0] == other[0]
                and not other[3]
                and (mine[2] == other[2] or not class_wise)
            ),
            default=0,
        )
        * (not mine[3])
        for i, mine in enumerate(objects)
    ]
    assert nearest_iou(make_truth(objects), class_wise).tolist() == pytest.approx(expected)


def test_equal_objects_are_neighbours() -> None:
    box = (0, 0, 4, 4)
    truth = make_truth([(0, box, 0, False), (0, box, 0, False), (1, box, 0, False)])
    assert nearest_iou(truth).tolist() == [1, 1, 0]


def test_no_objects() -> None:
    assert nearest_iou(make_truth([])).tolist() == []
    assert nearest_iou(make_truth([(0, (0, 0, 4, 4), 0, True)])).tolist() == [0]


def test_coordinates_in_double_precision() -> None:
    truth = make_truth([(0, (0, 0, 4, 4), 0, False), (0, (0, 0, 4, 2), 0, False)])
    columns = {name: getattr(truth, name) for name in ("boxes", "area")}
    doubled = GroundTruth(**{**vars(truth), **{n: c.to(torch.float64) for n, c in columns.items()}})
    assert nearest_iou(doubled).tolist() == [0.5, 0.5]


@examples(20)
@given(objects.filter(lambda rows: not all(row[3] for row in rows)))
def test_crowding_counts_objects(objects: list[Any]) -> None:
    truth = make_truth(sorted(objects, key=lambda row: int(row[0])))
    found = crowding(truth, PROTOCOLS["default"])
    mine = nearest_iou(truth)[~truth.crowd.numpy()].tolist()
    assert found.above == {
        iou: pytest.approx(sum(each > iou for each in mine) / len(mine)) for iou in (0.1, 0.3, 0.5)
    }
    many = PROTOCOLS["default"].model_copy(update={"max_dets": 1000})
    assert found.recall_ceiling == recall_ceiling(truth, many)


def test_many_objects_are_no_crowding() -> None:
    grid = [(0, (12 * i, 0, 12 * i + 9, 9), 0, False) for i in range(150)]
    wide = cases.image_truth(0, [row[1] for row in grid], [0] * 150, [False] * 150)
    truth = GroundTruth.of([replace(wide, width=2000)], "a")
    found = crowding(truth, PROTOCOLS["default"])
    assert (found.recall_ceiling, found.above[0.1]) == (1.0, 0.0)
    assert recall_ceiling(truth, PROTOCOLS["default"]) == pytest.approx(100 / 150)


def test_no_object_has_no_crowding() -> None:
    with pytest.raises(ValueError, match="no object"):
        crowding(make_truth([]), PROTOCOLS["default"])
