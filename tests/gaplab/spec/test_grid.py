"""The trials of a spec compared with a brute-force oracle, and rules of varying keys."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import RESULTS_VERSION
from detectors.assigners import ASSIGNERS
from gaplab.errors import UserError
from gaplab.spec.grid import Grid, TrialChoices
from gaplab.spec.models import Experiment
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, experiment_of
from tests.builders import SECTIONS, make_spec
from tests.gaplab.spec.specs import coco, with_value


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
    for key in varied:
        if key in FREE and draw(st.booleans()):
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
    assert (trial.epochs, trial.results_version) == (12, RESULTS_VERSION)


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
def test_a_grid_of_a_thousand_million_is_rejected_before_it_is_expanded(form: str) -> None:
    axes = {key: list(range(1, 1001)) for key in ("seed", "training.epochs", "training.batch")}
    keys = {"grid": axes} if form == "grid" else {"zip": [{key: axes[key]} for key in axes]}
    with pytest.raises(UserError, match="1000000000 combinations, more than 10000"):
        expand(resolve(make_spec(**keys)))


@pytest.mark.parametrize("seeds", [[-1, 0], [0, -1], [0, 1, -1]])
def test_a_wrong_seed_hides_no_other_problem(seeds: list[int]) -> None:
    spec = make_spec(SECTIONS | {"resources": {"workers": 9}}, grid={"seed": seeds})
    with pytest.raises(UserError) as error:
        resolve(spec)
    assert sorted(error.value.problems) == [
        f"grid.seed[{seeds.index(-1)}]: must be at least 0, got -1",
        "training.batch: must be at least resources.workers (9), got 8",
    ]


def test_a_section_is_read_once_for_trials_that_differ_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A grid of rates and seeds costs their sum, not their product; a condition adds its keys."""
    found, choices = [], Grid.choices

    def counted(grid: Grid, at: tuple[int, ...]) -> TrialChoices:
        found.append(at)
        return choices(grid, at)

    monkeypatch.setattr(Grid, "choices", counted)
    grid: dict[str, Any] = {"assignment.name": ["poto", "fcos"], "assignment.alpha": [0.1, 0.2]}
    grid |= {"training.lr": [0.1, 0.2, 0.3], "seed": list(range(100))}
    spec = make_spec(grid=grid, when={"assignment.alpha": {"assignment.name": "poto"}})
    assert len(resolve(spec).variants) == 1200
    sections = {"data": 1, "detector": 1, "evaluation": 1, "resources": 1, "checkpoints": 1}
    sections |= {"assignment": 4, "training": 3, "seed": 100}
    assert len(found) == sum(sections.values()) + 1  # and once for `exclude`
