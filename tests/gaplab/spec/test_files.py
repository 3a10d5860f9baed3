"""Spec files: profiles, and messages about every kind of problem."""

from pathlib import Path
from typing import Any

import pytest

from detectors.assigners import ASSIGNERS
from gaplab.errors import UserError
from gaplab.spec import axes
from gaplab.spec.files import load_spec
from gaplab.spec.grid import Grid
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, row_records, to_mapping
from gaplab.spec.yaml_text import dump_yaml, parse_yaml
from tests.gaplab.spec.specs import BASE, NO_ASSIGNMENT, configs, load, problems

WITH_ALPHA = [name for name, entry in ASSIGNERS.items() if "alpha" in entry.model_fields]


def test_a_minimal_file(tmp_path: Path) -> None:
    spec = load(tmp_path, BASE)
    assert (spec.name, spec.question, spec.max_trials) == ("quick", "", 10_000)
    assert [config["assignment"]["name"] for config in configs(spec)] == ["poto"]


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        ("groups: 5", "detector.groups: must divide channels (32), got 5"),
        (
            "backbone: {name: tiny, channels: [16, 20]}",
            "detector.backbone.channels: must be positive multiples of 8, got [16, 20]",
        ),
        (
            "backbone: {name: resnet}",
            "detector.backbone.bn: frozen needs weights: name a checkpoint or set bn: trained\n"
            "detector.backbone.frozen_stages: needs weights: name a checkpoint or "
            "set frozen_stages: 0, got 2",
        ),
        (
            "backbone: {name: resnet, bn: trained}",
            "detector.backbone.frozen_stages: needs weights: name a checkpoint or "
            "set frozen_stages: 0, got 2",
        ),
        ("backbone: {name: resnet, depth: 49, weights: x}", "detector.backbone.depth: must be 18,"),
    ],
)
def test_a_detector_that_cannot_be_built(tmp_path: Path, detector: str, expected: str) -> None:
    text = BASE.replace("name: fcos", f"name: fcos, {detector}")
    for found, line in zip(problems(tmp_path, text), expected.split("\n"), strict=True):
        assert found.startswith(f"quick.yaml: {line}")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        # keys
        ("sed: 3", 'sed: unknown key; did you mean "seed"?'),
        ("profile: {}", 'profile: unknown key; did you mean "profiles"?'),
        ("base: {}", "base: unknown key; choose one of name, question, repeat, rows, grid, "),
        ("training: {epoch: 3}", 'training.epoch: unknown key; did you mean "epochs"?'),
        (
            "training: {zzz: 3}",
            "training.zzz: unknown key; choose one of epochs, batch, ",
        ),
        ("evaluation: {protocol: {nmsiou: 1}}", "evaluation.protocol.nmsiou: unknown key; did you"),
        # values
        ("training: {lr: -1}", "training.lr: must be greater than 0, got -1"),
        ("training: {lr: fast}", 'training.lr: must be a number, got "fast"'),
        ("training: {lr: .inf}", "training.lr: must be finite, got Infinity"),
        ("training: {lr: true}", "training.lr: must be a number, got true"),
        ("training: {lr: 3e-3, epochs: 1.5}", "training.epochs: must be an integer, got 1.5"),
        ("training: {epochs: 0}", "training.epochs: must be at least 1, got 0"),
        ("training: {momentum: 1}", "training.momentum: must be less than 1, got 1"),
        ("training: {decay_to: 2}", "training.decay_to: must be at most 1, got 2"),
        ("training: {augment: flip}", 'training.augment: unknown "flip"; did you mean "hflip"'),
        (
            "training: {augment: true}",
            "training.augment: must be 'none', 'hflip' or 'dihedral', got",
        ),
        ("training: {decay_at: 3}", "training.decay_at: must be a list, got 3"),
        ("training: {decay_at: [x]}", 'training.decay_at[0]: must be a number, got "x"'),
        (
            "training: {decay_at: [0.9, 0.6]}",
            "training.decay_at: must increase, from above 0 to below 1, got [0.9, 0.6]",
        ),
        ("training: {optimizer: adam}", 'training.optimizer: unknown "adam"; did you mean "adamw"'),
        ("training: {optimizer: 3}", "training.optimizer: must be 'adamw' or 'sgd', got 3"),
        ("training: 3", "training: must be a mapping, got 3"),
        ("training:", "training: must be a mapping, got null"),
        ("seed: -1", "seed: must be at least 0, got -1"),
        ("resources: {workers: 0}", "resources.workers: must be at least 1, got 0"),
        (
            "resources: {gpus_per_worker: 1.5}",
            "resources.gpus_per_worker: must be at most 1 or a whole number (a fraction is of one "
            "GPU), got 1.5",
        ),
        (
            "resources: {gpus_per_worker: 0.00009}",
            "resources.gpus_per_worker: must be 0 or at least 0.0001, got 9e-05",
        ),
        (
            "resources: {workers: 9}",
            "training.batch: must be at least resources.workers (9), got 8",
        ),
        (
            "training: {accumulate: 3}\nresources: {workers: 4}",
            "training.accumulate: must be at most the images of a worker per step (2), got 3",
        ),
        (
            "training: {sync_batch_norm: true}",
            "training.sync_batch_norm: needs GPUs; set resources.gpus_per_worker, or "
            "sync_batch_norm: false",
        ),
        (
            "training: {freeze: [box_towr, neck]}",
            "training.freeze: unknown part box_towr; choose from backbone, neck, scales, "
            "cls_tower, box_tower, cls_predictor, box_predictor",
        ),
        ("training: {freeze: box_tower}", "training.freeze: must be a list, got"),
        ("question: 3", "question: must be text, got 3"),
        ("evaluation: {protocol: defalt}", 'evaluation.protocol: unknown preset "defalt"; did you'),
        # the sweep's own keys
        ("grid: [1]", "grid: must be a mapping, got [1]"),
        ("grid: {seed: 3}", "grid.seed: must be a list, got 3"),
        ("grid: {seed: []}", "grid.seed: length must be at least 1, is 0"),
        ("grid: {sed: [1]}", 'grid.sed: unknown key; did you mean "seed"?'),
        (
            "grid: {training.lrr: [1, 2]}",
            'grid.training.lrr: unknown key; did you mean "training.lr"?',
        ),
        ("grid: {seed.x: [1]}", "grid.seed.x: unknown key; seed is a single value"),
        (
            "grid: {training.lr: [1.0, -1.0]}",
            "grid.training.lr[1]: must be greater than 0, got -1.0",
        ),
        (
            "grid: {assignment: [{name: potto}]}",
            'grid.assignment[0].name: unknown "potto"; did you',
        ),
        (
            "grid: {assignment: [{alpha: 1}]}",
            "grid.assignment[0].name: is required; choose one ",
        ),
        ("zip: 3", "zip: must be a mapping, got 3"),
        ("zip: {seed: 3}", "zip.seed: must be a list, got 3"),
        ("zip: [3]", "zip[0]: must be a mapping, got 3"),
        ("zip: [{seed: 3}]", "zip[0].seed: must be a list, got 3"),
        ("zip: {training.lr: [1.0, -1.0]}", "zip.training.lr[1]: must be greater than 0, got -1.0"),
        ("zip: [{seed: [-1]}]", "zip[0].seed[0]: must be at least 0, got -1"),
        (
            "zip: {seed: [1, 2], training.lr: [1]}",
            "zip: lists must have equal lengths: seed has 2, training.lr has 1",
        ),
        ("grid: {seed: [1]}\nzip: {seed: [2]}", "zip.seed: is already varied in grid"),
        ("max_trials: 0", "max_trials: must be at least 1, got 0"),
        (
            "max_trials: 3\ngrid: {seed: [1, 2, 3, 4]}",
            "max_trials: 4 combinations, mo",
        ),
        (
            "when: {seeds: {training.lr: 1}}\ngrid: {seed: [1]}",
            'when.seeds: not a key of grid, zip, rows or search; did you mean "seed"?',
        ),
        ("when: {seed: {}}\ngrid: {seed: [1]}", "when.seed: must name at least one key"),
        (
            "when: {seed: {training.lrr: 1}}\ngrid: {seed: [1]}",
            'when.seed.training.lrr: unknown key; did you mean "training.lr"?',
        ),
        (
            "when: {seed: {assignment: poto}}\ngrid: {seed: [1]}",
            "when.seed.assignment: must name a single value, such as assignment.name",
        ),
        (
            "when: {seed: {assignment.name: [poto, ofo]}}\ngrid: {seed: [1]}",
            'when.seed.assignment.name: unknown "ofo"; did you mean "o2f"?',
        ),
        (
            "when: {seed: {training.lr: x}}\ngrid: {seed: [1]}",
            'when.seed.training.lr: must be a number, got "x"',
        ),
        (
            "when: {seed: {training.lr: 1}, training.lr: {seed: 1}}\n"
            "grid: {seed: [1], training.lr: [1]}",
            "when: conditions depend on each other: ",
        ),
        ("exclude: [{sed: 3}]", 'exclude[0].sed: unknown key; did you mean "seed"?'),
        ("exclude: [{}]", "exclude[0]: must name at least one key"),
        ("exclude: [{seed: 0}]", "exclude: leaves no trial"),
        ("profiles: [1]", "profiles: must be a mapping, got [1]"),
        ("profiles: {laptop: 3}", "profiles.laptop: must be a mapping, got 3"),
        ("profiles: {laptop: {sed: 3}}", 'profiles.laptop.sed: unknown key; did you mean "seed"?'),
        ("profiles: {laptop: {seed: -1}}", "profiles.laptop.seed: must be at least 0, got -1"),
        (
            "profiles: {laptop: {training: {lr: 0}}}",
            "profiles.laptop.training.lr: must be greater than 0, got 0",
        ),
        (
            "profiles: {laptop: {grid: {seed: [0, -1]}}}",
            "profiles.laptop.grid.seed[1]: must be at least 0, got -1",
        ),
        (
            "profiles: {laptop: {profiles: {}}}",
            "profiles.laptop.profiles: unknown key; only allowed at the top level of a file",
        ),
        ("profiles: {laptop: {data: {name: coco}}}", "profiles.laptop.data.root: is required"),
    ],
)
def test_one_problem_is_one_line(tmp_path: Path, more: str, line: str) -> None:
    (found,) = problems(tmp_path, f"{BASE}{more}\n")
    assert found.startswith(f"quick.yaml: {line}")
    assert "\n" not in found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "quick.yaml: is empty; a spec needs name, data, detector and assignment"),
        ("# nothing\n", "quick.yaml: is empty; a spec needs name, data, detector and assignment"),
        ("- a\n", 'quick.yaml: must be a mapping, got ["a"]'),
        ("a: b: c", "quick.yaml: line 1: mapping values are not allowed here"),
        ("a: 1\n\na: 2\n", 'quick.yaml: line 3: key "a" is repeated'),
        (BASE.replace("quick", "Not A Slug"), "quick.yaml: name: must match ^[a-z0-9]"),
        (BASE.replace("name: quick\n", ""), "quick.yaml: name: is required"),
        (NO_ASSIGNMENT, "quick.yaml: assignment: is required"),
        (f"{NO_ASSIGNMENT}profiles: {{laptop: {{}}}}", "quick.yaml: assignment: is required"),
        (
            f"{NO_ASSIGNMENT}assignment: {{}}",
            "quick.yaml: assignment.name: is required; choose",
        ),
        (
            f"{NO_ASSIGNMENT}assignment: {{name: potto}}",
            'quick.yaml: assignment.name: unknown "potto"; did you mean "poto"?',
        ),
        (
            f"{NO_ASSIGNMENT}assignment: {{name: xyz}}",
            f'quick.yaml: assignment.name: unknown "xyz"; choose one of {", ".join(ASSIGNERS)}',
        ),
        (
            f"{NO_ASSIGNMENT}assignment: {{name: poto, alhpa: 1}}",
            'quick.yaml: assignment.alhpa: unknown key; did you mean "alpha"?',
        ),
        (
            f"{NO_ASSIGNMENT}assignment: {{name: o2f, t_min: 0.7, t_max: 0.6}}",
            "quick.yaml: assignment.t_min: must not be above t_max, got 0.7 > 0.6",
        ),
        (
            BASE.replace("{name: fcos}", "{name: fcos, backbone: {name: tinny}}"),
            'quick.yaml: detector.backbone.name: unknown "tinny"; did you mean "tiny"?',
        ),
        (
            BASE.replace("{name: fcos}", "{name: fcos, backbone: {name: tiny, chanels: []}}"),
            'quick.yaml: detector.backbone.chanels: unknown key; did you mean "channels"?',
        ),
        (
            f"{NO_ASSIGNMENT}grid:\n  assignment: [{{name: fcos}}, {{name: poto}}]\n"
            "  assignment.alpha: [0.2, 0.4]",
            "quick.yaml: grid.assignment.alpha: not every trial has this key; vary it only "
            "where it exists: when: {assignment.alpha: {assignment.name: "
            f"[{', '.join(WITH_ALPHA)}]}}}}",
        ),
    ],
)
def test_whole_files(tmp_path: Path, text: str, line: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(line)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = BASE + "sed: 1\ntraining: {lr: -1, epoch: 3}\ngrid: {seed: [-1, 0, -2, -1]}\n"
    assert problems(tmp_path, text) == [
        'quick.yaml: sed: unknown key; did you mean "seed"?',
        "quick.yaml: training.lr: must be greater than 0, got -1",
        'quick.yaml: training.epoch: unknown key; did you mean "epochs"?',
        "quick.yaml: grid.seed[0]: must be at least 0, got -1",
        "quick.yaml: grid.seed[2]: must be at least 0, got -2",
        "quick.yaml: grid.seed[3]: must be at least 0, got -1",
    ]


def test_ten_thousand_trials_with_one_bad_value_are_one_line(tmp_path: Path) -> None:
    grid = f"grid: {{assignment.alpha: [0.1, 2], seed: {list(range(5000))}}}\n"
    assert problems(tmp_path, BASE + grid) == [
        "quick.yaml: grid.assignment.alpha[1]: must be at most 1, got 2"
    ]


def test_problems_of_sweep_keys_and_sections_are_both_reported(tmp_path: Path) -> None:
    sections = "training: {lr: -1}\n"
    lr = "quick.yaml: training.lr: must be greater than 0, got -1"
    assert problems(tmp_path, f"{BASE}{sections}grid: {{sed: [1], assignment.alpha: [3]}}") == [
        'quick.yaml: grid.sed: unknown key; did you mean "seed"?',
        lr,
    ]
    assert problems(tmp_path, f"{BASE}{sections}grid: {{assignment.alpha: 3}}") == [
        "quick.yaml: grid.assignment.alpha: must be a list, got 3",
        lr,
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in [(tmp_path / "no.yaml", "No such file"), (tmp_path, "is a folder; give")]:
        with pytest.raises(UserError, match=reason) as caught:
            load_spec(path)
        assert str(path) in str(caught.value)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_spec(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_text(BASE + "#" * 2**20)
    with pytest.raises(UserError, match="larger than 1048576 bytes"):
        load_spec(tmp_path / "large.yaml")


PROFILES = f"""{BASE}
training: {{epochs: 3, lr: 0.5}}
grid: {{seed: [1, 2], training.batch: [4]}}
profiles:
  laptop: {{training: {{epochs: 1}}}}
  paper: {{name: paper, training: {{lr: 0.1}}, grid: {{seed: [5]}}, seed: 9}}
  other: {{assignment: {{name: o2f, k: 3}}}}
  same: {{assignment: {{name: poto, alpha: 0.1}}}}
"""


def test_profiles_merge_key_by_key(tmp_path: Path) -> None:
    laptop = load(tmp_path, PROFILES)
    assert laptop.base["training"] == {"epochs": 1, "lr": 0.5}
    assert laptop.grid == {"seed": [1, 2], "training.batch": [4]}
    paper = load(tmp_path, PROFILES, "paper")
    assert paper.name == "paper"
    assert paper.base["training"] == {"epochs": 3, "lr": 0.1}
    assert paper.base["data"] == {"name": "shapes"}
    assert paper.grid == {"seed": [5], "training.batch": [4]}
    with pytest.raises(UserError, match=r'profiles: unknown "papper"; did you mean "paper"\?'):
        load(tmp_path, PROFILES, "papper")


def test_another_entry_of_a_table_replaces_the_section(tmp_path: Path) -> None:
    text = PROFILES.replace("{name: poto}", "{name: poto, radius: 2.0}")
    assert load(tmp_path, text, "other").base["assignment"] == {"name": "o2f", "k": 3}
    merged = {"name": "poto", "radius": 2.0, "alpha": 0.1}
    assert load(tmp_path, text, "same").base["assignment"] == merged


def test_without_a_laptop_profile_no_profile_is_used(tmp_path: Path) -> None:
    text = BASE + "profiles: {paper: {seed: 3}}"
    assert "seed" not in load(tmp_path, text).base
    assert load(tmp_path, text, "paper").base["seed"] == 3


def test_the_resolved_text_is_a_spec_of_the_same_sweep(tmp_path: Path) -> None:
    sweep = expand(
        resolve(load(tmp_path, PROFILES, "paper", ["training.lr=3e-5", "question='on: why?'"]))
    )
    again = load(tmp_path, sweep.spec)
    assert again.question == "on: why?"
    assert expand(resolve(again)) == sweep
    assert dump_yaml(to_mapping(again)) == sweep.spec


def test_loading_and_expanding_enumerates_the_trials_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"trials": 0, "samples": 0}

    def count(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any) -> Any:
            calls[name] += 1
            return original(*args)

        monkeypatch.setattr(owner, name, counted)

    count(Grid, "trials")
    count(axes, "samples")
    path = tmp_path / "once.yaml"
    search = "search: {trials: 2, space: {training.lr: {low: 0.1, high: 0.2}}}\n"
    path.write_text(f"{BASE}{search}rows: {{a: {{seed: 1}}, b: {{seed: 2}}}}\n")
    resolved = load_spec(path)
    assert len(expand(resolved).trials) == 4
    assert list(row_records(resolved)) == ["a", "b"]
    assert calls == {"trials": 1, "samples": 1}


EXPERIMENTS = Path(__file__).parents[3] / "experiments"


@pytest.mark.parametrize("name", ["quickstart", "bccd"])
def test_every_profile_of_the_examples_is_valid(name: str) -> None:
    path = EXPERIMENTS / f"{name}.yaml"
    for profile in [None, *parse_yaml(path.read_text()).get("profiles", {})]:
        assert load_spec(path, profile).spec.name == name
