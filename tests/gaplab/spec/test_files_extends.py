"""Spec files that extend others: the order of merging, and the file that a problem names."""

from pathlib import Path
from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.spec.files import MAX_DEPTH, load_spec
from gaplab.spec.models import Spec
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, to_mapping
from gaplab.spec.yaml_text import dump_yaml

COMMON: dict[str, Any] = {
    "data": {"name": "shapes"},
    "detector": {"name": "fcos"},
    "assignment": {"name": "poto", "radius": 2.0},
}


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else dump_yaml(content))
    return path


def load(folder: Path, own: Any, profile: str | None = None, *sets: str, **files: Any) -> Spec:
    """Load the spec `own`, with each of `files` beside it in a file of its name."""
    for name, content in files.items():
        write(folder, f"{name}.yaml", content)
    return load_spec(write(folder, "own.yaml", own), profile, sets).spec


def problems(folder: Path, own: Any, *sets: str, **files: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(folder, own, None, *sets, **files)
    return list(caught.value.problems)


def test_a_file_overrides_the_one_it_extends(tmp_path: Path) -> None:
    own = {
        "name": "own",
        "extends": "base.yaml",
        "assignment": {"alpha": 0.3},
        "training": {"lr": 0.5},
        "grid": {"seed": [1]},
    }
    base = {
        **COMMON,
        "question": "why?",
        "training": {"lr": 0.1, "epochs": 2},
        "grid": {"seed": [7, 8], "training.batch": [4, 8]},
    }
    found = load(tmp_path, own, base=base)
    assert (found.name, found.question) == ("own", "why?")
    assert found.base["assignment"] == {"name": "poto", "radius": 2.0, "alpha": 0.3}
    assert found.base["training"] == {"lr": 0.5, "epochs": 2}
    assert found.grid == {"seed": [1], "training.batch": [4, 8]}
    flat = load_spec(write(tmp_path, "flat.yaml", dump_yaml(to_mapping(found)))).spec
    assert expand(resolve(flat)) == expand(resolve(found))


def test_another_entry_of_a_table_replaces_the_section(tmp_path: Path) -> None:
    own = {"name": "own", "extends": "base.yaml", "assignment": {"name": "o2f", "k": 2}}
    assert load(tmp_path, own, base=COMMON).base["assignment"] == {"name": "o2f", "k": 2}


def test_rows_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    own = {"name": "own", "extends": "base.yaml", "rows": {"c": {"seed": 3}, "a": {"seed": 9}}}
    base = {**COMMON, "rows": {"a": {"seed": 1, "training.lr": 0.5}, "b": {"seed": 2}}}
    found = load(tmp_path, own, base=base)
    assert list(found.rows) == ["a", "b", "c"]
    assert found.rows["a"] == {"seed": 9, "training.lr": 0.5}


KEYS = ("epochs", "batch", "warmup_steps", "lr", "decay_to", "clip_norm")


def test_files_then_profiles_then_set(tmp_path: Path) -> None:
    """Each layer sets one key fewer than the one below it, so every step of the order shows."""

    def level(value: int, keys: int) -> dict[str, Any]:
        return {"training": dict.fromkeys(KEYS[:keys], value)}

    base = {**COMMON, **level(1, 6), "profiles": {"laptop": level(4, 3)}}
    middle = {"extends": "base.yaml", **level(2, 5)}
    own = {"name": "own", "extends": "middle.yaml", **level(3, 4)}
    own["profiles"] = {"laptop": level(5, 2), "paper": {}}
    files = {"base": base, "middle": middle}
    # decay_to may be at most 1
    middle["training"]["decay_to"] = 0.5
    found = load(tmp_path, own, None, "training.epochs=6", **files).base["training"]
    assert found == dict(zip(KEYS, (6, 5, 4, 3, 0.5, 1), strict=True))
    found = load(tmp_path, own, "paper", **files).base["training"]
    assert found == dict(zip(KEYS, (3, 3, 3, 3, 0.5, 1), strict=True))


def test_the_profile_may_be_in_any_of_the_files(tmp_path: Path) -> None:
    base = COMMON | {"profiles": {"paper": {"seed": 3}}}
    own = {"name": "own", "extends": "base.yaml", "profiles": {"quick": {"seed": 4}}}
    assert load(tmp_path, own, "paper", base=base).base["seed"] == 3
    assert load(tmp_path, own, "quick").base["seed"] == 4
    with pytest.raises(UserError) as caught:
        load(tmp_path, own, "papper")
    assert caught.value.problems == ('own.yaml: profiles: unknown "papper"; did you mean "paper"?',)


def test_paths_are_relative_to_the_file_they_are_in(tmp_path: Path) -> None:
    write(tmp_path, "common/deep/base.yaml", COMMON | {"training": {"lr": -1}})
    write(tmp_path, "common/middle.yaml", {"extends": "deep/base.yaml", "seed": -2})
    own = {"name": "own", "extends": "../common/middle.yaml", "grid": {"seedd": [1]}}
    path = write(tmp_path, "tables/own.yaml", own)
    with pytest.raises(UserError) as caught:
        load_spec(path)
    assert caught.value.problems == (
        'own.yaml: grid.seedd: unknown key; did you mean "seed"?',
        "../common/deep/base.yaml: training.lr: must be greater than 0, got -1",
        "../common/middle.yaml: seed: must be at least 0, got -2",
    )


@pytest.mark.parametrize(
    ("own", "files", "line"),
    [
        ({"extends": 3}, {}, "own.yaml: extends: must be a path relative to this file, got 3"),
        ({"extends": ""}, {}, 'own.yaml: extends: must be a path relative to this file, got ""'),
        ({"extends": "no.yaml"}, {}, "own.yaml: extends: no.yaml: No such file or directory"),
        (
            {"extends": "a.yaml"},
            {"a": {"extends": "no.yaml"}},
            "a.yaml: extends: no.yaml: No such file or directory",
        ),
        ({"extends": "a.yaml"}, {"a": "x: y: z"}, "a.yaml: line 1: mapping values are not allowed"),
        ({"extends": "a.yaml"}, {"a": "- 1"}, "a.yaml: must be a mapping, got [1]"),
        ({"extends": "a.yaml"}, {"a": ""}, "a.yaml: is empty; "),
        (
            {"extends": "own.yaml"},
            {},
            "own.yaml: extends: is circular: own.yaml -> own.yaml",
        ),
        (
            {"extends": "a.yaml"},
            {"a": {"extends": "./b.yaml"}, "b": {"extends": "a.yaml"}},
            "b.yaml: extends: is circular: own.yaml -> a.yaml -> b.yaml -> a.yaml",
        ),
        (
            {"extends": "a.yaml"},
            {"a": {**COMMON, "training": {"lrr": 1}}},
            'a.yaml: training.lrr: unknown key; did you mean "lr"?',
        ),
        (
            {"extends": "a.yaml"},
            {"a": {**COMMON, "rows": {"x": {"seed": -1}}}},
            "a.yaml: rows.x.seed: must be at least 0, got -1",
        ),
        (
            {"extends": "a.yaml"},
            {"a": {**COMMON, "profiles": {"laptop": {"seed": -1}}}},
            "a.yaml: profiles.laptop.seed: must be at least 0, got -1",
        ),
        (
            {"extends": "a.yaml", "profiles": {"laptop": {"extends": "b.yaml"}}},
            {"a": COMMON},
            "own.yaml: profiles.laptop.extends: unknown key; only allowed at the top level of a fi",
        ),
        (
            {"extends": "a.yaml"},
            {"a": {**COMMON, "profiles": [1]}},
            "a.yaml: profiles: must be a mapping, got [1]",
        ),
        (
            {"extends": "a.yaml"},
            {"a": {**COMMON, "profiles": {"paper": 1}}},
            "a.yaml: profiles.paper: must be a mapping, got 1",
        ),
        (
            {"extends": "a.yaml"},
            {"a": {"data": {"name": "shapes"}, "detector": {"name": "fcos"}}},
            "own.yaml: assignment: is required",
        ),
    ],
)
def test_one_problem_is_one_line_that_starts_with_its_file(
    tmp_path: Path, own: dict[str, Any], files: dict[str, Any], line: str
) -> None:
    (found,) = problems(tmp_path, {"name": "own", **own}, **files)
    assert found.startswith(line)
    assert "\n" not in found


def test_a_missing_name_is_reported_for_the_spec_itself(tmp_path: Path) -> None:
    own: dict[str, Any] = {"extends": "a.yaml"}
    assert problems(tmp_path, own, a=COMMON) == ["own.yaml: name: is required"]
    assert load(tmp_path, own, a=COMMON | {"name": "common"}).name == "common"


def test_depth_is_limited(tmp_path: Path) -> None:
    def chain(below: int) -> dict[str, Any]:
        files = {f"f{i}": {"extends": f"f{i + 1}.yaml"} for i in range(1, below)}
        return files | {f"f{below}": COMMON}

    own = {"name": "own", "extends": "f1.yaml"}
    assert load(tmp_path, own, **chain(MAX_DEPTH)).base == COMMON
    (found,) = problems(tmp_path, own, **chain(MAX_DEPTH + 1))
    names = " -> ".join(["own.yaml", *(f"f{i}.yaml" for i in range(1, MAX_DEPTH + 2))])
    assert found == f"f{MAX_DEPTH}.yaml: extends: more than {MAX_DEPTH} files deep: {names}"


def test_set_rejects_extends(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, {"name": "own", **COMMON}, "extends=a.yaml")
    assert found.startswith("--set extends: unknown key; choose one of data, detector, ")


def test_set_replaces_what_an_extended_file_varies(tmp_path: Path) -> None:
    base = COMMON | {"rows": {"a": {"seed": 1}, "b": {}}, "zip": {"training.lr": [1, 2]}}
    own = {"name": "own", "extends": "base.yaml"}
    found = load(tmp_path, own, None, "seed=5", "training.lr=0.5", base=base)
    assert found.rows == {"a": {}, "b": {}}
    assert found.base["seed"] == 5
    assert found.zip == {"training.lr": [0.5, 0.5]}
