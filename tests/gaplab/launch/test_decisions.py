"""Transitions between states and decisions of a driver, against tables and loops of the tests."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.launch import decisions
from gaplab.launch.decisions import Demand, Ending, NextStep
from gaplab.records import Fault, Lease, Process
from gaplab.spec.models import Policy
from gaplab.states import ENDS, TRANSITIONS, TrialState

ALLOWED = """
waiting      claimed      running
failed       claimed      running
interrupted  claimed      running
preempted    claimed      running
cancelled    claimed      running
stopped      claimed      running
running      succeeded    succeeded
running      failed       failed
running      interrupted  interrupted
running      preempted    preempted
running      cancelled    cancelled
running      stopped      stopped
succeeded    rerun        waiting
"""
"""State, transition, and the state that follows; no other transition is allowed."""
TABLE = {(a, b): c for a, b, c in map(str.split, ALLOWED.strip().splitlines())}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class TestTransitions:
    def test_the_table_names_every_state(self) -> None:
        named = {before for before, _ in TABLE} | set(TABLE.values())
        assert named == {str(state) for state in TrialState}

    def test_the_transitions_are_those_of_the_table(self) -> None:
        found = {
            (str(before), str(transition)): str(after)
            for transition, (allowed, after) in TRANSITIONS.items()
            for before in allowed
        }
        assert found == TABLE


class TestNextStep:
    @given(
        state=st.sampled_from(ENDS),
        fault=st.sampled_from(get_args(Fault)),
        failures=st.integers(1, 12),
        retries=st.integers(0, 10),
    )
    @settings(max_examples=30)
    def test_every_ending(
        self, state: TrialState, fault: Fault, failures: int, retries: int
    ) -> None:
        policy = Policy(retries=retries, backoff_seconds=3.0)
        found = decisions.next_step(Ending(state, fault, failures), policy)
        if state in ("interrupted", "preempted"):
            expected = NextStep("retry", 0.0)
        elif state != "failed":
            expected = NextStep("done")
        elif fault in ("input", "storage") or failures > retries:
            expected = NextStep("give up")
        else:
            expected = NextStep("retry", min(300.0, 3.0 * 2 ** (failures - 1)))
        assert found == expected

    @pytest.mark.parametrize("retries", [0, 1, 5])
    def test_a_trial_that_always_fails_is_retried_as_often_as_the_policy_says(
        self, retries: int
    ) -> None:
        policy, tried = Policy(retries=retries), 0
        while True:
            tried += 1
            if (
                decisions.next_step(Ending(TrialState.FAILED, "lost", tried), policy).action
                != "retry"
            ):
                break
        assert tried == 1 + retries


class TestLost:
    MINE = Process("here", 7, 100)

    def lease(self, process: Process = MINE, seconds: float = 1.0) -> Lease:
        return Lease("d1", "node-7", process, NOW + timedelta(seconds=seconds))

    @pytest.mark.parametrize("seconds", [-1.0, 0.0, 1.0])
    def test_a_driver_that_died_on_this_machine_is_lost_whatever_its_lease(
        self, seconds: float
    ) -> None:
        other = {Process("here", 8, 100), Process("there", 7, 100)}
        for alive in (set(), other, {Process("here", 7, 101)}):
            reason = decisions.lost_reason(self.lease(seconds=seconds), NOW, "here", alive)
            assert reason == "its driver died"

    def test_a_driver_of_another_machine_is_lost_by_its_lease_alone(self) -> None:
        there = Process("there", 7, 100)
        for seconds, alive in ((1e-6, set()), (1e-6, {there}), (9.0, {self.MINE})):
            assert decisions.lost_reason(self.lease(there, seconds), NOW, "here", alive) is None
        for seconds in (0.0, -1e-6, -9.0):
            reason = decisions.lost_reason(self.lease(there, seconds), NOW, "here", {there})
            assert reason == "its driver on node-7 sent no heartbeat for too long"

    def test_a_running_driver_of_this_machine_is_lost_when_its_lease_expires(self) -> None:
        assert decisions.lost_reason(self.lease(), NOW, "here", {self.MINE}) is None
        assert "no heartbeat" in str(
            decisions.lost_reason(self.lease(seconds=0.0), NOW, "here", {self.MINE})
        )


def one_by_one(slots: int, demands: Sequence[Demand]) -> list[int]:
    """Give out slots one by one: to the highest priority with demand, among equal ones to the
    driver that has fewest, among those to the first.
    """
    found = [0] * len(demands)
    for _ in range(slots):
        open_ = [n for n, each in enumerate(demands) if found[n] < each.slots]
        if not open_:
            break
        found[min(open_, key=lambda n: (-demands[n].priority, found[n], n))] += 1
    return found


class TestShare:
    demands = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 9)), max_size=6).map(
        lambda pairs: [Demand(f"d{n}", *pair) for n, pair in enumerate(pairs)]
    )

    @given(slots=st.integers(0, 40), demands=demands)
    @settings(max_examples=30)
    def test_equals_giving_out_one_by_one(self, slots: int, demands: list[Demand]) -> None:
        found = [decisions.share(slots, demands, each.driver) for each in demands]
        assert found == one_by_one(slots, demands)

    @given(slots=st.integers(0, 40), demands=demands)
    @settings(max_examples=30)
    def test_properties(self, slots: int, demands: list[Demand]) -> None:
        found = {each: decisions.share(slots, demands, each.driver) for each in demands}
        assert sum(found.values()) == min(slots, sum(each.slots for each in demands))
        for each, own in found.items():
            assert 0 <= own <= each.slots
            for other, others in found.items():
                if other.priority < each.priority and others:
                    assert own == each.slots
                if other.priority == each.priority and own < each.slots:
                    assert others <= own + 1

    def test_no_demand_and_no_slots(self) -> None:
        assert decisions.share(5, [Demand("d", 0, 0)], "d") == 0
        assert decisions.share(0, [Demand("d", 0, 3)], "d") == 0
