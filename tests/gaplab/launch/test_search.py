"""Adaptive searches: no trial twice, no state, and the same proposals for the same results."""

import importlib.util
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.cli.plan import make_plan, plan_json
from gaplab.launch import search as adaptive
from gaplab.launch.search import Search, open_search
from gaplab.launch.search_history import SampleReader, TrialResult, trial_results
from gaplab.ledger import Ledger
from gaplab.records import AttemptEnd, Claim, Cost, EvaluationRecord, TrialRecord
from gaplab.spec import validate as check
from gaplab.spec.models import Spec
from gaplab.spec.resolve import resolve
from gaplab.spec.sampling import samples
from gaplab.spec.sweep import expand, outline
from gaplab.states import TrialState
from gaplab.storage.home import Home

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="Optuna is not installed (extra `optuna`)"
)

BASE: dict[str, Any] = {
    "data": {"name": "shapes"},
    "detector": {"name": "fcos"},
    "assignment": {"name": "poto"},
}
ALPHA: dict[str, Any] = {
    "assignment.alpha": {"low": 0, "high": 1},
    "training.lr": {"low": 1e-4, "high": 1e-1, "log": True},
}
MIXED: dict[str, Any] = {
    "assignment": {"choices": [{"name": "poto"}, {"name": "o2f"}, {"name": "o2f", "radius": 2.0}]},
    "assignment.alpha": {"low": 0.2, "high": 0.8},
    "assignment.k": {"low": 1, "high": 9, "step": 2},
    "detector.box": {"choices": ["relu", "exp"]},
    "training.optimizer": {"choices": ["sgd", "adamw"]},
    "training.momentum": {"low": 0.1, "high": 0.9, "step": 0.2},
    "data.size": {"choices": [64, 96]},
    "evaluation.protocol": {"choices": ["default", {"preset": "onenet", "nms_iou": 0.7}]},
}
MIXED_WHEN: dict[str, Any] = {
    "assignment.k": {"assignment.name": "o2f"},
    "training.momentum": {"training.optimizer": "sgd"},
    "assignment.alpha": {"data.size": 64},
}


@pytest.fixture(autouse=True)
def _with_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept specs with Optuna where it isn't installed: much happens before it is used."""
    monkeypatch.setattr(check, "find_spec", lambda name: object())


def spec(trials: int = 20, space: dict[str, Any] | None = None, **keys: Any) -> Spec:
    own = {key: keys.pop(key) for key in ("startup", "objective", "seed") if key in keys}
    search = {"method": "optuna", "trials": trials, "space": space or ALPHA} | own
    return Spec.model_validate({"name": "test", "base": BASE, "search": search} | keys)


def opened(found: Spec) -> Search:
    search = open_search(found)
    assert search is not None
    return search


def score(trial: TrialRecord) -> dict[str, float]:
    """Return an AP that is best at alpha 0.7 and lr 0.01, and a gap that is best at alpha 0.2."""
    alpha, lr = trial.config["assignment"]["alpha"], trial.config["training"]["lr"]
    off = (alpha - 0.7) ** 2 + (math.log10(lr) + 2) ** 2 / 9
    return {"ap": 40 - 30 * off + trial.seed / 100, "gap": -20 * (alpha - 0.2) ** 2}


Ending = Callable[[TrialRecord], TrialState]


def simulate(
    found: Spec, at_once: int = 1, ending: Ending = lambda _: TrialState.SUCCEEDED, order: int = 0
) -> list[TrialResult]:
    """Do what a driver does: as many trials as fit are open, and they end in random order."""
    search, chance = opened(found), random.Random(order)
    known = [TrialResult(trial, TrialState.WAITING) for trial in expand(resolve(found)).trials]
    finished = False
    while True:
        waiting = [i for i, each in enumerate(known) if each.state == "waiting"]
        if not finished and len(waiting) < at_once:
            more = search.propose(known)
            finished = more is None
            known += [TrialResult(trial, TrialState.WAITING) for trial in more or ()]
        elif waiting:
            which = chance.choice(waiting[:at_once])
            trial = known[which].trial
            known[which] = TrialResult(trial, ending(trial), trial.epochs, score(trial))
        else:
            return known


def ids(known: Sequence[TrialResult]) -> list[str]:
    return [each.trial.id for each in known]


# --- the sample of a trial ----------------------------------------------------


def test_a_spec_that_proposes_nothing_has_no_search() -> None:
    assert open_search(Spec.model_validate({"name": "test", "base": BASE})) is None
    drawn = {"trials": 3, "space": ALPHA}
    assert open_search(Spec.model_validate({"name": "t", "base": BASE, "search": drawn})) is None


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_a_sample_is_read_back_from_its_trials(seed: int) -> None:
    found = spec(12, MIXED, when=MIXED_WHEN, seed=seed, startup=12, grid={"seed": [0, 1]})
    assert found.search is not None
    reader = SampleReader(found)
    for sample in samples(found.search):
        trials = expand(resolve(adaptive.with_sample(found, sample))).trials
        expected = dict(sample)
        if sample["assignment"]["name"] != "o2f":
            del expected["assignment.k"]
        if sample["training.optimizer"] != "sgd":
            del expected["training.momentum"]
        if sample["data.size"] != 64:
            del expected["assignment.alpha"]
        for trial in trials:
            stored = json.loads(json.dumps(trial.config))
            assert reader.sample(stored) == expected


def test_the_result_of_a_sample_is_the_mean_over_its_trials() -> None:
    found = spec(3, startup=3, grid={"seed": [0, 1, 2]}, objective=["ap", "gap"])
    first, second, third = (
        [
            TrialResult(t, TrialState.SUCCEEDED, 12, {"ap": ap, "gap": -ap / 10})
            for t, ap in zip(three, aps, strict=True)
        ]
        for three, aps in zip(
            (expand(resolve(found)).trials[i : i + 3] for i in (0, 3, 6)),
            ((10.0, 20.0, 60.0), (1.0, 2.0, 3.0), (7.0, 7.0, 7.0)),
            strict=True,
        )
    )
    third = [replace(each, metrics={"ap": 7.0, "gap": None}) for each in third]
    second[1] = replace(second[1], state=TrialState.FAILED)
    read = SampleReader(found).outcomes([*first, *second, *third])
    assert [each.state for each in read] == ["done", "done", "failed"]
    assert read[0].objective == (30.0, -3.0)
    assert read[1].objective == pytest.approx((2.0, -0.2))  # of the trials that succeeded
    assert read[2].objective is None


@pytest.mark.parametrize(
    ("states", "stop", "expected"),
    [
        ((TrialState.SUCCEEDED, TrialState.RUNNING), None, "open"),
        ((TrialState.SUCCEEDED, TrialState.WAITING), None, "open"),
        ((TrialState.INTERRUPTED, TrialState.FAILED), None, "open"),
        ((TrialState.SUCCEEDED, TrialState.PREEMPTED), None, "open"),
        ((TrialState.SUCCEEDED, TrialState.SUCCEEDED), None, "done"),
        ((TrialState.SUCCEEDED, TrialState.FAILED), None, "done"),
        ((TrialState.FAILED, TrialState.CANCELLED), None, TrialState.FAILED),
        ((TrialState.SUCCEEDED, TrialState.STOPPED), {"rule": "asha"}, TrialState.STOPPED),
        ((TrialState.STOPPED, TrialState.FAILED), {"rule": "asha"}, TrialState.STOPPED),
        (
            (TrialState.SUCCEEDED, TrialState.STOPPED),
            None,
            "open",
        ),  # no rule of this sweep stops it: it is trained on
    ],
)
def test_states_of_a_sample(
    states: tuple[TrialState, TrialState], stop: dict[str, Any] | None, expected: str
) -> None:
    found = spec(1, grid={"seed": [0, 1]}, stop=stop)
    trials = expand(resolve(found)).trials
    known = [
        TrialResult(trial, state, 12 if state == TrialState.SUCCEEDED else 4, {"ap": 1.0})
        for trial, state in zip(trials, states, strict=True)
    ]
    (read,) = SampleReader(found).outcomes(known)
    assert read.state == expected
    assert read.epoch == (12 if set(states) == {TrialState.SUCCEEDED} else 4)


PROTOCOLS = {"choices": ["default", "onenet", {"nms_iou": 0.7}]}


def evaluation(trial: TrialRecord, epoch: int, protocol: str, primary: bool) -> EvaluationRecord:
    base = epoch + 10 * primary + len(protocol)
    metrics: dict[str, float | None] = {"ap": base, "ap_nms": base + 1, "gap": -1, "recall": 0.5}
    branch = "o2o" if primary else "o2m"
    return EvaluationRecord(trial.id, epoch, branch, primary, protocol, metrics, ())


def test_results_from_the_ledger(tmp_path: Path) -> None:
    """They are those of the last evaluation of the primary branch under the trial's protocol."""
    sweep = expand(resolve(spec(3, startup=3, space={"evaluation.protocol": PROTOCOLS})))
    first, second, third = sweep.trials
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        assert trial_results(ledger, sweep.id) == []
        ledger.add_sweep(sweep)
        for trial in (first, second):
            attempt = ledger.start_attempt(Claim(trial.id, sweep.id))
            own = trial.config["evaluation"]["protocol"]["preset"]
            for epoch in (1, 2):
                for name, primary in ((own, True), (own, False), ("foreign", True)):
                    ledger.record(evaluation(trial, epoch, name, primary), attempt)
            if trial is first:
                ledger.end_attempt(attempt, AttemptEnd(TrialState.SUCCEEDED, "", Cost()))
        found = trial_results(ledger, sweep.id)
    assert [each.trial for each in found] == [first, second, third]
    assert [each.state for each in found] == ["succeeded", TrialState.RUNNING, "waiting"]
    assert [each.epoch for each in found] == [2, 2, 0]
    own = first.config["evaluation"]["protocol"]["preset"]
    expected = evaluation(first, 2, own, primary=True).metrics
    assert {key: each for key, each in found[0].metrics.items() if each is not None} == expected
    assert found[2].metrics == {}


def test_a_plan_shows_what_was_proposed_before(tmp_path: Path) -> None:
    found, home = spec(8, startup=3), Home(tmp_path / "home")
    sweep, path = expand(resolve(found)), tmp_path / "search.yaml"
    path.write_text(sweep.spec)
    before = make_plan(path, None, [], home)
    assert before.sweep == sweep
    assert before.notes == ("search: 3 samples so far, up to 5 more are proposed as trials end",)
    more = expand(resolve(spec(5, startup=5))).trials
    with Ledger.open(home.ledger_url) as ledger:
        ledger.add_sweep(replace(sweep, trials=more))
    after = make_plan(path, None, [], home)
    assert (after.sweep.id, after.sweep.trials) == (sweep.id, more)
    assert after.notes == ("search: 5 samples so far, up to 3 more are proposed as trials end",)
    assert json.loads(plan_json(after))["notes"] == list(after.notes)


# --- proposals -----------------------------------------------------------------------------


def test_samples_are_drawn_at_random_until_enough_have_ended() -> None:
    """While all samples are open Optuna isn't used."""
    found = spec(12, startup=4)
    search, known = opened(found), list[TrialResult]()
    while (more := search.propose(known)) is not None:
        known += [TrialResult(trial, TrialState.RUNNING) for trial in more]
    drawn_at_random = {"trials": 12, "space": ALPHA}
    drawn = Spec.model_validate({"name": "test", "base": BASE, "search": drawn_at_random})
    assert ids(known) == [trial.id for trial in expand(resolve(drawn)).trials]
    assert [trial.id for trial in outline(resolve(found)).sweep.trials] == ids(known)[:4]
    assert not search.notes


def test_failed_samples_count() -> None:
    known = simulate(spec(8, startup=3), ending=lambda _: TrialState.FAILED)
    assert len(set(ids(known))) == len(known) == 8


def test_remaining_counts_samples_not_trials() -> None:
    found = spec(8, startup=3, grid={"seed": [0, 1]})
    known = [TrialResult(trial, TrialState.WAITING) for trial in expand(resolve(found)).trials]
    assert (len(known), opened(found).remaining(known)) == (6, 5)
    assert opened(found).remaining([]) == 8


def test_an_exhausted_space_ends_the_search() -> None:
    found = spec(
        50,
        {"assignment.k": {"low": 1, "high": 3}},
        startup=40,
        base=BASE | {"assignment": {"name": "o2f"}},
    )
    search = opened(found)
    known = [TrialResult(trial, TrialState.RUNNING) for trial in expand(resolve(found)).trials]
    assert len(known) == 3
    assert search.propose(known) is None
    assert list(search.notes) == [
        "search: the space has only 3 different samples; no more are proposed"
    ]


def test_invalid_samples_are_left_out_and_reported() -> None:
    space = {"assignment.t_min": {"choices": [0.1, 0.9]}, "assignment.k": {"low": 1, "high": 2}}
    base = BASE | {"assignment": {"name": "o2f", "t_max": 0.5}}
    search, known = opened(spec(4, space, startup=1, base=base)), list[TrialResult]()
    while (more := search.propose(known)) is not None:
        known += [TrialResult(trial, TrialState.RUNNING) for trial in more]
    assert {each.trial.config["assignment"]["t_min"] for each in known} == {0.1}
    assert len(known) == 2
    left_out = [note for note in search.notes if "must not be above t_max" in note]
    assert len(left_out) == 2


@needs_optuna
@pytest.mark.parametrize("objective", [["ap"], ["ap", "gap"]])
@pytest.mark.parametrize("at_once", [1, 5])
def test_a_search_proposes_no_trial_twice(objective: list[str], at_once: int) -> None:
    known = simulate(spec(20, startup=5, objective=objective), at_once)
    assert len(set(ids(known))) == len(known) == 20
    assert all(each.state == TrialState.SUCCEEDED for each in known)


@needs_optuna
def test_proposals_depend_on_the_results_alone() -> None:
    """A new process at every step that has only the rows of the ledger proposes the same."""
    found = spec(14, startup=4, grid={"seed": [0, 1]}, objective=["ap", "gap"])
    whole = simulate(found, at_once=4)
    for cut in range(8, len(whole), 2):
        before = whole[:cut]
        more, again = opened(found).propose(before), opened(found).propose(list(before))
        assert more == again
        assert more is not None
        assert len(more) == 2  # both seeds of one sample
    other = spec(14, startup=4, grid={"seed": [0, 1]}, objective=["ap", "gap"], seed=1)
    assert opened(other).propose(whole[:16]) != opened(found).propose(whole[:16])


@needs_optuna
def test_open_samples_spread_out_parallel_proposals() -> None:
    """Twenty proposals while no sample ends, against as many for samples that have failed."""
    space = {"assignment.alpha": {"low": 0, "high": 1}}
    start = simulate(spec(20, startup=10, space=space))

    def spread(state: TrialState) -> float:
        search, known = opened(spec(40, startup=10, space=space)), list(start)
        while (more := search.propose(known)) is not None:
            known += [TrialResult(trial, state) for trial in more]
        new = [each.trial.config["assignment"]["alpha"] for each in known[20:]]
        assert len(set(new)) == len(new) == 20
        return float(pstdev(new))

    assert spread(TrialState.RUNNING) > 2 * spread(TrialState.FAILED)


@needs_optuna
def test_a_search_is_better_than_random_samples() -> None:
    """Mean of the later half against as many random samples, over five seeds."""

    def later(known: Sequence[TrialResult]) -> float:
        return fmean(score(each.trial)["ap"] for each in known[20:])

    learned, drawn = list[float](), list[float]()
    for seed in range(5):
        learned.append(later(simulate(spec(40, seed=seed))))
        drawn.append(later(simulate(spec(40, seed=seed, startup=40))))
    assert all(a > b for a, b in zip(learned, drawn, strict=True))
    assert sum(learned) - sum(drawn) > 5 * 3


@needs_optuna
def test_two_objectives_are_traded_off() -> None:
    """AP is best at alpha 0.7, the gap at 0.2: the later half lies in between, near both ends."""
    known = simulate(spec(60, startup=10, objective=["ap", "gap"]))
    alphas = [each.trial.config["assignment"]["alpha"] for each in known[30:]]
    assert sum(0.15 < alpha < 0.75 for alpha in alphas) > 0.8 * len(alphas)
    assert min(alphas) < 0.4
    assert max(alphas) > 0.5


@needs_optuna
@pytest.mark.parametrize("objective", [["ap"], ["ap", "gap"]])
def test_conditional_keys_whole_sections_failures_and_stops(objective: list[str]) -> None:
    def ending(trial: TrialRecord) -> TrialState:
        kind = int(trial.id, 16) % 4
        return (
            TrialState.FAILED
            if kind == 0
            else TrialState.STOPPED
            if kind == 1
            else TrialState.SUCCEEDED
        )

    found = spec(
        24, MIXED, when=MIXED_WHEN, startup=5, objective=objective, stop={"rule": "median"}
    )
    known = simulate(found, at_once=3, ending=ending)
    read = SampleReader(found).outcomes(known)
    assert len(set(ids(known))) == len(known) == len(read) == 24
    assert {each.state for each in read} == {"done", TrialState.STOPPED, TrialState.FAILED}
    assert opened(found).propose(known) is None


@needs_optuna
def test_a_small_space_is_searched_completely() -> None:
    """Optuna repeats samples; then others are drawn at random."""
    space = {"assignment.k": {"low": 1, "high": 4}, "detector.box": {"choices": ["relu", "exp"]}}
    found = spec(30, space, startup=2, base=BASE | {"assignment": {"name": "o2f", "alpha": 0.5}})
    known = simulate(found)
    assert len(set(ids(known))) == len(known) == 8
    search = opened(found)
    assert search.propose(known) is None
    assert "search: sample 9 is drawn at random: 10 proposals were not new" in search.notes


@needs_optuna
def test_the_verbosity_of_optuna_is_restored() -> None:
    import optuna

    from gaplab.launch.search_optuna import Proposer

    before = optuna.logging.get_verbosity()
    found = spec(8, startup=1)
    assert found.search is not None
    try:
        optuna.logging.set_verbosity(optuna.logging.DEBUG)
        Proposer(found.search).propose([], 0)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
