"""Remarks on trials that can be trained, but hardly as their author means it."""

import json
from pathlib import Path
from typing import Any

import pytest

from gaplab.spec.remarks import remarks_on
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import outline
from tests.builders import make_spec
from tests.gaplab.spec.specs import coco

SHAPES = {"name": "shapes", "max_objects": 9}
DETR = {"name": "detr", "queries": 9}
SECTIONS: dict[str, Any] = {
    "data": SHAPES,
    "detector": DETR,
    "assignment": {"name": "min_cost"},
}
DUAL = {"name": "dual", "o2o": {"name": "min_cost"}, "o2m": {"name": "ms_detr"}}
O2M_LOSS = {"o2m_loss": {"normalizer": "positives"}}
NO_DUAL = (
    "training.o2m_loss: has no effect on any trial, because only dual assignments have a second "
    "branch"
)


def remarks(changes: dict[str, Any], **keys: Any) -> list[str]:
    found = outline(resolve(make_spec(SECTIONS | changes, **keys)))
    return list(remarks_on(found.sweep.trials))


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"detector": {"name": "fcos"}, "assignment": {"name": "poto"}}, []),
        (
            {"detector": DETR | {"queries": 8}},
            [
                "detector.queries: 8, but an image of shapes may have 9 objects, of which the "
                "detector finds at most 8"
            ],
        ),
        ({"training": O2M_LOSS}, [NO_DUAL]),
        ({"training": O2M_LOSS, "assignment": DUAL}, []),
        (
            {"training": {"sampling_lr": 0.1, "loss": {"mask_weight": 2}}},
            [
                "training.sampling_lr: has no effect on any trial, because only deformable_detr "
                "samples positions",
                "training.loss.mask_weight: has no effect on any trial, because no detector has "
                "detector.masks",
            ],
        ),
    ],
)
def test_remarks(changes: dict[str, Any], lines: list[str]) -> None:
    assert remarks(changes) == lines


def test_an_option_with_an_effect_on_one_trial_is_not_remarked() -> None:
    rows = {"one": {}, "two": {"assignment": DUAL}}
    assert remarks({"training": O2M_LOSS}, rows=rows) == []


def test_objects_of_photographs_are_counted(tmp_path: Path) -> None:
    one = {"detector": DETR | {"queries": 1}}
    data = coco(tmp_path / "few")
    assert remarks(one | {"data": data}) == []
    path = tmp_path / "few" / "train.json"
    content = json.loads(path.read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 2, "bbox": [9, 9, 9, 9]})
    path.write_text(json.dumps(content))
    assert remarks(one | {"data": data}) == [
        "detector.queries: 1, but an image of few may have 2 objects, of which the detector finds "
        "at most 1"
    ]
    assert remarks(one | {"data": data | {"root": str(tmp_path / "none")}}) == []
