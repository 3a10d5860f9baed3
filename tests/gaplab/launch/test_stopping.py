"""Stopping rules against oracles written from the papers: ASHA, and the median rule of Vizier."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.launch.stopping import History, Judge, reached, rungs, stop_reason
from gaplab.records import EvaluationRecord, TrialRecord
from gaplab.spec.search import StopOptions


def rule(name: str = "asha", **more: Any) -> StopOptions:
    return StopOptions.model_validate({"rule": name} | more)


# --- ASHA -----------------------------------------------------------------------------------


class Paper:
    """Algorithm 2 of Li et al. 2018, which minimises a loss: rungs and what get_job promotes."""

    def __init__(self, eta: int, top: int) -> None:
        self.eta = eta
        self.rungs: list[dict[str, float]] = [{} for _ in range(top)]

    def update(self, configuration: str, rung: int, loss: float) -> None:
        self.rungs[rung][configuration] = loss

    def promotable(self, rung: int) -> list[str]:
        """Return top_k(rung k, |rung k| / eta) without those that were promoted before."""
        losses = self.rungs[rung]
        candidates = sorted(losses, key=lambda each: losses[each])[: len(losses) // self.eta]
        above = self.rungs[rung + 1] if rung + 1 < len(self.rungs) else {}
        return [each for each in candidates if each not in above]


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[int, int, list[list[float]], list[int]]:
    """Draw after, keep, the values of each trial at its rungs (all different) and an order."""
    after, keep = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    trials, levels = draw(st.integers(1, 12)), 3
    values = draw(st.permutations(range(trials * levels)))
    table = [[float(v) for v in values[i * levels : (i + 1) * levels]] for i in range(trials)]
    turns = draw(st.lists(st.integers(0, trials - 1), max_size=4 * trials))
    return after, keep, table, turns


@settings(max_examples=30)
@given(arrivals())
def test_a_trial_continues_if_the_paper_promotes_it(
    case: tuple[int, int, list[list[float]], list[int]],
) -> None:
    after, keep, table, turns = case
    options, paper = rule(after=after, keep=keep), Paper(keep, 3)
    history: dict[str, dict[int, float]] = {}
    stopped = set[int]()
    for turn in turns:
        name = str(turn)
        rung = len(history.get(name, {}))
        if turn in stopped or rung == 3:
            continue
        epoch, value = after * keep**rung, table[turn][rung]
        history.setdefault(name, {})[epoch] = value
        paper.update(name, rung, -value)
        reason = stop_reason(options, history, name, epoch)
        if len(paper.rungs[rung]) < keep:
            assert reason == ""
        else:
            assert (reason == "") == (name in paper.promotable(rung))
        if reason:
            stopped.add(turn)


def test_the_reason_names_rank_rung_and_value() -> None:
    history = {"a": {2: 30.0}, "b": {2: 20.0}, "c": {2: 12.34567}, "d": {1: 99.0}}
    reason = stop_reason(rule(after=2, metric="ap50"), history, "c", 2)
    assert reason == "asha: rank 3 of 3 at epoch 2 by ap50 (12.35); the best trial continues"
    assert stop_reason(rule(after=2), history, "a", 2) == ""


def test_a_trial_without_others_to_compare_with_continues() -> None:
    for name in ("asha", "median"):
        assert stop_reason(rule(name), {"a": {1: 0.0}}, "a", 1) == ""
        assert stop_reason(rule(name), {"a": {}, "b": {1: 9.0}, "c": {1: 9.0}}, "a", 1) == ""
        assert stop_reason(rule(name), {}, "a", 1) == ""


def test_equal_values_all_continue_or_all_stop() -> None:
    same: History = {name: {1: 5.0} for name in "abcdef"}
    assert {stop_reason(rule(), same, name, 1) for name in "abcdef"} == {""}
    behind = {**same, "g": {1: 4.0}}
    assert stop_reason(rule(), behind, "g", 1).startswith("asha: rank 7 of 7")


@given(st.integers(1, 5), st.integers(2, 5), st.integers(0, 200))
def test_rungs_are_powers(after: int, keep: int, epoch: int) -> None:
    found = list(rungs(rule(after=after, keep=keep), epoch))
    assert found == [after * keep**i for i in range(10) if after * keep**i <= epoch]


def test_a_rung_between_two_evaluations_is_reached_at_the_later_one() -> None:
    """Evaluated every third epoch, a trial reaches rungs 2, 4 and 8 at epochs 3, 6 and 9."""
    options = rule(after=2, keep=2)
    history = {"a": {3: 1.0, 6: 9.0, 9: 9.0}, "b": {2: 5.0, 4: 5.0, 8: 5.0}, "c": {3: 7.0, 6: 6.0}}
    assert [reached(history["a"], rung) for rung in (2, 4, 8, 16)] == [3, 6, 9, None]
    first: History = {"a": {3: 1.0}, "b": {2: 5.0}, "c": {3: 7.0}}
    assert "rank 3 of 3 at epoch 2" in stop_reason(options, first, "a", 3)
    assert stop_reason(options, history, "a", 6) == ""
    assert "rank 2 of 2 at epoch 8" in stop_reason(options, history, "b", 8)
    assert stop_reason(options, history, "b", 5) == "", "not evaluated at epoch 5"


def test_no_trial_is_stopped_between_rungs() -> None:
    history = {
        name: {1: value, 2: value} for name, value in zip("abc", (3.0, 2.0, 1.0), strict=True)
    }
    assert stop_reason(rule(), history, "c", 2) == ""
    assert stop_reason(rule(), history, "c", 1) != ""


def test_a_trial_that_reaches_two_rungs_at_once_must_pass_both() -> None:
    history = {
        "a": {4: 5.0},
        "b": {4: 4.0},
        "c": {1: 9.0, 4: 1.0},
        "d": {1: 8.0, 4: 1.0},
    }
    reason = stop_reason(rule(after=1, keep=2), history, "a", 4)
    assert "rank 3 of 4 at epoch 1 " in reason  # the best at epoch 4, but late at the first rung


# --- the median rule ------------------------------------------------------------------------


def vizier(history: History, trial: str, epoch: int) -> bool:
    """Return whether the best value so far is strictly below the median of running averages."""
    best = -math.inf
    for at, value in history[trial].items():
        if at <= epoch:
            best = max(best, value)
    averages = []
    for other in set(history) - {trial}:
        before = [history[other][at] for at in sorted(history[other]) if at <= epoch]
        if before and any(at >= epoch for at in history[other]):
            averages.append(sum(before) / len(before))
    return bool(averages) and best < statistics.median(averages)


CURVES = st.dictionaries(
    st.integers(1, 8), st.integers(-20, 20).map(lambda each: each / 4), max_size=8
)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abcdefg"), CURVES, max_size=7), st.integers(1, 4))
def test_the_median_rule_is_that_of_vizier(history: History, after: int) -> None:
    options = rule("median", after=after)
    for trial, curve in history.items():
        for epoch in range(1, 9):
            reason = stop_reason(options, history, trial, epoch)
            if epoch < after or epoch not in curve:
                assert reason == ""
            else:
                assert bool(reason) == vizier(history, trial, epoch)


def test_the_reason_of_the_median_rule() -> None:
    history = {"a": {1: 1.0, 2: 3.0}, "b": {1: 8.0, 2: 10.0}, "c": {1: 1.0, 2: 6.0, 3: 99.0}}
    reason = stop_reason(rule("median"), history, "a", 2)
    expected = (
        "median: best ap up to epoch 2 is 3, below 6.25, the median of the averages of 2 other "
        "trials"
    )
    assert reason == expected


# --- what all rules share -------------------------------------------------------------------


def trial(name: str, dataset: str = "shapes", preset: str = "default") -> TrialRecord:
    config = {"evaluation": {"protocol": {"preset": preset}}}
    return TrialRecord(name, config, "poto", "o2o", dataset, 0, 9, 1)


def evaluation(
    name: str, epoch: int, ap: float | None, *, primary: bool = True, protocol: str = "default"
) -> EvaluationRecord:
    return EvaluationRecord(name, epoch, "o2o", primary, protocol, {"ap": ap}, ())


def judge_of(options: StopOptions, evaluations: Sequence[EvaluationRecord]) -> Judge:
    judge = Judge(options)
    judge.add(evaluations)
    return judge


ALL = [trial(name) for name in "abcd"]
NINE = [evaluation(name, 9, ap) for name, ap in zip("abcd", (4.0, 3.0, 2.0, 1.0), strict=True)]


@pytest.mark.parametrize("name", ["asha", "median"])
def test_no_trial_is_stopped_at_its_last_epoch(name: str) -> None:
    last = judge_of(rule(name), NINE)
    assert [last.stop_reason(each, ALL, 9) for each in ALL] == [""] * 4
    before = judge_of(rule(name), [evaluation(e.trial, 1, e.metrics["ap"]) for e in NINE])
    assert before.stop_reason(ALL[3], ALL, 1) != ""


def test_other_data_protocols_and_branches_are_not_compared() -> None:
    mine = evaluation("a", 1, 1.0)
    others = [evaluation(name, 1, 9.0) for name in "bcd"]
    judge = judge_of(rule(), [mine, *others])
    assert judge.stop_reason(ALL[0], ALL, 1) != ""
    for foreign in (
        [trial(name, dataset="coco") for name in "bcd"],
        [trial(name, preset="onenet") for name in "bcd"],
        [],
    ):
        assert judge.stop_reason(ALL[0], foreign, 1) == ""
    branch = [evaluation(name, 1, 9.0, primary=False) for name in "bcd"]
    assert judge_of(rule(), [mine, *branch]).stop_reason(ALL[0], ALL, 1) == ""
    later = [evaluation("a", 1, 99.0, protocol="onenet")]  # as `gaplab reevaluate` adds it
    assert judge_of(rule(), [mine, *others, *later]).stop_reason(ALL[0], ALL, 1) != ""


def test_an_evaluation_without_the_metric_is_ignored() -> None:
    judge = judge_of(rule(), [evaluation("a", 1, None), *(evaluation(n, 1, 9.0) for n in "bcd")])
    assert judge.stop_reason(ALL[0], ALL, 1) == ""


@settings(max_examples=20)
@given(st.permutations([*NINE, *(evaluation(n, e, 5.0 - e) for n in "abcd" for e in (1, 3))]))
def test_the_order_of_evaluations_and_repetitions_do_not_matter(
    found: list[EvaluationRecord],
) -> None:
    """As after a resume."""
    for name in ("asha", "median"):
        first, again = judge_of(rule(name), found), judge_of(rule(name), [*found, *reversed(found)])
        for each in ALL:
            for epoch in (1, 2, 3):
                reason = first.stop_reason(each, ALL, epoch)
                assert again.stop_reason(each, ALL[::-1], epoch) == reason
