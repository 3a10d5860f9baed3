"""The sections `search` and `stop`: their trials, and messages about every kind of problem."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.evaluation.gap import EVALUATORS
from detectors.evaluation.protocol import PROTOCOLS
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates, ImageTruth
from gaplab.errors import UserError
from gaplab.spec import validate as check
from gaplab.spec.files import load_spec
from gaplab.spec.models import Spec
from gaplab.spec.resolve import resolve
from gaplab.spec.sampling import samples
from gaplab.spec.search import SearchOptions
from gaplab.spec.sweep import expand, outline, to_mapping
from gaplab.spec.validate import metrics
from gaplab.spec.yaml_text import parse_yaml
from tests.builders import SECTIONS, make_spec
from tests.detectors.evaluation.cases import measure_gap

SPACE: dict[str, Any] = {
    "assignment.name": {"choices": ["poto", "o2f"]},
    "assignment.k": {"low": 1, "high": 9, "step": 2},
    "training.lr": {"low": 1e-4, "high": 1e-2, "log": True},
}
WHEN = {"assignment.k": {"assignment.name": "o2f"}}


def search(trials: int = 5, space: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"trials": trials, "space": space or SPACE} | more


def ids(found: Spec) -> list[str]:
    return [trial.id for trial in expand(resolve(found)).trials]


# --- trials ---------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    st.integers(1, 8),
    st.integers(0, 50),
    st.sampled_from([{}, {"seed": [0, 1, 2]}, {"seed": [0, 1], "data.size": [64, 96]}]),
    st.sampled_from([[], [{"assignment.k": 3}], [{"assignment.name": "poto", "seed": 1}]]),
)
def test_samples_are_combined_like_a_zip(
    trials: int, seed: int, grid: dict[str, Any], exclude: list[dict[str, Any]]
) -> None:
    drawn = samples(SearchOptions.model_validate(search(trials, seed=seed)))
    zipped = {key: [each[key] for each in drawn] for key in SPACE}
    rest: dict[str, Any] = {"grid": grid, "when": WHEN, "exclude": exclude}
    found = make_spec(search=search(trials, seed=seed), **rest)
    try:
        same = ids(make_spec(zip=zipped, **rest))
    except UserError:
        with pytest.raises(UserError, match="leaves no trial"):
            expand(resolve(found))
    else:
        assert sorted(ids(found)) == sorted(same)


def test_the_seeds_of_a_sample_are_adjacent() -> None:
    found = expand(resolve(make_spec(search=search(3), when=WHEN, grid={"seed": [0, 1]}))).trials
    assert [trial.seed for trial in found] == [0, 1] * 3
    rates = [trial.config["training"]["lr"] for trial in found]
    assert rates[0::2] == rates[1::2]
    assert len(set(rates)) == 3


def test_rows_are_combined_with_samples() -> None:
    rows = {"wide": {"assignment.radius": 2.0}, "narrow": {"assignment.radius": 1.0}}
    found = outline(resolve(make_spec(search=search(4), when=WHEN, rows=rows)))
    assert [len(trials) for trials in found.rows.values()] == [4, 4]


def test_whole_sections_and_keys_below_them() -> None:
    space = {
        "assignment": {"choices": [{"name": "poto", "radius": 1.0}, {"name": "o2f", "k": 3}]},
        "assignment.alpha": {"low": 0.2, "high": 0.8},
    }
    found = [
        trial.config["assignment"]
        for trial in expand(resolve(make_spec(search=search(9, space)))).trials
    ]
    assert {each["name"] for each in found} == {"poto", "o2f"}
    assert len({each["alpha"] for each in found}) == 9
    assert {each["radius"] for each in found if each["name"] == "poto"} == {1.0}
    assert {each["k"] for each in found if each["name"] == "o2f"} == {3}


def test_more_trials_keep_the_ids() -> None:
    few = ids(make_spec(search=search(4), when=WHEN))
    assert ids(make_spec(search=search(12), when=WHEN))[:4] == few


def test_an_exhausted_space_is_reported() -> None:
    small = {"assignment.alpha": {"choices": [0.2, 0.5]}}
    found = outline(resolve(make_spec(search=search(40, small), grid={"seed": [0, 1]})))
    assert len(found.sweep.trials) == 4
    assert found.notes == ("search: 40 samples requested, but the space has only 2",)
    assert outline(resolve(make_spec(search=search(2, small)))).notes == ()


def test_a_stopping_rule_makes_another_sweep_of_the_same_trials() -> None:
    plain = expand(resolve(make_spec(grid={"seed": [0, 1]})))
    kinds: list[dict[str, Any]] = [
        {"rule": "asha"},
        {"rule": "asha", "after": 2},
        {"rule": "median"},
    ]
    stopping = [expand(resolve(make_spec(grid={"seed": [0, 1]}, stop=stop))) for stop in kinds]
    assert all(each.trials == plain.trials for each in stopping)
    assert len({plain.id, *(each.id for each in stopping)}) == 4
    assert plain.id == expand(resolve(make_spec(grid={"seed": [1, 0]}))).id


def test_the_spec_of_a_sweep_can_be_loaded_again(tmp_path: Path) -> None:
    given = make_spec(search=search(3, objective=["ap", "gap"]), when=WHEN, stop={"rule": "asha"})
    path = tmp_path / "again.yaml"
    path.write_text(expand(resolve(given)).spec)
    again = load_spec(path).spec
    assert to_mapping(again) == to_mapping(given)
    assert expand(resolve(again)) == expand(resolve(given))


# --- searches that propose ------------------------------------------------------------------


@pytest.fixture
def _with_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Optuna look installed: the checks and the first samples don't use it."""
    monkeypatch.setattr(check, "find_spec", lambda name: object())


@pytest.mark.usefixtures("_with_optuna")
def test_the_first_samples_are_those_of_random() -> None:
    found = outline(resolve(make_spec(search=search(30, method="optuna", startup=4), when=WHEN)))
    assert [trial.id for trial in found.sweep.trials] == ids(make_spec(search=search(4), when=WHEN))
    note = "search: 4 samples so far, up to 26 more are proposed as trials end"
    assert found.notes == (note,)
    all_known = outline(resolve(make_spec(search=search(3, method="optuna"), when=WHEN)))
    assert (len(all_known.sweep.trials), all_known.notes) == (3, ())


@pytest.mark.usefixtures("_with_optuna")
def test_the_sweep_of_a_search_is_named_by_its_spec() -> None:
    def named(base: dict[str, Any] | None = None, trials: int = 12, **keys: Any) -> str:
        adaptive = search(trials, method="optuna")
        return expand(
            resolve(make_spec(search=adaptive, when=WHEN, base=SECTIONS | (base or {}), **keys))
        ).id

    first = named()
    assert named() == first
    assert named(question="why?", max_trials=100, run={"retries": 7}) == first
    assert named({"resources": {"workers": 2}, "checkpoints": {"last": 3}}) == first
    others = [named(trials=13), named({"seed": 1}), named(stop={"rule": "asha"})]
    assert len({first, *others}) == 4


@pytest.mark.usefixtures("_with_optuna")
def test_samples_not_yet_proposed_count_towards_the_limit() -> None:
    keys: dict[str, Any] = {"grid": {"seed": [0, 1]}, "max_trials": 50, "when": WHEN}
    with pytest.raises(UserError, match="60 combinations, more than 50"):
        expand(resolve(make_spec(search=search(30, method="optuna"), **keys)))
    assert expand(resolve(make_spec(search=search(25, method="optuna"), **keys))).trials


# --- problems -------------------------------------------------------------------------------


def problems(folder: Path, sets: tuple[str, ...] = (), **keys: Any) -> list[str]:
    path = folder / "wrong.yaml"
    path.write_text(yaml.safe_dump({"name": "wrong"} | SECTIONS | keys))
    with pytest.raises(UserError) as caught:
        load_spec(path, None, sets)
    assert all(line.startswith(("wrong.yaml: ", "--set ")) for line in caught.value.problems)
    return [line.removeprefix("wrong.yaml: ") for line in caught.value.problems]


def test_all_invalid_options_are_reported_at_once(tmp_path: Path) -> None:
    space = {
        "assignment.alpha": {"low": 0.8, "high": 0.2, "lo": 3},
        "assignment.k": {"low": 1, "high": 9, "step": 0},
        "assignment.radius": {"low": 3, "high": 1},
        "training.lr": {"low": 0, "high": 0.1, "log": True, "step": 0.1},
        "training.batch": {"low": 2},
        "detector.box": {"choices": []},
        "detector.channels": {"choices": [16], "low": 3},
    }
    wrong = search(0, space, methd="random", objective=["ap", "ap"], seed=-1)
    found = problems(tmp_path, search=wrong, stop={"rule": "ash", "after": 0, "keep": 1})
    assert sorted(found) == sorted(
        [
            "search.trials: must be at least 1, got 0",
            'search.methd: unknown key; did you mean "method"?',
            "search.seed: must be at least 0, got -1",
            "search.objective: repeats a metric",
            'search.space.assignment.alpha.lo: unknown key; did you mean "low" or "log"?',
            "search.space.assignment.k.step: must be greater than 0, got 0",
            "search.space.assignment.radius: low (3) must be below high (1)",
            "search.space.training.lr.log: needs low above 0, got 0",
            "search.space.training.lr: log can't be combined with step",
            "search.space.training.batch: needs low and high, or choices",
            "search.space.detector.box.choices: length must be at least 1, is 0",
            "search.space.detector.channels: choices can't be combined with low",
            'stop.rule: unknown "ash"; did you mean "asha"?',
            "stop.after: must be at least 1, got 0",
            "stop.keep: must be at least 2, got 1",
        ]
    )


def test_all_wrong_keys_and_values_are_reported_at_once(tmp_path: Path) -> None:
    space = {
        "assignment": {"choices": [{"name": "poto"}, {"name": "o2f", "kk": 3}, {"name": "potto"}]},
        "detector.box": {"low": 1, "high": 3},
        "detector.bbox": {"low": 1, "high": 3},
        "training.lr": {"low": 0, "high": 0.1},
        "training.epochs": {"low": 1, "high": 3, "step": 0.5},
        "training.batch": {"low": 0, "high": 3.5},
        "training.optimizer": {"choices": ["sgd", "adam"]},
        "training.warmup_steps": {"low": 1, "high": 20},
    }
    found = problems(
        tmp_path,
        search=search(9, space, objective=["app", "gap"]),
        grid={"training.lr": [0.1], "seed": [0]},
        when={"training.epoch": {"seed": 0}},
        stop={"rule": "median", "metric": "aps"},
    )
    assert sorted(found) == sorted(
        [
            'search.objective[0]: unknown metric "app"; did you mean "ap"?',
            'stop.metric: unknown metric "aps"; did you mean "ap"?',
            'search.space.assignment.choices[1].kk: unknown key; did you mean "k"?',
            'search.space.assignment.choices[2].name: unknown "potto"; did you mean "poto"?',
            "search.space.detector.box: is not a number; give choices instead of low and high",
            'search.space.detector.bbox: unknown key; did you mean "detector.box"?',
            "search.space.training.lr.low: must be greater than 0, got 0.0",
            "search.space.training.epochs.step: must be an integer, got 0.5",
            "search.space.training.batch.low: must be at least 1, got 0",
            "search.space.training.batch.high: must be an integer, got 3.5",
            'search.space.training.optimizer.choices[1]: unknown "adam"; did you mean "adamw"?',
            "grid.training.lr: is already varied in search",
            "when.training.epoch: not a key of grid, zip, rows or search; "
            'did you mean "training.epochs"?',
        ]
    )


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {"search": search(startup=3), "when": WHEN},
            "search.startup: only used with method: optuna",
        ),
        ({"stop": {"rule": "median", "keep": 4}}, "stop.keep: only used with rule: asha"),
        (
            {"search": search(4, {"assignment.k": {"low": 1, "high": 9}})},
            "search.space.assignment.k: not every trial has this key; vary it only where it "
            "exists: when: {assignment.k: {assignment.name: ",
        ),
        (
            {
                "assignment": {"name": "o2f", "t_max": 0.4},
                "search": search(20, {"assignment.t_min": {"low": 0.1, "high": 0.9}}),
            },
            "search.space.assignment.t_min: must not be above t_max, got ",
        ),
        (
            {"search": search(objective=["ap", "recall"]), "when": WHEN},
            "search.objective[1]: evaluator coco doesn't measure recall; choose another metric",
        ),
        (
            {"stop": {"rule": "asha", "metric": "ap75"}, "evaluation": {"protocol": "crowdhuman"}},
            "stop.metric: evaluator crowd doesn't measure ap75; choose another metric",
        ),
        (
            {"search": search(30), "when": WHEN, "max_trials": 29},
            "max_trials: 30 combinations, more than 29; vary less",
        ),
    ],
)
def test_problems_that_depend_on_the_rest_of_the_spec(
    tmp_path: Path, keys: dict[str, Any], line: str
) -> None:
    assert problems(tmp_path, **keys)[0].startswith(line)


def test_optuna_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    assert problems(tmp_path, search=search(method="optuna"), when=WHEN) == [
        "search.method: optuna is not installed here; pip install 'gaplab[optuna]', "
        "or use method: random"
    ]
    assert expand(resolve(make_spec(search=search(), when=WHEN))).trials


@pytest.mark.usefixtures("_with_optuna")
def test_a_key_that_depends_on_the_grid_cannot_be_proposed(tmp_path: Path) -> None:
    space = {key: SPACE[key] for key in SPACE if key != "assignment.name"}
    keys: dict[str, Any] = {"grid": {"assignment.name": ["poto", "o2f"]}, "when": WHEN}
    (found,) = problems(tmp_path, search=search(5, space, method="optuna"), **keys)
    assert found.startswith("when.assignment.k: with method: optuna, a searched key must exist")
    assert expand(resolve(make_spec(search=search(5, space), **keys))).trials


def test_metrics_of_masks_are_those_of_boxes() -> None:
    assert metrics(["masks"]) == metrics(["coco"])


@pytest.mark.parametrize("evaluator", [name for name in EVALUATORS if name != "masks"])
def test_every_metric_but_miss_rates_can_be_maximised(evaluator: str) -> None:
    box, none = torch.tensor([[0.0, 0.0, 40.0, 40.0]]), torch.zeros(1, dtype=torch.int64)
    image = ImageTruth(1, 64, 64, box, none, torch.tensor([False]), torch.tensor([1600.0]))
    one = torch.ones(1)
    found = Candidates(none, box, one, none, none, torch.zeros(1, 2), one, none + 1)
    protocol = PROTOCOLS["default"].model_copy(update={"evaluator": evaluator})
    measured = measure_gap(found, GroundTruth.of([image], ["thing"]), protocol).metrics
    assert metrics([evaluator]) == [name for name in measured if not name.startswith("mmr")]
    assert set(metrics([evaluator])) <= set(metrics())


# --- --set ----------------------------------------------------------------------------------


def loaded(folder: Path, *sets: str) -> Spec:
    path = folder / "set.yaml"
    content = {"name": "set", "search": search(), "when": WHEN, "stop": {"rule": "asha"}}
    path.write_text(yaml.safe_dump(SECTIONS | content))
    return load_spec(path, None, sets).spec


def test_set_fixes_a_searched_key(tmp_path: Path) -> None:
    found = loaded(tmp_path, "training.lr=0.5", "assignment.name=poto")
    assert {trial.config["training"]["lr"] for trial in expand(resolve(found)).trials} == {0.5}
    assert len(expand(resolve(found)).trials) == 1
    (line,) = problems(tmp_path, ("training.lr=0",), search=search(), when=WHEN)
    assert line == "--set training.lr: must be greater than 0, got 0"


def test_set_changes_options_of_search_and_stop(tmp_path: Path) -> None:
    sets = ("search.trials=7", "search.space.training.lr={high: 0.02}", "stop.keep=4", "seed=3")
    found = loaded(tmp_path, *sets)
    assert found.search is not None
    assert found.stop is not None
    assert (found.search.trials, found.stop.keep) == (7, 4)
    assert found.search.space["training.lr"].ends == (1e-4, 0.02)
    lines = problems(tmp_path, ("search.space.training.lr={high: 0}",), search=search(), when=WHEN)
    assert lines == ["--set search.space.training.lr: low (0.0001) must be below high (0)"]


def test_the_example_has_a_search_and_a_stopping_rule() -> None:
    path = Path(__file__).parents[3] / "experiments" / "search.yaml"
    found = load_spec(path).spec
    assert found.search is not None
    assert len(expand(resolve(found)).trials) == found.search.trials
    assert set(parse_yaml(path.read_text())["profiles"]) == {"laptop"}
