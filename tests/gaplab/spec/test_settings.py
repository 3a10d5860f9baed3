"""Settings of a stored sweep: what may change without changing an id, and what is printed of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from detectors.options import Options
from gaplab.errors import UserError
from gaplab.identity import counted
from gaplab.records import SweepRecord
from gaplab.spec.files import load_spec, stored_spec
from gaplab.spec.models import CheckpointOptions, EvaluationOptions, Policy, Resources
from gaplab.spec.settings import changes, with_settings
from gaplab.spec.sweep import expand
from tests.gaplab.spec.specs import coco

SETTINGS: dict[str, Any] = {
    "run.retries": 5,
    "run.backoff_seconds": 1.0,
    "run.on_failure": "stop",
    "run.priority": 7,
    "run.at_once": 4,
    "run.lease_seconds": 30.0,
    "run.grace_seconds": 1.0,
    "evaluation.every": 2,
    "evaluation.candidates": "none",
    "resources.workers": 2,
    "resources.cpus_per_worker": 3,
    "resources.gpus_per_worker": 0.5,
    "resources.hang_seconds": 60.0,
    "checkpoints.last": 5,
    "checkpoints.best": False,
    "checkpoints.every": 3,
    "checkpoints.minutes": 2.5,
}
"""Every setting, with another value than its default."""
IDENTITY = [
    *("training.epochs=7", "assignment.alpha=0.5", "seed=4", "evaluation.protocol=onenet"),
    *("grid.seed=[0, 1, 2]", "name=other", "stop={rule: median}", "data.train_images=9"),
]
SPACE = {"training.lr": {"low": 0.01, "high": 0.1}}
SEARCH = {"search": {"method": "optuna", "trials": 4, "startup": 2, "space": SPACE}}


def stored(folder: Path, *sets: str, **keys: Any) -> SweepRecord:
    """Return a sweep of two trials as a ledger returns it."""
    sections = {"name": "shapes"}, {"name": "fcos"}, {"name": "poto"}
    spec = dict(zip(("data", "detector", "assignment"), sections, strict=True))
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "grid": {"seed": [0, 1]}} | spec | keys))
    return expand(load_spec(path, None, sets))


def test_the_table_has_every_setting() -> None:
    models: dict[str, type[Options]] = {
        "run": Policy,
        "resources": Resources,
        "checkpoints": CheckpointOptions,
    }
    names = [f"{key}.{name}" for key, model in models.items() for name in model.model_fields]
    own = set(EvaluationOptions.model_fields) - set(counted(EvaluationOptions))
    names += [f"evaluation.{name}" for name in own]
    assert sorted(SETTINGS) == sorted(set(names) - {"run.identical"})


@pytest.mark.parametrize(
    ("key", "spec"),
    [(key, {}) for key in SETTINGS]
    # The id of an adaptive search contains its sections.
    + [(key, SEARCH) for key in SETTINGS if not key.startswith("evaluation.")],
)
def test_a_setting_changes_no_id_and_is_printed(
    tmp_path: Path, key: str, spec: dict[str, Any]
) -> None:
    before = stored(tmp_path, **spec)
    text = f"{key}={yaml.safe_dump(SETTINGS[key]).splitlines()[0]}"
    now = with_settings(before, [text])
    assert (now.id, [t.id for t in now.trials]) == (before.id, [t.id for t in before.trials])
    assert now == stored(tmp_path, text, **spec), "the same as an edited spec"
    [line] = changes(before, now)
    old, new = line.removeprefix(f"{key}: ").split(" -> ")
    assert changes(now, before) == [f"{key}: {new} -> {old}"]
    assert changes(now, now) == []


def test_values_are_written_as_in_a_spec(tmp_path: Path) -> None:
    before = stored(tmp_path)
    sets = ["run.at_once=4", "checkpoints.every=3", "checkpoints.best=false"]
    assert changes(before, with_settings(before, sets)) == [
        "run.at_once: null -> 4",
        "checkpoints.best: true -> false",
        "checkpoints.every: null -> 3",
    ]


def test_a_setting_of_some_trials_is_counted(tmp_path: Path) -> None:
    before = stored(tmp_path)
    varied = {"zip": {"seed": [0, 1], "resources.cpus_per_worker": [1, 4]}, "grid": {}}
    assert changes(before, stored(tmp_path, **varied)) == [
        "resources.cpus_per_worker: 1 -> 4 (1 trial)"
    ]


@pytest.mark.parametrize("text", IDENTITY)
def test_what_is_part_of_an_id_is_refused_by_its_key(tmp_path: Path, text: str) -> None:
    key = text.partition("=")[0]
    with pytest.raises(UserError) as caught:
        with_settings(stored(tmp_path), ["run.at_once=4", text])
    assert caught.value.problems == (
        f"--set {key}: is part of the ids of trials or of the sweep; set it with `gaplab run`, "
        "which makes another sweep",
    )


def test_invalid_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        with_settings(stored(tmp_path), ["run.at_once=0", "resources.worker=2"])
    assert caught.value.problems == (
        "--set run.at_once: must be at least 1, got 0",
        '--set resources.worker: unknown key; did you mean "workers"?',
    )


def test_data_may_move_but_not_change(tmp_path: Path) -> None:
    old, new, other = (
        coco(tmp_path / name, colour) for name, colour in zip("abc", (0, 0, 9), strict=True)
    )
    before = stored(tmp_path, data=old)
    moved = with_settings(before, [f"data.root={new['root']}"])
    assert [trial.id for trial in moved.trials] == [trial.id for trial in before.trials]
    assert changes(before, moved)[0] == f'data.root: "{old["root"]}" -> "{new["root"]}"'
    with pytest.raises(UserError, match="has changed since the sweep was planned"):
        with_settings(before, [f"data.root={other['root']}"])


def test_the_name_of_an_equal_protocol_is_no_setting(tmp_path: Path) -> None:
    equal = {"preset": "defcn", "clip": "before", "cap_at_points": False}
    before = stored(tmp_path, evaluation={"protocol": equal})
    now = stored(tmp_path, evaluation={"protocol": "o2f"})
    assert now.id == before.id
    assert changes(before, now) == []


def test_a_stored_spec_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    now = stored(tmp_path)
    before = SweepRecord(now.id, now.name, "name: s\nrun: {tries: 3}\n", now.trials, True)
    [line] = changes(before, now)
    assert line == (
        f"settings are replaced, and the earlier ones are unknown: sweep {now.id}: run.tries: "
        'unknown key; did you mean "retries"?'
    )
    assert stored_spec(now).run.retries == 2
