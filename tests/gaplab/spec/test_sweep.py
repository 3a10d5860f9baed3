"""What the ids of trials and sweeps depend on, and checks of the data of stored trials."""

import hashlib
import json
import random
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from detectors import RESULTS_VERSION
from detectors.assigners import ASSIGNERS
from detectors.options import Options
from gaplab.errors import UserError
from gaplab.identity import counted
from gaplab.spec import sweep
from gaplab.spec.fields import owners_of
from gaplab.spec.models import Experiment
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import changed_trials, expand
from tests.builders import SECTIONS, make_spec
from tests.gaplab.spec.specs import coco, with_value


def only_id(base: dict[str, Any]) -> str:
    (trial,) = expand(resolve(make_spec(base))).trials
    return trial.id


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
        return [1, True, {}]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, value * 2, value + 8]
    if isinstance(value, float):
        return [value / 2, value + 0.25, value * 2]
    if isinstance(value, list):
        return [value[:-1], [*value, value[-1]]]
    return [
        choice
        for owner in owners_of(key, Experiment)
        for choice in get_args(owner.model_fields[key[-1]].annotation) or ["other"]
    ]


def changes(
    paths: Iterable[tuple[str, ...]], config: dict[str, Any]
) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the changed experiment for each leaf of `paths` that can be changed by itself."""
    found, values = {}, leaves(config)
    for path in paths:
        value = values[path]
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


# Without sides, `crop` can't change by itself, nor `cls_target` without a loss of soft targets; an
# empty list has no other value of its type.
SIDES = {
    "training": {
        "train_sides": [64, 96],
        "freeze": ["neck", "backbone"],
        "loss": {"cls": "quality_focal"},
    }
}
BASES = [SECTIONS | SIDES | {"assignment": {"name": name}} for name in ASSIGNERS]


def test_exactly_the_options_that_count_change_the_id() -> None:
    experiment = Experiment.model_validate(BASES[0])
    config = experiment.config()
    original, tried = only_id(config), changes(leaves(config), config)
    fixed = {path for path in leaves(config) if path[-1] == "name"}
    # max_filter also needs a spatial_range.
    fixed |= {("evaluation", "protocol", key) for key in ("preset", "suppression")}
    fixed.add(("training", "sync_batch_norm"))  # needs GPUs
    assert set(leaves(config)) - set(tried) <= fixed
    uncounted = {path for path in tried if not is_counted(path, experiment)}
    assert {path[-1] for path in uncounted} == {
        "every",
        "candidates",
        "workers",
        "cpus_per_worker",
        "gpus_per_worker",
        "hang_seconds",
        "log_every",
        "recompute",
        "last",
        "best",
        "minutes",
    }
    ids = {path: only_id(changed) for path, changed in tried.items()}
    assert {path for path in ids if ids[path] == original} == uncounted
    counted = [ids[path] for path in ids if path not in uncounted]
    assert len(set(counted)) == len(counted)


@pytest.mark.parametrize("base", BASES, ids=list(ASSIGNERS))
def test_every_option_of_an_assignment_changes_the_id(base: dict[str, Any]) -> None:
    config = Experiment.model_validate(base).config()
    own = [path for path in leaves(config) if path[0] == "assignment"]
    tried = changes(own, config)
    assert {path for path in own if path[-1] != "name"} == set(tried)
    ids = [only_id(config), *(only_id(changed) for changed in tried.values())]
    assert len(set(ids)) == len(ids)


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


def plain(options: BaseModel) -> dict[str, Any]:
    """The fields that were there from the start and can change a result; for default values."""
    values = {
        key: getattr(options, key)
        for key, field in type(options).model_fields.items()
        if not field.json_schema_extra
    }
    found: dict[str, Any] = json.loads(json.dumps(values, default=plain))
    return found


def test_the_id_is_the_digest_of_the_canonical_json() -> None:
    (trial,) = expand(resolve(make_spec())).trials
    experiment = Experiment.model_validate(SECTIONS)
    config = experiment.config()
    del config["resources"], config["checkpoints"]
    del config["evaluation"]["every"], config["evaluation"]["candidates"]
    del config["evaluation"]["protocol"]["preset"]
    config["training"] = plain(experiment.training)
    config["detector"] = plain(experiment.detector)
    content = config | {
        "fingerprint": experiment.data.fingerprint(),
        "results_version": RESULTS_VERSION,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert trial.id == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_a_new_results_version_is_a_new_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    before = expand(resolve(make_spec())).trials[0]
    monkeypatch.setattr(sweep, "RESULTS_VERSION", RESULTS_VERSION + 1)
    after = expand(resolve(make_spec())).trials[0]
    assert before.id != after.id
    assert (before.results_version, after.results_version) == (RESULTS_VERSION, RESULTS_VERSION + 1)


def test_the_id_of_a_sweep_depends_on_its_trials_alone() -> None:
    one = expand(resolve(make_spec(grid={"seed": [0, 1]}, question="why?")))
    same = expand(resolve(make_spec(zip={"seed": [1, 0, 1], "resources.workers": [1, 2, 3]})))
    assert one.id == same.id
    assert one.id.startswith("test-")
    assert len(one.id) == len("test-") + 8
    assert expand(resolve(make_spec(grid={"seed": [0]}))).id != one.id
    renamed = expand(resolve(make_spec(grid={"seed": [0, 1]}, name="other")))
    assert renamed.id == one.id.replace("test-", "other-")


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
    assert changed_trials([first, second]) == [first]
    monkeypatch.setattr(sweep, "RESULTS_VERSION", RESULTS_VERSION + 1)
    assert changed_trials([first, second]) == [first, second]
    (tmp_path / "b" / "train.json").unlink()
    with pytest.raises(UserError, match=r"b/train\.json"):
        changed_trials([first, second])


def test_unreadable_data_is_a_user_error(tmp_path: Path) -> None:
    missing = [{"name": "coco", "root": str(tmp_path / name)} for name in ("a", "b")]
    with pytest.raises(UserError) as caught:
        expand(resolve(make_spec(grid={"data": missing, "seed": [0, 1]})))
    assert any(str(tmp_path / "a") in problem for problem in caught.value.problems)
    assert any(str(tmp_path / "b") in problem for problem in caught.value.problems)
    assert len(set(caught.value.problems)) == len(caught.value.problems)
