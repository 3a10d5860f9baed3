"""`repeat: 3` for the seeds 0, 1 and 2, and null, which removes a key of an earlier layer."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gaplab.spec.files import load_spec
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, to_mapping
from tests.builders import make_spec
from tests.gaplab.spec.specs import BASE, configs, load, problems

SEARCH = "search: {method: METHOD, trials: 3, space: {training.lr: {choices: [1, 2]}}}\n"
LONG = {
    "alone": ("", "grid: {seed: [0, 1, 2]}\n"),
    "grid": ("grid: {training.lr: [1, 2]}\n", "grid: {training.lr: [1, 2], seed: [0, 1, 2]}\n"),
    "zip": (
        "zip: {training.lr: [1, 2]}\n",
        "zip: {training.lr: [1, 2]}\ngrid: {seed: [0, 1, 2]}\n",
    ),
    "base": ("seed: 7\n", "seed: 7\ngrid: {seed: [0, 1, 2]}\n"),
} | {method: (SEARCH.replace("METHOD", method),) * 2 for method in ("random", "optuna")}
"""What a spec has beside `repeat: 3`, and the same spec in the long form."""


def spelled(name: str) -> tuple[str, str]:
    """Return a spec in the short and the long form."""
    short, long = LONG[name]
    return BASE + short + "repeat: 3\n", BASE + long + ("" if short != long else LONG["alone"][1])


@pytest.mark.parametrize("name", LONG)
def test_it_is_short_for_a_grid_of_seeds(tmp_path: Path, name: str) -> None:
    short, long = (expand(resolve(load(tmp_path, text))) for text in spelled(name))
    assert short == long
    assert short.spec == long.spec, "so a stored spec has no `repeat`"


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("texts", [("seed=5",), ("grid.seed=[4, 5]",), ("training.lr=3",)])
def test_set_applies_to_it_as_to_the_long_form(
    tmp_path: Path, name: str, texts: tuple[str, ...]
) -> None:
    short, long = (to_mapping(load(tmp_path, text, sets=texts)) for text in spelled(name))
    assert short == long


def test_it_can_be_set(tmp_path: Path) -> None:
    for text in (BASE, BASE + "repeat: 9\n"):
        assert load(tmp_path, text, sets=["repeat=2"]).grid == {"seed": [0, 1]}
        assert load(tmp_path, text, sets=["repeat=2", "seed=5"]).grid == {"seed": [5]}


def test_in_profiles_and_python(tmp_path: Path) -> None:
    text = BASE + "repeat: 5\nprofiles: {quick: {repeat: 1}, none: {repeat: null}}\n"
    assert len(configs(load(tmp_path, text))) == 5
    assert len(configs(load(tmp_path, text, "quick"))) == 1
    assert load(tmp_path, text, "none").grid == {}
    assert make_spec(repeat=2) == make_spec(grid={"seed": [0, 1]})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("repeat: 0", "repeat: must be at least 1, got 0"),
        ("repeat: 1001", "repeat: must be at most 1000, got 1001"),
        ("repeat: true", "repeat: must be an integer, got true"),
        ("repeat: 2.0", "repeat: must be an integer, got 2.0"),
        ("repeat: [0, 1]", "repeat: must be an integer, got [0, 1]"),
        ("repeat: 2\ngrid: {seed: [1]}", "repeat: grid.seed varies the seed, too; remove one"),
        ("repeat: 2\nzip: {seed: [1]}", "repeat: zip.seed varies the seed, too; remove one"),
        ("repeat: 2\nzip: [{seed: [1]}]", "repeat: zip[0].seed varies the seed, too; remove one"),
        ("repeat: 2\nrows: {a: {seed: 1}}", "repeat: rows.a.seed varies the seed, too; remove"),
        (
            "repeat: 2\nsearch: {trials: 1, space: {seed: {choices: [1]}}}",
            "repeat: search.space.seed varies the seed, too; remove one",
        ),
    ],
)
def test_problems(tmp_path: Path, text: str, line: str) -> None:
    [found] = problems(tmp_path, BASE + text)
    assert found.startswith(f"quick.yaml: {line}")


def test_problems_of_set(tmp_path: Path) -> None:
    assert problems(tmp_path, BASE + "grid: {seed: [1]}", sets=["repeat=2"]) == [
        "--set repeat: grid.seed varies the seed, too; remove one of them"
    ]
    assert problems(tmp_path, BASE, sets=["repeat=0"]) == [
        "--set repeat: must be at least 1, got 0"
    ]


REMOVED: dict[str, tuple[Any, Any, Any]] = {
    "a value": (
        {"training": {"epochs": 3, "lr": 0.5}},
        {"training": {"epochs": None}},
        {"lr": 0.5},
    ),
    "a section": ({"training": {"epochs": 3}}, {"training": None}, None),
    "an axis": ({"grid": {"seed": [1, 2], "training.lr": [1]}}, {"grid": {"seed": None}}, None),
    "the grid": ({"grid": {"seed": [1, 2]}}, {"grid": None}, None),
    "a row": ({"rows": {"a": {"seed": 1}, "b": {}}}, {"rows": {"a": None}}, {"b": {}}),
    "a key of a row": (
        {"rows": {"a": {"seed": 1, "training.lr": 1}}},
        {"rows": {"a": {"seed": None}}},
        {"a": {"training.lr": 1}},
    ),
    "a key without default": (
        {"run": {"at_once": 3, "retries": 1}},
        {"run": {"at_once": None}},
        {"retries": 1},
    ),
    "a value of a protocol": (
        {"evaluation": {"protocol": {"nms_iou": 0.7, "max_dets": 9}}},
        {"evaluation": {"protocol": {"nms_iou": None}}},
        {"protocol": {"max_dets": 9}},
    ),
    "a search": (
        {"search": {"trials": 1, "space": {"seed": {"choices": [1]}}}},
        {"search": None},
        None,
    ),
}
"""What a file has, what a later layer has, and what is left of the first key."""


@pytest.mark.parametrize("layer", ["profile", "extends", "both"])
@pytest.mark.parametrize("name", REMOVED)
def test_null_removes_a_key(tmp_path: Path, name: str, layer: str) -> None:
    first, over, left = REMOVED[name]
    base = yaml.safe_load(BASE)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base | first))
    own = {"extends": "base.yaml"} | (over if layer != "profile" else {})
    own |= {"profiles": {"p": over}} if layer == "profile" else {}
    if layer == "both":  # removed, then set again
        own["profiles"] = {"p": first}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    found = to_mapping(load_spec(tmp_path / "own.yaml", "p" if layer != "extends" else None).spec)
    key = next(iter(first))
    if name == "an axis":
        left = {"training.lr": [1]}
    before = to_mapping(load(tmp_path, yaml.safe_dump(base | first)))
    wanted = to_mapping(load(tmp_path, yaml.safe_dump(base | ({key: left} if left else {}))))
    assert found == (before if layer == "both" else wanted) | {"name": "quick"}


def test_null_is_no_value_where_nothing_is_removed(tmp_path: Path) -> None:
    text = BASE + "profiles: {p: {training: {epochs: null}, run: {at_once: null}}}\n"
    assert problems(tmp_path, text, "p") == [
        "quick.yaml: profiles.p.training.epochs: must be an integer, got null"
    ]


def test_what_is_required_cannot_be_removed(tmp_path: Path) -> None:
    text = BASE + "profiles: {p: {detector: null, data: {name: null}}}\n"
    name, detector = problems(tmp_path, text, "p")
    assert name.startswith("quick.yaml: profiles.p.data.name: is required; choose one of shapes, ")
    assert detector == "quick.yaml: profiles.p.detector: is required"


def test_merge_keys_and_anchors_in_a_spec(tmp_path: Path) -> None:
    text = """
rows:
  a: &a {training.epochs: 3, assignment.alpha: 0.2}
  b: {<<: *a, assignment.alpha: 0.5}
training: &short {epochs: 2, lr: 0.5}
profiles:
  p: {training: {<<: *short, epochs: 1}}
"""
    spec = load(tmp_path, BASE + text)
    assert spec.rows["b"] == {"training.epochs": 3, "assignment.alpha": 0.5}
    assert load(tmp_path, BASE + text, "p").base["training"] == {"epochs": 1, "lr": 0.5}
    assert "&" not in expand(resolve(spec)).spec
