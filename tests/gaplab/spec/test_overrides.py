"""`--set`: what it changes, and messages about its problems."""

from pathlib import Path
from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.formatting import flat
from gaplab.spec.axes import MISSING
from tests.gaplab.spec.specs import BASE, NO_ASSIGNMENT, configs, load, problems


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("seed", "--set seed: must be key=value, as in seed=3"),
        ("=3", "--set =3: must be key=value, as in seed=3"),
        ("training..lr=3", "--set training..lr=3: must be key=value, as in seed=3"),
        ("sed=3", '--set sed: unknown key; did you mean "seed"?'),
        ("when.seed=3", "--set when.seed: unknown key; choose one of data, detector, "),
        ("seed=[1", "--set seed: line 1: "),
        ("seed=-1", "--set seed: must be at least 0, got -1"),
        ("training.lr=0", "--set training.lr: must be greater than 0, got 0"),
        ("training.lrr=1", '--set training.lrr: unknown key; did you mean "lr"?'),
        ("training={lrr: 1}", '--set training.lrr: unknown key; did you mean "lr"?'),
        ("assignment.alpha=2", "--set assignment.alpha: must be at most 1, got 2"),
        (
            "assignment.alhpa=1",
            '--set assignment.alhpa: unknown key; did you mean "assignment.alpha"?',
        ),
        ("grid.seed=3", "--set grid.seed: must be a list, got 3"),
        ("grid.training.lr=[1, 0]", "--set grid.training.lr[1]: must be greater than 0, got 0"),
        ("training.batch=0", "--set training.batch: must be at least 1, got 0"),
        ("name=No", "--set name: must match"),
        ("data={name: coco}", "--set data.root: is required"),
    ],
)
def test_problems_of_set_start_with_it(tmp_path: Path, setting: str, line: str) -> None:
    text = f"{NO_ASSIGNMENT}grid: {{assignment: [{{name: poto}}]}}\nzip: {{training.batch: [1, 2]}}"
    (found,) = problems(tmp_path, text, sets=[setting])
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["seed=7"], {"seed": 7}),
        (["seed=7", "seed=8"], {"seed": 8}),
        (["training.lr=2e-3"], {"training": {"epochs": 1, "lr": 0.002}}),
        (["assignment.alpha=.25"], {"assignment": {"name": "poto", "alpha": 0.25}}),
        (["assignment.name=o2f", "assignment.k=2"], {"assignment": {"name": "o2f", "k": 2}}),
        (["assignment.k=2", "assignment.name=o2f"], {"assignment": {"name": "o2f", "k": 2}}),
        (["evaluation.protocol.max_dets=50"], {"evaluation": {"protocol": {"max_dets": 50}}}),
    ],
)
def test_set_comes_after_the_profile(
    tmp_path: Path, sets: list[str], expected: dict[str, Any]
) -> None:
    text = BASE + "training: {lr: 1}\nprofiles: {laptop: {training: {epochs: 1}, seed: 1}}"
    base = load(tmp_path, text, sets=sets).base
    assert {key: base.get(key, MISSING) for key in expected} == expected


def test_set_replaces_the_list_of_a_varied_key(tmp_path: Path) -> None:
    text = f"{BASE}grid: {{seed: [1, 2]}}\nzip: [{{training.lr: [1, 2], training.batch: [3, 4]}}]"
    spec = load(tmp_path, text, sets=["seed=5", "training.lr=9"])
    assert spec.grid == {"seed": [5]}
    assert spec.zip == [{"training.lr": [9, 9], "training.batch": [3, 4]}]
    assert {config["seed"] for config in configs(spec)} == {5}
    spec = load(tmp_path, text, sets=["grid.seed=[7, 8]", "grid.assignment.alpha=[0.1]"])
    assert spec.grid == {"seed": [7, 8], "assignment.alpha": [0.1]}


def test_set_below_a_varied_section_is_applied_after_it(tmp_path: Path) -> None:
    text = f"{NO_ASSIGNMENT}grid: {{assignment: [{{name: poto, alpha: 0.9}}, {{name: o2f}}]}}"
    trials = configs(load(tmp_path, text, sets=["assignment.alpha=0.25"]))
    assert [config["assignment"]["alpha"] for config in trials] == [0.25, 0.25]
    trials = configs(load(tmp_path, text, sets=["assignment={name: fcos}"]))
    assert [config["assignment"]["name"] for config in trials] == ["fcos"]


def test_keys_can_be_set_inside_a_protocol_given_by_name(tmp_path: Path) -> None:
    text = f"{BASE}evaluation: {{protocol: default}}\ngrid: {{evaluation.protocol.nms_iou: [0.3]}}"
    (config,) = configs(load(tmp_path, text, sets=["evaluation.protocol.max_dets=7"]))
    protocol = config["evaluation"]["protocol"]
    assert (protocol["nms_iou"], protocol["max_dets"]) == (0.3, 7)
    assert protocol["preset"].startswith("custom-")


def test_keys_can_be_set_inside_a_section_that_is_null_by_default(tmp_path: Path) -> None:
    (plain,) = configs(load(tmp_path, BASE))
    assert flat(plain)["training.o2m_loss"] is None
    sets = ["training.o2m_loss.cls_weight=2", "training.o2m_loss.box=iou"]
    (config,) = configs(load(tmp_path, BASE, sets=sets))
    found = flat(config)
    assert found["training.o2m_loss.cls_weight"] == 2.0
    assert found["training.o2m_loss.box"] == "iou"
    assert found["training.o2m_loss.box_weight"] == found["training.loss.box_weight"] == 2.0
    assert "training.o2m_loss" not in found
    for setting, problem in (
        ("cls_wieght=2", 'cls_wieght: unknown key; did you mean "cls_weight"?'),
        ("box_weight=-1", "box_weight: must be at least 0, got -1"),
    ):
        with pytest.raises(UserError) as caught:
            load(tmp_path, BASE, sets=[f"training.o2m_loss.{setting}"])
        assert problem in str(caught.value)
