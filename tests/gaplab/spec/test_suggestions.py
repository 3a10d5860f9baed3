"""The dotted keys that a message about an unknown key suggests, wherever a spec has keys."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gaplab.spec.fields import dotted_keys, owners_of
from gaplab.spec.models import Experiment
from gaplab.spec.problems import similar_keys
from tests.gaplab.spec.specs import BASE, problems

PLACES: dict[str, tuple[Any, str]] = {
    "grid": ({"grid": {"KEY": [1]}}, "grid.KEY"),
    "zip": ({"zip": {"KEY": [1]}}, "zip.KEY"),
    "groups": ({"zip": [{"seed": [1]}, {"KEY": [1]}]}, "zip[1].KEY"),
    "rows": ({"rows": {"a": {"KEY": 1}}}, "rows.a.KEY"),
    "when": ({"grid": {"seed": [1]}, "when": {"seed": {"KEY": 1}}}, "when.seed.KEY"),
    "exclude": ({"exclude": [{"KEY": 1}]}, "exclude[0].KEY"),
    "search": ({"search": {"trials": 1, "space": {"KEY": {"choices": [1]}}}}, "search.space.KEY"),
    "profile": ({"profiles": {"laptop": {"grid": {"KEY": [1]}}}}, "profiles.laptop.grid.KEY"),
    "--set": ("KEY=1", "KEY"),
}
"""Where a spec has dotted keys: what is added to it, and how a problem names the place."""
KEYS = {
    "alpha": '"assignment.alpha"?',
    "lr": '"training.lr"',
    "epochs": '"training.epochs"',
    "alhpa": '"assignment.alpha"',
    "assignment.lr": '"training.lr"',
    "assignmnt.alpha": '"assignment.alpha"?',
    "assignmnt.name": '"assignment.name"?',
    "depth": '"detector.backbone.depth"',
    "train_images": '"data.train_images"',
    "sed": '"seed"',
    "cpus_per_wroker": '"resources.cpus_per_worker"',
    "name": '"data.name", "detector.name" or "assignment.name"?',
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", KEYS)
def test_the_dotted_key_is_suggested(tmp_path: Path, place: str, key: str) -> None:
    if (place, key) == ("--set", "name"):
        return  # the name of the sweep
    added, path = PLACES[place]
    text = yaml.safe_dump(added).replace("KEY", key) if place != "--set" else ""
    found = problems(tmp_path, BASE + text, sets=[added.replace("KEY", key)] if not text else ())
    source = "quick.yaml: " if text else "--set "
    start = f"{source}{path.replace('KEY', key)}: unknown key; did you mean {KEYS[key]}"
    assert [line for line in found if line.startswith(start)] == found


@pytest.mark.parametrize(
    ("place", "text", "line"),
    [
        ("file", "epochs: 5", 'epochs: unknown key; did you mean "training.epochs"?'),
        ("file", "at_once: 5", 'at_once: unknown key; did you mean "run.at_once"?'),
        ("file", "trainig: {}", 'trainig: unknown key; did you mean "training"?'),
        ("set", "at_once=5", 'at_once: unknown key; did you mean "run.at_once"?'),
        ("set", "run.at_onec=5", 'run.at_onec: unknown key; did you mean "at_once"?'),
        ("set", "xyz=5", "xyz: unknown key; choose one of data, detector, assignment, "),
        ("file", "xyz: 5", "xyz: unknown key; choose one of name, question, repeat, "),
        ("file", "grid: {xyz: [5]}", "grid.xyz: unknown key; choose one of data, detector, "),
    ],
)
def test_other_keys(tmp_path: Path, place: str, text: str, line: str) -> None:
    file, sets = (BASE + text, ()) if place == "file" else (BASE, (text,))
    [found] = problems(tmp_path, file, sets=sets)
    assert found.startswith(("quick.yaml: " if place == "file" else "--set ") + line)


@pytest.mark.parametrize("key", ["alpha", "assignment.alhpa", "alhpa"])
def test_when_suggests_a_varied_key(tmp_path: Path, key: str) -> None:
    text = f"grid: {{assignment.alpha: [0.2]}}\nwhen: {{{key}: {{assignment.name: poto}}}}"
    assert problems(tmp_path, BASE + text) == [
        f"quick.yaml: when.{key}: not a key of grid, zip, rows or search; did you mean "
        '"assignment.alpha"?'
    ]


def test_dotted_keys_are_those_of_an_experiment() -> None:
    found = dotted_keys(Experiment)
    assert len(found) == len(set(found)) > 100
    assert {"seed", "training.lr", "assignment.alpha", "detector.backbone.name"} <= {*found}
    for key in found:
        assert owners_of(key.split("."), Experiment), key


@pytest.mark.parametrize("key", dotted_keys(Experiment, 2))
def test_a_key_without_its_section_is_found(key: str) -> None:
    """A key that exists without a section as well is no unknown key."""
    last, known = key.rpartition(".")[2], dotted_keys(Experiment)
    found = similar_keys(last, known)
    assert bool(found) == (last not in known)
    assert all(each.rpartition(".")[2] == last for each in found)


def test_nothing_is_suggested_without_keys() -> None:
    assert similar_keys("a.b", []) == similar_keys("", ["a.b"]) == []


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("assignment: {name: POTO}", 'unknown "POTO"; did you mean "poto"?'),
        ("assignment: {name: h-detr}", 'unknown "h-detr"; see min_cost_many, hybrid or dual'),
        ("assignment: {name: Group DETR}", 'unknown "Group DETR"; see min_cost_many or dual'),
        ("assignment: {name: tood}", 'unknown "tood"; see tal'),
        ("assignment: {name: anchors}", 'unknown "anchors"; did you mean "anchor"?'),
        ("detector: {name: yolo}", 'unknown "yolo"; choose one of fcos, retinanet, '),
    ],
)
def test_names_of_papers_lead_to_entries(tmp_path: Path, section: str, line: str) -> None:
    key = section.partition(":")[0]
    text = "\n".join(each for each in BASE.split("\n") if not each.startswith(key))
    [found] = problems(tmp_path, f"{text}{section}")
    assert found.startswith(f"quick.yaml: {key}.name: {line}")


@pytest.mark.parametrize("section", ["data: shapes", "detector: fcos", "assignment: poto"])
def test_a_name_in_place_of_a_section(tmp_path: Path, section: str) -> None:
    key, _, name = section.partition(": ")
    text = "\n".join(each for each in BASE.split("\n") if not each.startswith(key))
    [found] = problems(tmp_path, f"{text}{section}")
    end = f'{key}: must be a mapping, got "{name}"; write {{name: {name}}}'
    assert found == f"quick.yaml: {end}"


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("detector.masks", "unknown key of detr; only fcos and retinanet have it"),
        ("detector.gate", "unknown key of detr; only fcos has it"),
        ("detector.num_queries", 'unknown key; did you mean "o2m_queries" or "queries"?'),
        ("detector.backbone.deformable_stages", "unknown key of tiny; only resnet has it"),
        ("data.version", "unknown key; choose one of name, size, train_images, "),
        ("data.images", 'unknown key; did you mean "val_images" or "train_images"?'),
    ],
)
def test_keys_of_other_entries_and_sections(tmp_path: Path, key: str, line: str) -> None:
    """A key that other entries have is named with them; another section is not guessed."""
    section, _, rest = key.partition(".")
    sections: dict[str, Any] = {
        "name": "quick",
        "data": {"name": "shapes"},
        "detector": {"name": "detr", "backbone": {"name": "tiny"}},
        "assignment": {"name": "min_cost"},
    }
    *above, last = rest.split(".")
    inner = sections[section]
    for each in above:
        inner = inner[each]
    inner[last] = 1
    [found] = problems(tmp_path, yaml.safe_dump(sections))
    assert found.startswith(f"quick.yaml: {key}: {line}")
