"""Rows of a table that show the ground truth after NMS. Nothing is trained for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import detectors
from detectors.evaluation.crowd import recall_ceiling
from detectors.evaluation.truth import GroundTruth

Gaplab = Callable[..., str]
SHAPES = {"classes": 1, "min_objects": 6, "max_objects": 14, "crowding": 0.8, "val_images": 20}
DATA: dict[str, Any] = {"name": "shapes", **SHAPES}


@pytest.fixture
def spec(table_spec: Path) -> Path:
    content = yaml.safe_load(table_spec.read_text())
    content |= {"data": DATA, "evaluation": {"protocol": "crowdhuman"}}
    content["rows"] = {
        "truth": {"read.ground_truth": True},
        "strict": {"read.ground_truth": True, "read.protocol": {"nms_iou": 0.3}},
        **content["rows"],
    }
    table_spec.write_text(yaml.safe_dump(content, sort_keys=False))
    paper = {"rows": [{"id": "truth", "row": "Annotations", "metrics": {"recall_nms": 95.1}}]}
    Path("paper_results.json").write_text(json.dumps(paper))
    return table_spec


def test_the_table_has_the_recall_of_the_objects(gaplab: Gaplab, spec: Path) -> None:
    first, second, *others = json.loads(gaplab("table", spec, "--json"))
    data = detectors.DATASETS["shapes"](**DATA).load("val")
    truth = GroundTruth.of(data.truth(), data.classes)
    protocol = detectors.PROTOCOLS["crowdhuman"]
    ceiling = 100 * recall_ceiling(truth, protocol)
    lower = 100 * recall_ceiling(truth, detectors.Protocol(nms_iou=0.3))
    assert (first["recall_nms"], first["paper_recall_nms"]) == (pytest.approx(ceiling), 95.1)
    assert second["recall_nms"] == pytest.approx(lower)
    assert lower < ceiling
    assert first["trials"] == second["trials"] == []
    assert all(line["recall_nms"] is None and line["trials"] for line in others)


def test_nothing_is_trained_for_it(gaplab: Gaplab, spec: Path) -> None:
    with_rows = json.loads(gaplab("plan", spec, "--json"))
    line = "row truth shows the ground truth: nothing is trained for it, gaplab table computes it"
    assert line in with_rows["notes"]
    content = yaml.safe_load(spec.read_text())
    del content["rows"]["truth"], content["rows"]["strict"]
    spec.write_text(yaml.safe_dump(content, sort_keys=False))
    without = json.loads(gaplab("plan", spec, "--json"))
    assert {**with_rows, "notes": []} == {**without, "notes": []}


def test_keys_of_a_trial_are_refused(gaplab: Gaplab, spec: Path) -> None:
    setting = "rows.truth={read.ground_truth: true, assignment.alpha: 0.5, read.epoch: 3}"
    output = gaplab("table", spec, "--set", setting, code=2)
    for key in ("assignment.alpha", "read.epoch"):
        assert f"{key}: has no effect on a row of the ground truth" in " ".join(output.split())


def test_a_protocol_without_such_a_recall_is_refused(gaplab: Gaplab, spec: Path) -> None:
    setting = "rows.truth={read.ground_truth: true, read.protocol: {level_range: 0}}"
    output = gaplab("table", spec, "--set", setting, code=2)
    assert "rows.truth: protocol" in output
    assert "because of level_range" in output
