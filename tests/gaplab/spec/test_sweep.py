"""Trials compared with a brute-force oracle, and what the id of a trial depends on."""

import hashlib
import itertools
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from detectors.assigners import ASSIGNERS
from detectors.data.coco import _fingerprint
from detectors.options import Options
from gaplab.errors import UserError
from gaplab.identity import counted
from gaplab.spec import sweep
from gaplab.spec.fields import owners_of
from gaplab.spec.models import Experiment
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import changed_trials, expand, experiment_of
from tests.builders import SECTIONS, make_spec


def only_id(base: dict[str, Any]) -> str:
    (trial,) = expand(resolve(make_spec(base))).trials
    return trial.id


def with_value(config: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    inner = with_value(config.get(path[0], {}), path[1:], value)
    return config | {path[0]: inner}


# --- expansion ------------------------------------------------------------------------------


def effective(config: dict[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def holds(condition: dict[str, Any], config: dict[str, Any]) -> bool:
    return all(
        effective(config, key) in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in condition.items()
    )


def brute_force(keys: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all trials: build every combination, iterate conditions to a fixed point."""
    groups = [{key: values} for key, values in keys["grid"].items()] + keys["zip"]
    rows = [
        [dict(zip(g, row, strict=True)) for row in zip(*g.values(), strict=True)] for g in groups
    ]
    trials: list[dict[str, Any]] = []
    for combination in itertools.product(*rows):
        values: dict[str, Any] = {k: v for row in combination for k, v in row.items()}
        active = set(values) - set(keys["when"])
        while True:
            raw = SECTIONS
            for key in sorted(active, key=lambda key: key.count(".")):
                raw = with_value(raw, tuple(key.split(".")), values[key])
            config = Experiment.model_validate(raw).config()
            now = {k for k in values if k not in keys["when"] or holds(keys["when"][k], config)}
            if now == active:
                break
            active = now
        if not any(holds(condition, config) for condition in keys["exclude"]) and (
            config not in trials
        ):
            trials.append(config)
    return trials


ASSIGNMENTS = [{"name": "fcos"}, {"name": "poto", "alpha": 0.3}, {"name": "o2f"}, {"name": "poto"}]
VALUES: dict[str, list[Any]] = {
    "assignment": ASSIGNMENTS,
    "assignment.alpha": [0.8, 0.1, 0.3],
    "assignment.radius": [1.0, 1.5],
    "training.optimizer": ["sgd", "adamw"],
    "training.momentum": [0.9, 0.5],
    "training.lr": [1, 0.003, 0.003],
    "seed": [0, 1],
    "data.size": [64, 96],
}
CONDITIONS: list[dict[str, Any]] = [
    {"assignment.name": ["poto", "o2f"]},
    {"assignment.name": "poto"},
    {"training.optimizer": "sgd"},
    {"training.optimizer": "adamw", "seed": 0},
    {"training.lr": [0.003]},
    {"assignment.alpha": 0.8},
    {"assignment.alpha": [0.1, 0.3], "assignment.name": "poto"},
    {"seed": [1, 7]},
    {"data.size": 96},
]
NEEDS_ENTRY = {"assignment.alpha": CONDITIONS[:2], "assignment.radius": CONDITIONS[:2]}
FREE = {"training.momentum": CONDITIONS, "training.lr": CONDITIONS[:4], "data.size": CONDITIONS[:3]}


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    varied = draw(st.lists(st.sampled_from(list(VALUES)), unique=True, max_size=5))
    zipped = draw(st.lists(st.sampled_from(varied), unique=True, max_size=2)) if varied else []
    values = {
        key: draw(st.lists(st.sampled_from(VALUES[key]), min_size=2, max_size=2))
        if key in zipped
        else draw(st.lists(st.sampled_from(VALUES[key]), min_size=1, max_size=3))
        for key in varied
    }
    when = {key: draw(st.sampled_from(NEEDS_ENTRY[key])) for key in varied if key in NEEDS_ENTRY}
    for key in set(varied) & set(FREE):
        if draw(st.booleans()):
            when[key] = draw(st.sampled_from(FREE[key]))
    return {
        "grid": {key: values[key] for key in varied if key not in zipped},
        "zip": [{key: values[key] for key in zipped}] if zipped else [],
        "when": when,
        "exclude": draw(st.lists(st.sampled_from(CONDITIONS), max_size=2)),
    }


@settings(deadline=None)
@given(sweeps())
def test_expansion_agrees_with_brute_force(keys: dict[str, Any]) -> None:
    expected = brute_force(keys)
    if not expected:
        with pytest.raises(UserError, match="exclude: leaves no trial"):
            expand(resolve(make_spec(**keys)))
    else:
        assert [trial.config for trial in expand(resolve(make_spec(**keys))).trials] == expected


def test_nothing_varied_is_one_trial() -> None:
    (trial,) = expand(resolve(make_spec())).trials
    experiment = Experiment.model_validate(SECTIONS)
    assert experiment_of(trial) == experiment
    assert trial.config == experiment.config()
    assert (trial.assignment, trial.family, trial.seed) == ("poto", "o2o", 0)
    assert trial.dataset == experiment.data.label
    assert (trial.epochs, trial.results_version) == (12, 1)


@pytest.mark.parametrize("name", list(ASSIGNERS))
def test_records_have_the_family(name: str) -> None:
    (trial,) = expand(resolve(make_spec(grid={"assignment": [{"name": name}]}))).trials
    assert (trial.assignment, trial.family) == (name, ASSIGNERS[name].family)


def test_the_first_axis_varies_slowest() -> None:
    trials = expand(resolve(make_spec(grid={"seed": [2, 1], "training.lr": [0.1, 0.2]}))).trials
    found = [(trial.seed, trial.config["training"]["lr"]) for trial in trials]
    assert found == [(2, 0.1), (2, 0.2), (1, 0.1), (1, 0.2)]


def test_trials_that_became_equal_are_merged() -> None:
    keys: dict[str, Any] = {
        "grid": {
            "assignment": [{"name": "fcos"}, {"name": "poto"}],
            "assignment.alpha": [0.1, 0.2, 0.8],
            "resources.workers": [1, 2],
        },
        "when": {"assignment.alpha": {"assignment.name": "poto"}},
    }
    trials = expand(resolve(make_spec(**keys))).trials
    found = [trial.config["assignment"].get("alpha") for trial in trials]
    assert found == [None, 0.1, 0.2, 0.8]
    assert len({trial.id for trial in trials}) == 4


def test_conditions_read_defaults_and_other_conditional_keys() -> None:
    keys: dict[str, Any] = {
        "grid": {"training.momentum": [0.1, 0.2], "training.optimizer": ["sgd"], "seed": [0, 1]},
        "when": {
            "training.momentum": {"training.optimizer": "sgd"},
            "training.optimizer": {"seed": 1, "assignment.alpha": 0.8},
        },
    }
    found = [t.config["training"] for t in expand(resolve(make_spec(**keys))).trials]
    assert [(t["optimizer"], t["momentum"]) for t in found] == [
        ("adamw", 0.9),
        ("sgd", 0.1),
        ("sgd", 0.2),
    ]


def test_conditions_are_evaluated_after_the_name_that_decides_their_defaults() -> None:
    """Only o2f has a k. The first key of `when` reads it, the second selects o2f."""
    keys: dict[str, Any] = {
        "grid": {"training.lr": [0.1, 0.2], "assignment.name": ["o2f"]},
        "when": {
            "training.lr": {"assignment.k": 7},
            "assignment.name": {"seed": 0},
        },
    }
    found = [trial.config["training"]["lr"] for trial in expand(resolve(make_spec(**keys))).trials]
    assert found == [0.1, 0.2]


def test_a_conditional_section_is_applied_before_its_keys() -> None:
    keys: dict[str, Any] = {
        "grid": {"assignment.alpha": [0.1], "assignment": [{"name": "o2f", "alpha": 0.9}]},
        "when": {"assignment": {"seed": 0}},
    }
    (trial,) = expand(resolve(make_spec(**keys))).trials
    assert (trial.assignment, trial.config["assignment"]["alpha"]) == ("o2f", 0.1)


def test_a_condition_on_an_unknown_default_is_an_error(tmp_path: Path) -> None:
    """Data without a root is not valid, so its defaults are unknown."""
    data = coco(tmp_path / "data")
    root = data.pop("root")
    keys: dict[str, Any] = {
        "grid": {"training.lr": [0.1], "data.root": [root]},
        "when": {"training.lr": {"data.on_bad": "refuse"}, "data.root": {"data.name": "coco"}},
    }
    with pytest.raises(UserError, match=r"^data\.on_bad: a condition reads this key.*set it in"):
        expand(resolve(make_spec(SECTIONS | {"data": data}, **keys)))
    (trial,) = expand(
        resolve(make_spec(SECTIONS | {"data": data | {"on_bad": "refuse"}}, **keys))
    ).trials
    assert trial.config["training"]["lr"] == 0.1


def test_true_is_not_one() -> None:
    base = SECTIONS | {"detector": {"name": "fcos", "shared_towers": True}}
    keys: dict[str, Any] = {
        "grid": {"seed": [0, 1]},
        "exclude": [{"detector.shared_towers": True, "seed": 1}],
    }
    assert [trial.seed for trial in expand(resolve(make_spec(base, **keys))).trials] == [0]
    with pytest.raises(UserError, match=r"exclude\[0\].seed: must be an integer, got true"):
        expand(resolve(make_spec(grid={"seed": [0, 1]}, exclude=[{"seed": True}])))


def test_a_list_can_be_a_value_or_several() -> None:
    ats = [[0.5], [0.5, 0.9], [0.2]]
    keys: dict[str, Any] = {
        "grid": {"training.decay_at": ats},
        "exclude": [{"training.decay_at": [0.5, 0.9]}],
    }
    found = [t.config["training"]["decay_at"] for t in expand(resolve(make_spec(**keys))).trials]
    assert found == [[0.5], [0.2]]


@pytest.mark.parametrize("form", ["grid", "zip"])
def test_a_grid_of_a_thousand_million_is_refused_before_it_is_expanded(form: str) -> None:
    axes = {key: list(range(1, 1001)) for key in ("seed", "training.epochs", "training.batch")}
    keys = {"grid": axes} if form == "grid" else {"zip": [{key: axes[key]} for key in axes]}
    with pytest.raises(UserError, match="1000000000 combinations, more than 10000"):
        expand(resolve(make_spec(**keys)))


# --- identity -------------------------------------------------------------------------------


def shuffled(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = rng.sample(list(value), len(value))
    return {key: shuffled(value[key], rng) for key in keys}


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {p: v for key, inner in value.items() for p, v in leaves(inner, (*path, key)).items()}


def others(key: tuple[str, ...], value: Any) -> list[Any]:
    """Return other values of the same type; some may be out of range."""
    if value is None:
        return [1, {}]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, value * 2, value + 8]
    if isinstance(value, float):
        return [value / 2, value + 0.25, value * 2]
    if isinstance(value, list):
        return [[*value, value[-1]], value[:-1]]
    return [
        choice
        for owner in owners_of(key, Experiment)
        for choice in get_args(owner.model_fields[key[-1]].annotation) or ["other"]
    ]


def changes(config: dict[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the changed experiment for each leaf that can be changed by itself."""
    found = {}
    for path, value in leaves(config).items():
        for other in others(path, value):
            changed = with_value(config, path, other)
            try:
                if other != value and path[-1] != "name":
                    found[path] = Experiment.model_validate(changed).config()
                    break
            except ValidationError:
                continue
    return found


def is_counted(path: tuple[str, ...], node: Any) -> bool:
    for part in path:
        if isinstance(node, Options) and part not in counted(type(node)):
            return False
        node = getattr(node, part) if isinstance(node, Options) else node[part]
    return True


SIDES = {"training": {"train_sides": [64, 96]}}  # without them `crop` can't change by itself
BASES = [SECTIONS | SIDES | {"assignment": {"name": name}} for name in ASSIGNERS]


@pytest.mark.parametrize("base", BASES, ids=list(ASSIGNERS))
def test_exactly_the_options_that_count_change_the_id(base: dict[str, Any]) -> None:
    experiment = Experiment.model_validate(base)
    config = experiment.config()
    original, tried = only_id(config), changes(config)
    fixed = {path for path in leaves(config) if path[-1] == "name"}
    # max_filter also needs a spatial_range.
    fixed |= {("evaluation", "protocol", key) for key in ("preset", "suppression")}
    assert set(leaves(config)) - set(tried) <= fixed
    uncounted = {path for path in tried if not is_counted(path, experiment)}
    assert {path[-1] for path in uncounted} == {
        "every",
        "candidates",
        "workers",
        "cpus_per_worker",
        "gpus_per_worker",
        "hang_seconds",
        "last",
        "best",
        "minutes",
    }
    ids = {path: only_id(changed) for path, changed in tried.items()}
    assert {path for path in ids if ids[path] == original} == uncounted
    counted = [ids[path] for path in ids if path not in uncounted]
    assert len(set(counted)) == len(counted)


@settings(deadline=None)
@given(st.sampled_from(BASES), st.data())
def test_equivalent_spellings_have_the_same_id(base: dict[str, Any], data: st.DataObject) -> None:
    """Defaults may be given or left out, in any order, and written as 1 or 1.0."""
    full = Experiment.model_validate(base).config()
    defaults = [path for path in leaves(full) if path[-1] != "name"]
    written = dict(base)
    for path in data.draw(st.lists(st.sampled_from(defaults), unique=True)):
        value = leaves(full)[path]
        whole = isinstance(value, float) and value.is_integer()
        written = with_value(written, path, int(value) if whole else value)
        for depth in range(2, len(path)):  # an entry of a table needs its name
            if (named := (*path[:depth], "name")) in leaves(full):
                written = with_value(written, named, leaves(full)[named])
    mixed = shuffled(written, random.Random(data.draw(st.integers(0, 99))))
    assert only_id(mixed) == only_id(base)


def test_the_id_is_the_digest_of_the_canonical_json() -> None:
    (trial,) = expand(resolve(make_spec())).trials
    config = Experiment.model_validate(SECTIONS).config()
    del config["resources"], config["checkpoints"]
    del config["evaluation"]["every"], config["evaluation"]["candidates"]
    del config["evaluation"]["protocol"]["preset"]
    del config["detector"]["o2m_code"], config["training"]["loss"]["l1_of"]  # added later
    content = config | {
        "fingerprint": Experiment.model_validate(SECTIONS).data.fingerprint(),
        "results_version": 1,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert trial.id == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_a_new_results_version_is_a_new_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    before = expand(resolve(make_spec())).trials[0]
    monkeypatch.setattr(sweep, "RESULTS_VERSION", 2)
    after = expand(resolve(make_spec())).trials[0]
    assert before.id != after.id
    assert (before.results_version, after.results_version) == (1, 2)


def test_the_id_of_a_sweep_depends_on_its_trials_alone() -> None:
    one = expand(resolve(make_spec(grid={"seed": [0, 1]}, question="why?")))
    same = expand(resolve(make_spec(zip={"seed": [1, 0, 1], "resources.workers": [1, 2, 3]})))
    assert one.id == same.id
    assert one.id.startswith("test-")
    assert len(one.id) == len("test-") + 8
    assert expand(resolve(make_spec(grid={"seed": [0]}))).id != one.id
    renamed = expand(resolve(make_spec(grid={"seed": [0, 1]}, name="other")))
    assert renamed.id == one.id.replace("test-", "other-")


def coco(root: Path, colour: int = 0) -> dict[str, Any]:
    """Write a data set with one image per split, and return the section that selects it."""
    (root / "images").mkdir(parents=True)
    for i, split in enumerate(["train", "val"], start=1):
        Image.new("RGB", (64 + colour, 48)).save(root / "images" / f"{i}.png")
        image = {"id": i, "file_name": f"{i}.png", "width": 64 + colour, "height": 48}
        box = {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400}
        content = {
            "images": [image],
            "annotations": [box | {"iscrowd": 0}],
            "categories": [{"id": 1, "name": "thing"}],
        }
        (root / f"{split}.json").write_text(json.dumps(content))
    return {"name": "coco", "root": str(root), "height": 64, "width": 64}


def test_the_content_of_data_counts_but_not_its_path(tmp_path: Path) -> None:
    here = coco(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = here | {"root": str(tmp_path / "there"), "cache_mib": 1, "title": "moved"}
    other = coco(tmp_path / "other", colour=16)
    first, moved, changed = (only_id(SECTIONS | {"data": data}) for data in (here, there, other))
    assert first == moved
    assert first != changed


@pytest.mark.parametrize("base", BASES, ids=list(ASSIGNERS))
def test_stored_trials_are_unchanged(base: dict[str, Any]) -> None:
    trials = expand(resolve(make_spec(base, grid={"seed": [0, 1], "training.lr": [0.1, 1]}))).trials
    stored = [replace(each, config=json.loads(json.dumps(each.config))) for each in trials]
    assert changed_trials(stored) == changed_trials([]) == []


def test_changed_trials_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [coco(tmp_path / "a"), coco(tmp_path / "b", colour=16)]
    first, second = expand(resolve(make_spec(grid={"data": data}))).trials
    changed = replace(first, config=first.config | {"seed": 7})
    assert changed_trials([first, changed, second]) == [changed]
    (tmp_path / "a" / "train.json").write_text((tmp_path / "a" / "val.json").read_text())
    _fingerprint.cache_clear()  # computed once per process
    assert changed_trials([first, second]) == [first]
    monkeypatch.setattr(sweep, "RESULTS_VERSION", 2)
    assert changed_trials([first, second]) == [first, second]
    (tmp_path / "b" / "train.json").unlink()
    _fingerprint.cache_clear()
    with pytest.raises(UserError, match=r"b/train\.json"):
        changed_trials([first, second])


def test_unreadable_data_is_a_user_error(tmp_path: Path) -> None:
    missing = [{"name": "coco", "root": str(tmp_path / name)} for name in ("a", "b")]
    with pytest.raises(UserError) as caught:
        expand(resolve(make_spec(grid={"data": missing, "seed": [0, 1]})))
    assert any(str(tmp_path / "a") in problem for problem in caught.value.problems)
    assert any(str(tmp_path / "b") in problem for problem in caught.value.problems)
    assert len(set(caught.value.problems)) == len(caught.value.problems)
