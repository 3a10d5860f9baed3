"""Which trial a driver claims next, with a real ledger and a clock of the test."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.launch.queue import POLL, ClaimedTrial, Queue
from gaplab.ledger import Ledger
from gaplab.records import AttemptEnd, CancelRequest, Claim, Cost, Fault, TrialRecord
from gaplab.spec.models import Policy
from gaplab.states import TrialState
from tests.builders import driver_record, sweep_record, trial_record

ALL = CancelRequest(all_trials=True)


def record(number: int, init_from: int | None = None) -> TrialRecord:
    source = "" if init_from is None else name(init_from)
    return trial_record(name(number), config={"training": {"init_from": source}}, epochs=1)


def name(number: int) -> str:
    return f"{number:012x}"


def only(*numbers: int) -> CancelRequest:
    return CancelRequest(trials=frozenset(map(name, numbers)))


def end(state: TrialState, fault: Fault = "") -> AttemptEnd:
    return AttemptEnd(state, "why" if state == TrialState.FAILED else "", Cost(), fault)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A ledger with drivers whose queues share one clock."""

    def __init__(self, path: Path) -> None:
        self.ledger, self.clock = Ledger.open(f"sqlite:///{path}/ledger.db"), Clock()
        self.drivers = 0

    def queue(self, *trials: TrialRecord, sweep: str = "s1", **policy: object) -> Queue:
        """Build the queue of a new driver."""
        self.ledger.add_sweep(sweep_record(sweep, *trials))
        self.drivers += 1
        driver = driver_record(f"d{self.drivers}", sweep)
        self.ledger.add_driver(driver, 900.0)
        chosen = Policy.model_validate({"backoff_seconds": 10.0, **policy})
        return Queue(self.ledger, driver, chosen, trials, self.clock)

    def end(self, queue: Queue, claimed: ClaimedTrial, how: AttemptEnd) -> None:
        """Do what a scheduler does when an attempt ends."""
        self.ledger.end_attempt(claimed.attempt, how)
        queue.handle_end(claimed.trial.id, how)

    def wait(self, seconds: float = POLL) -> None:
        """Let time pass."""
        self.clock.now += seconds

    def states(self, *numbers: int) -> list[TrialState]:
        """Read the states of trials."""
        found = self.ledger.states([name(each) for each in numbers])
        return [found[name(each)] for each in numbers]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.ledger.close()


def claim(queue: Queue) -> ClaimedTrial:
    """Claim the next trial, which must be due."""
    found = queue.claim()
    assert found is not None
    return found


def claim_all(queue: Queue) -> list[str]:
    """Claim all trials that are due."""
    return [each.trial.id for each in iter(queue.claim, None)]


class TestOneDriver:
    def test_nothing_to_do(self, bench: Bench) -> None:
        queue = bench.queue()
        assert (queue.finished, queue.running, queue.demand, queue.waits_for) == (True, 0, 0, "")
        assert queue.claim() is None

    def test_a_claim_stores_the_settings_of_the_trial(self, bench: Bench) -> None:
        edited = replace(record(1), config=record(1).config | {"resources": {"workers": 2}})
        for trial in (record(1), edited, record(1)):
            queue = bench.queue(trial)
            bench.end(queue, claim(queue), end(TrialState.INTERRUPTED))
        found = [each.config for each in bench.ledger.attempts(name(1))]
        assert found == [record(1).config, edited.config, record(1).config]

    def test_a_driver_keeps_the_settings_it_was_started_with(self, bench: Bench) -> None:
        queue = bench.queue(record(1))
        edited = replace(record(1), config=record(1).config | {"resources": {"workers": 2}})
        bench.queue(edited)
        claim(queue)
        [attempt] = bench.ledger.attempts(name(1))
        assert attempt.config == record(1).config
        assert bench.ledger.stored_sweep().trials == (edited,)

    def test_trials_are_claimed_in_order_and_once(self, bench: Bench) -> None:
        queue = bench.queue(*(record(n) for n in (3, 1, 2)))
        assert queue.demand == 3
        claimed = [claim(queue) for _ in range(3)]
        assert [each.trial.id for each in claimed] == [name(3), name(1), name(2)]
        assert queue.claim() is None
        assert (queue.running, queue.demand, queue.finished) == (3, 3, False)
        for each in claimed:
            [attempt] = bench.ledger.attempts(each.trial.id)
            found = (attempt.id, attempt.driver, attempt.state)
            assert found == (each.attempt, "d1", TrialState.RUNNING)
            bench.end(queue, each, end(TrialState.SUCCEEDED))
        assert (queue.running, queue.demand, queue.finished) == (0, 0, True)

    @pytest.mark.parametrize("state", [TrialState.INTERRUPTED, TrialState.PREEMPTED])
    def test_a_lost_attempt_is_retried_at_once(self, bench: Bench, state: TrialState) -> None:
        queue = bench.queue(record(1), record(2))
        bench.end(queue, claim(queue), end(state))
        assert claim_all(queue) == [name(2), name(1)]
        assert not queue.failures

    @pytest.mark.parametrize(
        "state", [TrialState.STOPPED, TrialState.CANCELLED, TrialState.SUCCEEDED]
    )
    def test_a_trial_that_is_done_is_settled(self, bench: Bench, state: TrialState) -> None:
        queue = bench.queue(record(1))
        bench.end(queue, claim(queue), end(state))
        assert queue.finished
        assert not queue.failures

    def test_each_retry_of_a_failure_waits_longer(self, bench: Bench) -> None:
        queue = bench.queue(record(1), retries=2)
        for wait in (10.0, 20.0):
            bench.end(queue, claim(queue), end(TrialState.FAILED, "lost"))
            text = f"waiting for 1 trial to be retried, the first in {wait:.0f} s"
            assert queue.waits_for == text
            assert (queue.demand, queue.finished) == (0, False)
            bench.wait(wait - 0.5)
            assert queue.claim() is None
            bench.wait(0.5)
        bench.end(queue, claim(queue), end(TrialState.FAILED, "lost"))
        assert queue.finished
        assert [(each.trial, each.fault, each.reason) for each in queue.failures] == [
            (name(1), "lost", "why")
        ]
        assert len(bench.ledger.attempts(name(1))) == 3

    @pytest.mark.parametrize("fault", ["input", "storage"])
    def test_a_failure_that_would_repeat_is_not_retried(self, bench: Bench, fault: Fault) -> None:
        queue = bench.queue(record(1))
        bench.end(queue, claim(queue), end(TrialState.FAILED, fault))
        assert queue.finished
        assert len(queue.failures) == 1

    def test_other_trials_start_while_one_waits_for_its_retry(self, bench: Bench) -> None:
        queue = bench.queue(record(1), record(2), retries=1)
        bench.end(queue, claim(queue), end(TrialState.FAILED, "memory"))
        assert claim(queue).trial.id == name(2)
        assert queue.waits_for == ""
        bench.wait(10.0)
        assert claim_all(queue) == [name(1)]

    def test_trials_may_be_added(self, bench: Bench) -> None:
        queue = bench.queue(record(1), record(2), record(3, 1))
        bench.end(queue, claim(queue), end(TrialState.SUCCEEDED))
        assert claim_all(queue) == [name(2), name(3)]
        assert not queue.finished
        known = [name(each) for each in (1, 2, 3)]
        assert bench.ledger.extend_sweep("s1", known, [record(4)])
        queue.add([])
        assert queue.claim() is None
        queue.add([record(4)])
        assert claim_all(queue) == [name(4)]


class TestDependents:
    def test_wait_for_the_trial_that_they_start_from(self, bench: Bench) -> None:
        """A chain and two dependents of one trial, in reverse; one starts from a foreign trial."""
        queue = bench.queue(record(3, 2), record(4, 1), record(2, 1), record(1), record(5, 99))
        first = claim(queue)
        assert first.trial.id == name(1)
        assert claim_all(queue) == [name(5)]
        assert queue.demand == 2
        bench.end(queue, first, end(TrialState.SUCCEEDED))
        second, third = claim(queue), claim(queue)
        assert [second.trial.id, third.trial.id] == [name(4), name(2)]
        assert queue.claim() is None
        bench.end(queue, third, end(TrialState.SUCCEEDED))
        assert claim_all(queue) == [name(3)]

    def test_wait_through_retries_and_start_after_the_last_failure(self, bench: Bench) -> None:
        queue = bench.queue(record(1), record(2, 1), retries=1)
        bench.end(queue, claim(queue), end(TrialState.FAILED, "lost"))
        assert queue.claim() is None
        bench.wait(10.0)
        bench.end(queue, claim(queue), end(TrialState.FAILED, "lost"))
        assert claim_all(queue) == [name(2)]

    def test_wait_for_a_trial_that_another_driver_runs(self, bench: Bench) -> None:
        trials = (record(1), record(2, 1))
        one, two = bench.queue(*trials), bench.queue(*trials)
        first = claim(one)
        assert two.claim() is None
        bench.end(one, first, end(TrialState.SUCCEEDED))
        bench.wait()
        assert claim_all(two) == [name(2)]
        assert one.claim() is None
        assert not one.finished, "the other driver runs it"


class TestCancelling:
    def test_some_trials(self, bench: Bench) -> None:
        queue = bench.queue(*(record(n) for n in range(3)))
        running = claim(queue)
        queue.cancel(only(0, 1, 9))
        assert queue.demand == 2, "the one that runs, and the one that is left"
        assert claim_all(queue) == [name(2)]
        bench.end(queue, running, end(TrialState.CANCELLED))
        assert bench.states(0, 1, 2) == [
            TrialState.CANCELLED,
            TrialState.WAITING,
            TrialState.RUNNING,
        ]

    def test_all_trials(self, bench: Bench) -> None:
        queue = bench.queue(record(0), record(1), record(2, 0), record(3, 1), retries=5)
        running, failed = claim(queue), claim(queue)
        bench.end(queue, failed, end(TrialState.FAILED, "lost"))
        queue.cancel(ALL)
        assert (queue.demand, queue.waits_for, queue.finished) == (1, "", False)
        assert queue.claim() is None
        bench.end(queue, running, end(TrialState.INTERRUPTED))  # it died before the order came
        queue.cancel(ALL)
        bench.wait(1000.0)
        assert queue.claim() is None
        assert queue.finished
        assert queue.demand == 0

    def test_no_trial(self, bench: Bench) -> None:
        queue = bench.queue(record(0))
        queue.cancel(CancelRequest())
        assert claim_all(queue) == [name(0)]

    def test_a_trial_that_another_driver_runs(self, bench: Bench) -> None:
        one, two = bench.queue(record(1)), bench.queue(record(1))
        claim(one)
        assert two.claim() is None
        assert two.waits_for == "waiting for 1 trial that another driver runs"
        two.cancel(only(1))
        assert two.finished
        assert two.waits_for == ""


class TestTwoDrivers:
    @given(
        trials=st.integers(0, 6),
        seed=st.integers(0, 2**20),
        fail=st.floats(0, 0.6),
    )
    @settings(max_examples=15)
    def test_no_trial_runs_twice_at_once(
        self, tmp_path_factory: pytest.TempPathFactory, trials: int, seed: int, fail: float
    ) -> None:
        bench, chance = Bench(tmp_path_factory.mktemp("bench")), random.Random(seed)
        todo = [record(n) for n in range(trials)]
        queues = [bench.queue(*chance.sample(todo, trials), retries=100) for _ in range(2)]
        running: list[tuple[Queue, ClaimedTrial]] = []
        for _ in range(400):
            if all(each.finished for each in queues):
                break
            queue = chance.choice(queues)
            if (claimed := queue.claim()) is not None:
                running.append((queue, claimed))
            assert len({each.trial.id for _, each in running}) == len(running)
            if running and chance.random() < 0.5:
                who, which = running.pop(chance.randrange(len(running)))
                bad = chance.choice(
                    [TrialState.FAILED, TrialState.INTERRUPTED, TrialState.PREEMPTED]
                )
                bench.end(who, which, end(bad if chance.random() < fail else TrialState.SUCCEEDED))
            bench.wait(chance.choice([0.0, 1.0, 100.0]))
        assert all(each.finished for each in queues)
        assert bench.states(*range(trials)) == [TrialState.SUCCEEDED] * trials
        for each in todo:
            found = bench.ledger.attempts(each.id)
            assert [a.number for a in found] == list(range(1, len(found) + 1))
            assert [a.state for a in found].count(TrialState.SUCCEEDED) == 1
        bench.ledger.close()

    def test_a_trial_that_the_other_finished_is_settled(self, bench: Bench) -> None:
        one, two = bench.queue(record(1), record(2)), bench.queue(record(1), record(2))
        bench.end(one, claim(one), end(TrialState.SUCCEEDED))
        assert claim_all(two) == [name(2)]
        assert two.demand == 1

    def test_the_ledger_is_not_read_at_every_call(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = bench.queue(record(1)), bench.queue(record(1))
        claimed = claim(one)
        assert two.claim() is None
        asked: list[Sequence[str]] = []
        states = bench.ledger.states

        def counted(trials: Sequence[str]) -> dict[str, TrialState]:
            asked.append(trials)
            return states(trials)

        monkeypatch.setattr(bench.ledger, "states", counted)
        for _ in range(20):
            bench.wait(POLL / 4)
            two.claim()
        assert 4 <= len(asked) <= 6
        bench.end(one, claimed, end(TrialState.SUCCEEDED))
        bench.wait()
        two.refresh()
        assert two.finished

    def test_an_interrupted_trial_of_the_other_is_taken_over(self, bench: Bench) -> None:
        one, two = bench.queue(record(1)), bench.queue(record(1))
        claimed = claim(one)
        assert two.claim() is None
        bench.ledger.end_attempt(claimed.attempt, end(TrialState.INTERRUPTED))
        assert two.claim() is None
        bench.wait()
        assert claim_all(two) == [name(1)]

    def test_failures_of_the_other_count(self, bench: Bench) -> None:
        """Together they retry a trial as often as one driver would."""
        one, two = bench.queue(record(1), retries=1), bench.queue(record(1), retries=1)
        claimed = claim(one)
        assert two.claim() is None
        bench.end(one, claimed, end(TrialState.FAILED, "lost"))
        bench.wait(10.0)
        bench.end(one, claim(one), end(TrialState.FAILED, "lost"))
        assert one.finished
        bench.wait()
        assert two.claim() is None
        assert two.finished
        assert not two.failures, "it failed in the other driver"

    def test_failures_before_the_driver_started_do_not_count(self, bench: Bench) -> None:
        early = bench.queue(record(1), retries=1)
        bench.end(early, claim(early), end(TrialState.FAILED, "input"))
        assert early.finished
        late, other = bench.queue(record(1), retries=1), bench.queue(record(1), retries=1)
        claimed = claim(other)
        assert late.claim() is None
        bench.end(other, claimed, end(TrialState.FAILED, "lost"))
        bench.wait()
        assert late.claim() is None
        assert not late.finished
        bench.wait(10.0)
        assert claim_all(late) == [name(1)]

    @pytest.mark.parametrize("state", [TrialState.CANCELLED, TrialState.STOPPED])
    def test_a_trial_that_ended_so_in_another_sweep_is_due(
        self, bench: Bench, state: TrialState
    ) -> None:
        one, two = bench.queue(record(1)), bench.queue(record(1), sweep="s2")
        claimed = claim(one)
        assert two.claim() is None
        bench.ledger.cancel("s1")
        bench.end(one, claimed, end(state))
        bench.wait()
        assert claim_all(two) == [name(1)]

    def test_a_sweep_resumed_while_its_cancelled_driver_is_ending(self, bench: Bench) -> None:
        old = bench.queue(record(1))
        claimed = claim(old)
        bench.ledger.cancel("s1")
        new = bench.queue(record(1))
        assert new.claim() is None
        bench.end(old, claimed, end(TrialState.CANCELLED))
        bench.wait()
        assert claim_all(new) == [name(1)]

    def test_a_trial_that_was_cancelled_for_both_is_settled(self, bench: Bench) -> None:
        one, two = bench.queue(record(1)), bench.queue(record(1))
        claimed = claim(one)
        assert two.claim() is None
        bench.ledger.cancel("s1", [name(1)])
        bench.end(one, claimed, end(TrialState.CANCELLED))
        bench.wait()
        assert two.claim() is None
        assert two.finished

    def test_trials_of_a_driver_that_was_considered_lost(self, bench: Bench) -> None:
        """They come back, or are settled by the driver that took them over."""
        queue = bench.queue(record(1), record(2))
        for each in (claim(queue), claim(queue)):
            queue.handle_loss(each.trial.id)
            bench.ledger.end_attempt(each.attempt, end(TrialState.INTERRUPTED))
        other = bench.ledger.start_attempt(Claim(name(2), "s1", "d9"))
        assert (queue.running, queue.demand) == (0, 0)
        assert queue.waits_for == "waiting for 2 trials that other drivers run"
        bench.wait()
        assert claim_all(queue) == [name(1)]
        bench.ledger.end_attempt(other, end(TrialState.SUCCEEDED))
        bench.wait()
        assert queue.claim() is None
        assert queue.demand == 1


def test_two_drivers_of_a_sweep_share_its_limit(bench: Bench) -> None:
    trials = [record(n) for n in range(4)]
    first, second = (bench.queue(*trials, at_once=2) for _ in range(2))
    held = [claim(first), claim(first)]
    assert second.claim() is None
    assert (second.limited, second.demand, second.due) == (True, 0, 2)
    reasons = "2 trials that other drivers run and a free slot for 2 trials (run.at_once)"
    assert second.waits_for == f"waiting for {reasons}"
    bench.end(first, held[0], end(TrialState.SUCCEEDED))
    assert second.claim() is None, "the ledger is asked again after a while"
    bench.wait()
    assert (second.limited, second.demand) == (False, 2)
    assert claim(second).trial.id == name(2)
    assert (first.claim(), second.claim()) == (None, None)
    assert bench.states(0, 1, 2, 3) == [
        TrialState.SUCCEEDED,
        TrialState.RUNNING,
        TrialState.RUNNING,
        TrialState.WAITING,
    ]


def test_the_end_of_an_own_attempt_makes_room_at_once(bench: Bench) -> None:
    queue = bench.queue(record(0), record(1), at_once=1)
    held = claim(queue)
    assert queue.claim() is None
    assert (queue.limited, queue.demand, queue.waits_for) == (True, 1, "")
    bench.end(queue, held, end(TrialState.SUCCEEDED))
    assert claim(queue).trial.id == name(1)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=8)
def test_drivers_run_all_trials_and_never_more_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory, limit: int, drivers: int, seed: int
) -> None:
    bench, chance = Bench(tmp_path_factory.mktemp("limit")), random.Random(seed)
    trials = [record(n) for n in range(5)]
    queues = [bench.queue(*trials, at_once=limit) for _ in range(drivers)]
    held: list[tuple[Queue, ClaimedTrial]] = []
    while not all(queue.finished for queue in queues):
        queue = chance.choice(queues)
        if held and chance.random() < 0.4:
            bench.end(*held.pop(chance.randrange(len(held))), end(TrialState.SUCCEEDED))
        elif (claimed := queue.claim()) is not None:
            held.append((queue, claimed))
        else:
            bench.wait()
        states = bench.states(*range(5))
        assert states.count(TrialState.RUNNING) == len(held) <= limit
    assert set(bench.states(*range(5))) == {TrialState.SUCCEEDED}
    bench.ledger.close()
