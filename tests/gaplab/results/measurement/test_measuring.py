"""`gaplab.measure` on paths, arrays, tables and objects per image."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gaplab
from gaplab.errors import UserError
from gaplab.results.measurement.inputs import InputOptions, read_truth
from tests.gaplab.results.measurement.foreign import CATEGORIES, Foreign, write_foreign


@dataclass
class Boxes:
    """What supervision.Detections has."""

    xyxy: Any
    confidence: Any
    class_id: Any


class Frame:
    """What a DataFrame has."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = columns
        self.columns = [*columns]

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    return write_foreign(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def rows(files: Foreign) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(files.o2o.read_text())
    return found


@pytest.fixture(scope="module")
def usual(files: Foreign) -> Any:
    return gaplab.measure(files.o2o, files.truth, resamples=0)


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    box = np.array([row["bbox"] for row in rows])
    corners = np.hstack([box[:, :2], box[:, :2] + box[:, 2:]])
    ids = {key: [row[key] for row in rows] for key in ("image_id", "category_id", "score")}
    return ids | dict(zip(("x1", "y1", "x2", "y2"), corners.T, strict=True))


def per_image(rows: list[dict[str, Any]]) -> dict[int, Boxes]:
    found = {}
    for image in range(1, 25):
        own = table([row for row in rows if row["image_id"] == image])
        labels = [[*CATEGORIES].index(id_) for id_ in own["category_id"]]
        corners = np.stack([own[name] for name in ("x1", "y1", "x2", "y2")], axis=1)
        found[image] = Boxes(corners, np.array(own["score"]), np.array(labels))
    return found


def forms(rows: list[dict[str, Any]]) -> dict[str, Any]:
    array = [[r["image_id"], *r["bbox"], r["score"], r["category_id"]] for r in rows]
    named = {f"{image:04d}.jpg": boxes for image, boxes in per_image(rows).items()}
    return {
        "results": rows,
        "array": np.array(array),
        "columns": table(rows),
        "frame": Frame(table(rows)),
        "by id": per_image(rows),
        "by name": named,
        "in order": [*per_image(rows).values()],
    }


FORMS = ("results", "array", "columns", "frame", "by id", "by name", "in order")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_result(
    files: Foreign, rows: list[dict[str, Any]], usual: Any, form: str
) -> None:
    found = gaplab.measure(forms(rows)[form], files.truth, resamples=0)
    assert found.ap == pytest.approx(usual.ap, abs=1e-9)
    assert found.ap_nms == pytest.approx(usual.ap_nms, abs=1e-9)
    assert found.input.detections.findings.rows == len(rows)


def test_results_and_a_path_are_the_same_input(
    files: Foreign, rows: list[dict[str, Any]], usual: Any
) -> None:
    assert gaplab.measure(rows, files.truth, resamples=0).input.id == usual.input.id
    truth = read_truth(files.truth, InputOptions())
    assert gaplab.measure(files.o2o, truth, resamples=0).input.id == usual.input.id


def test_the_result(files: Foreign) -> None:
    found = gaplab.measure(str(files.o2m), str(files.truth), {"preset": "defcn", "nms_iou": 0.5})
    assert found.gap == pytest.approx(found.ap - found.ap_nms)
    assert found.gap_interval is not None
    assert found.gap_interval.low < found.gap < found.gap_interval.high
    assert found.verdict == "yes"
    assert json.loads(json.dumps(found.to_dict()))["rule"]["nms_iou"] == 0.5


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (7, "int is of no known kind; give a path; columns"),
        (np.zeros((3, 6)), "an array of shape (3, 6), not [M, 7]"),
        ({"image_id": [1], "score": [0.5]}, "no column for the category"),
        ({}, "no column for the image"),
        ([], "an empty list: no detection"),
        ({1: Boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0))}, "no detection to measure"),
        ([Boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0))], "1 objects for 24 images"),
        ({1: Boxes(np.ones((1, 4)), None, np.zeros(1))}, "confidence or class_id is None"),
        ([{"image_id": 1}], "[0].category_id: is missing"),
    ],
)
def test_other_values_are_refused(files: Foreign, given: Any, part: str) -> None:
    with pytest.raises(UserError) as caught:
        gaplab.measure(given, files.truth)
    assert part in str(caught.value)


def test_a_wrong_protocol_is_refused(files: Foreign) -> None:
    for given in ("nosuch", {"nms_iou": 7}):
        with pytest.raises(UserError, match="protocol"):
            gaplab.measure(files.o2o, files.truth, given)


def test_small_data_sets_have_no_interval(tmp_path: Path) -> None:
    files = write_foreign(tmp_path, images=3)
    found = gaplab.measure(files.o2m, files.truth)
    assert found.gap_interval is None
    assert found.verdict == "undecided"
