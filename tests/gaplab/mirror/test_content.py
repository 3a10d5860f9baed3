"""What MLflow should hold of a sweep: the status that follows from the states of its trials."""

import json
from itertools import chain, combinations
from typing import Any

import pytest

from gaplab.ledger.views import EpochLossesView, SweepView
from gaplab.mirror.content import (
    MAX_NAME,
    STATUS,
    keys_of,
    run_name,
    shared_view,
    sweep_content,
    sweep_status,
    trial_content,
)
from gaplab.states import TrialState
from tests.builders import NOW, attempt_view, evaluation_view, trial_view

RUNNING, FAILED, WAITING = TrialState.RUNNING, TrialState.FAILED, TrialState.WAITING
SUCCEEDED, STOPPED = TrialState.SUCCEEDED, TrialState.STOPPED
BROKEN_OFF = {TrialState.INTERRUPTED, TrialState.PREEMPTED, TrialState.CANCELLED}


def subsets() -> list[tuple[TrialState, ...]]:
    sizes = range(len(TrialState) + 1)
    return list(chain.from_iterable(combinations(TrialState, size) for size in sizes))


def expected(present: set[TrialState]) -> str:
    """Derive the status of a sweep from the states that its trials are in, rule by rule."""
    if RUNNING in present:
        return "RUNNING"
    if FAILED in present:
        return "FAILED"
    if present & BROKEN_OFF:
        return "KILLED"
    if WAITING in present:
        return "SCHEDULED" if present == {WAITING} else "KILLED"
    return "KILLED" if present == {STOPPED} else "FINISHED"


def test_every_state_has_a_status() -> None:
    assert set(STATUS) == set(TrialState)
    assert set(STATUS.values()) == {"SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"}


def test_every_combination_of_states_has_a_status() -> None:
    found = subsets()
    assert len(found) == 2 ** len(TrialState)
    for present in found:
        counts = {state: 2 if state in present else 0 for state in TrialState}
        assert sweep_status(counts) == expected(set(present)), present
        assert sweep_status(dict.fromkeys(present, 1)) == expected(set(present)), present


@pytest.mark.parametrize("state", [STOPPED, *sorted(BROKEN_OFF)])
def test_a_sweep_without_a_trial_that_succeeded_is_not_finished(state: TrialState) -> None:
    assert sweep_status({state: 3}) == "KILLED"


def test_a_sweep_that_stopped_some_trials_early_is_finished_with_the_others() -> None:
    assert sweep_status({STOPPED: 6, SUCCEEDED: 3}) == "FINISHED"
    assert sweep_status({STOPPED: 6, SUCCEEDED: 2, WAITING: 1}) == "KILLED"


def test_losses_and_positives_are_metrics_of_their_own_per_epoch() -> None:
    losses = [
        EpochLossesView(
            "t1", epoch, {"o2o.cls": 1 / epoch, "o2o.a/b": 2.0}, NOW, {"o2o.rank": 3.0 * epoch}
        )
        for epoch in (1, 2)
    ]
    trial = trial_view(config={"evaluation": {"protocol": {"preset": "default"}}, "seed": 0})
    content = trial_content("s1", trial, [attempt_view()], [evaluation_view()], losses)
    found = {(p.key, p.epoch): p.value for p in content.points if p.key.startswith("loss.")}
    assert found == {
        ("loss.o2o.cls", 1): 1.0,
        ("loss.o2o.cls", 2): 0.5,
        ("loss.o2o.a_b", 1): 2.0,
        ("loss.o2o.a_b", 2): 2.0,
    }
    assert "ap" in {point.key for point in content.points}
    ranks = [(p.epoch, p.value) for p in content.points if p.key == "positives.o2o.rank"]
    assert ranks == [(1, 3.0), (2, 6.0)]


KEYS = ["assignment.name", "assignment.alpha", "assignment.k"]


@pytest.mark.parametrize(
    ("assignment", "name"),
    [
        ({"name": "poto", "alpha": 0.5}, "poto alpha=0.5 seed=7"),
        ({"name": "o2f", "alpha": None, "k": [3, 5]}, "o2f alpha=null k=[3, 5] seed=7"),
        ({"name": "poto", "alpha": "\x1b[2J<b>"}, r"poto alpha=\x1b[2J<b> seed=7"),
        ({}, "poto seed=7"),
    ],
)
def test_runs_are_named_by_what_was_swept(assignment: dict[str, Any], name: str) -> None:
    trial = trial_view(seed=7, config={"assignment": assignment, "seed": 7})
    assert run_name(trial, KEYS) == name


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        ("name: s\ngrid: {assignment.alpha: [0.3, 0.5], seed: [0, 1]}\n", ["assignment.alpha"]),
        ("name: s\n", []),
        ("{broken", []),
        ("3", []),
    ],
)
def test_the_keys_of_names_and_columns_are_those_of_the_spec(spec: str, keys: list[str]) -> None:
    counts = dict.fromkeys(TrialState, 0)
    sweep = SweepView(id="s-01", name="s", spec=spec, created_at=NOW, counts=counts)
    assert keys_of(sweep) == keys


def test_names_fit_the_column_of_the_database() -> None:
    trial = trial_view(config={"assignment": {"name": "poto", "alpha": "x" * 300}})
    assert len(run_name(trial, KEYS)) == MAX_NAME


def test_the_view_shows_what_was_swept_and_the_gap() -> None:
    view = json.loads(shared_view("s-01", KEYS))
    columns = view["selectedColumns"]
    assert columns[0] == "metrics.`gap`"
    assert columns[3:6] == ["params.`assignment.alpha`", "params.`assignment.k`", "params.`seed`"]
    assert view["searchFilter"] == "tags.`gaplab.sweep` = 's-01'"


@pytest.mark.parametrize(
    ("spec", "note"),
    [
        ("name: s\nquestion: How much?\n", "How much?"),
        (
            "question: a < b & <img src=x onerror=alert(1)>\n",
            "a &lt; b &amp; &lt;img src=x onerror=alert(1)&gt;",
        ),
        ("name: s\n", None),
        ("question: ''\n", None),
        ("question: [1]\n", None),
        ("- a list", None),
        ("{broken", None),
    ],
)
def test_the_question_is_the_description_of_a_sweep(spec: str, note: str | None) -> None:
    counts = dict.fromkeys(TrialState, 0)
    sweep = SweepView(id="s-01", name="s", spec=spec, created_at=NOW, counts=counts)
    assert sweep_content(sweep, NOW).tags.get("mlflow.note.content") == note
