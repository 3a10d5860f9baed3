"""Which trial a driver claims next, over a real ledger; time is ours."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.launch import queue as trialqueue
from gaplab.launch.queue import ClaimedTrial, Queue
from gaplab.ledger import Ledger
from gaplab.records import AttemptEnd, CancelRequest, Claim, Cost, Fault, SweepRecord, TrialRecord
from gaplab.spec.models import Policy
from gaplab.states import TrialState
from tests.builders import driver_record


def record(number: int, init_from: int | None = None) -> TrialRecord:
    source = "" if init_from is None else name(init_from)
    config = {"training": {"init_from": source}}
    return TrialRecord(name(number), config, "poto", "o2o", "shapes", 0, 1, 1)


def name(number: int) -> str:
    return f"{number:012x}"


def end(state: TrialState, fault: Fault = "") -> AttemptEnd:
    return AttemptEnd(state, "why" if state == TrialState.FAILED else "", Cost(), fault)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Room:
    """A ledger with drivers, whose queues share one clock."""

    def __init__(self, path: Path) -> None:
        self.ledger, self.clock = Ledger.open(f"sqlite:///{path}/ledger.db"), Clock()
        self.drivers = 0

    def queue(self, *trials: TrialRecord, sweep: str = "s1", **policy: object) -> Queue:
        self.ledger.add_sweep(SweepRecord(sweep, sweep, "name: s", trials))
        self.drivers += 1
        driver = driver_record(f"d{self.drivers}", sweep)
        self.ledger.add_driver(driver, 900.0)
        chosen = Policy.model_validate({"backoff_seconds": 10.0, **policy})
        return Queue(self.ledger, driver, chosen, trials, self.clock)

    def end(self, queue: Queue, claimed: ClaimedTrial, how: AttemptEnd) -> None:
        """What a scheduler does when an attempt ends."""
        self.ledger.end_attempt(claimed.attempt, how)
        queue.handle_end(claimed.trial.id, how)

    def wait(self, seconds: float = trialqueue.POLL) -> None:
        self.clock.now += seconds

    def states(self, *numbers: int) -> list[str]:
        found = self.ledger.states([name(each) for each in numbers])
        return [found[name(each)] for each in numbers]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.ledger.close()


def taken(queue: Queue) -> list[str]:
    """All that can be claimed now."""
    return [each.trial.id for each in iter(queue.claim, None)]


class TestOneDriver:
    def test_nothing_to_do(self, room: Room) -> None:
        queue = room.queue()
        assert (queue.finished, queue.running, queue.demand, queue.waits_for) == (True, 0, 0, "")
        assert queue.claim() is None

    def test_in_order_each_once(self, room: Room) -> None:
        queue = room.queue(*(record(n) for n in (3, 1, 2)))
        assert queue.demand == 3
        claims = [queue.claim() for _ in range(4)]
        assert [each and each.trial.id for each in claims] == [name(3), name(1), name(2), None]
        assert (queue.running, queue.demand, queue.finished) == (3, 3, False)
        for each in claims[:3]:
            assert each is not None
            [attempt] = room.ledger.attempts(each.trial.id)
            assert (attempt.id, attempt.driver, attempt.state) == (
                each.attempt,
                "d1",
                TrialState.RUNNING,
            )
            room.end(queue, each, end(TrialState.SUCCEEDED))
        assert (queue.running, queue.demand, queue.finished) == (0, 0, True)

    @pytest.mark.parametrize("state", [TrialState.INTERRUPTED, TrialState.PREEMPTED])
    def test_what_was_taken_away_is_due_at_once(self, room: Room, state: TrialState) -> None:
        queue = room.queue(record(1), record(2))
        first = queue.claim()
        room.end(queue, first, end(state))
        assert taken(queue) == [name(2), name(1)]
        assert not queue.failures

    @pytest.mark.parametrize(
        "state", [TrialState.STOPPED, TrialState.CANCELLED, TrialState.SUCCEEDED]
    )
    def test_what_is_over_is_settled(self, room: Room, state: TrialState) -> None:
        queue = room.queue(record(1))
        room.end(queue, queue.claim(), end(state))
        assert queue.finished
        assert not queue.failures

    def test_a_failure_is_tried_again_later_and_later(self, room: Room) -> None:
        queue = room.queue(record(1), retries=2)
        for wait in (10.0, 20.0):
            room.end(queue, queue.claim(), end(TrialState.FAILED, "lost"))
            assert (
                queue.waits_for == f"waiting for 1 trial to be retried, the first in {wait:.0f} s"
            )
            assert (queue.demand, queue.finished) == (0, False)
            room.wait(wait - 0.5)
            assert queue.claim() is None
            room.wait(0.5)
        room.end(queue, queue.claim(), end(TrialState.FAILED, "lost"))
        assert queue.finished
        assert [(each.trial, each.fault, each.reason) for each in queue.failures] == [
            (name(1), "lost", "why")
        ]
        assert len(room.ledger.attempts(name(1))) == 3

    @pytest.mark.parametrize("fault", ["input", "storage"])
    def test_what_would_fail_again_is_not_tried_again(self, room: Room, fault: Fault) -> None:
        queue = room.queue(record(1))
        room.end(queue, queue.claim(), end(TrialState.FAILED, fault))
        assert queue.finished
        assert len(queue.failures) == 1

    def test_others_go_on_while_one_waits(self, room: Room) -> None:
        queue = room.queue(record(1), record(2), retries=1)
        room.end(queue, queue.claim(), end(TrialState.FAILED, "memory"))
        second = queue.claim()
        assert second.trial.id == name(2)
        assert queue.waits_for == ""
        room.wait(10.0)
        assert taken(queue) == [name(1)]

    def test_more_may_be_added(self, room: Room) -> None:
        queue = room.queue(record(1), record(2), record(3, 1))
        room.end(queue, queue.claim(), end(TrialState.SUCCEEDED))
        assert taken(queue) == [name(2), name(3)]
        assert not queue.finished
        room.ledger.add_sweep(SweepRecord("s1", "s1", "name: s", (record(1), record(2), record(3))))
        queue.add([])
        assert queue.claim() is None


class TestHeirs:
    def test_they_wait_for_the_trial_they_start_from(self, room: Room) -> None:
        """A chain and two heirs of one, given backwards; one starts from a trial not of here."""
        queue = room.queue(record(3, 2), record(4, 1), record(2, 1), record(1), record(5, 99))
        first = queue.claim()
        assert first.trial.id == name(1)
        assert taken(queue) == [name(5)]
        assert queue.demand == 2
        room.end(queue, first, end(TrialState.SUCCEEDED))
        second, third = queue.claim(), queue.claim()
        assert [second.trial.id, third.trial.id] == [name(4), name(2)]
        assert queue.claim() is None
        room.end(queue, third, end(TrialState.SUCCEEDED))
        assert taken(queue) == [name(3)]

    def test_they_wait_through_retries_and_come_when_it_failed_for_good(self, room: Room) -> None:
        queue = room.queue(record(1), record(2, 1), retries=1)
        room.end(queue, queue.claim(), end(TrialState.FAILED, "lost"))
        assert queue.claim() is None
        room.wait(10.0)
        room.end(queue, queue.claim(), end(TrialState.FAILED, "lost"))
        assert taken(queue) == [name(2)]

    def test_they_wait_for_one_that_runs_elsewhere(self, room: Room) -> None:
        trials = (record(1), record(2, 1))
        one, two = room.queue(*trials), room.queue(*trials)
        first = one.claim()
        assert two.claim() is None
        room.end(one, first, end(TrialState.SUCCEEDED))
        room.wait()
        assert taken(two) == [name(2)]
        assert one.claim() is None
        assert not one.finished  # it runs elsewhere


class TestLeaving:
    def test_one(self, room: Room) -> None:
        queue = room.queue(*(record(n) for n in range(3)))
        running = queue.claim()
        queue.cancel(CancelRequest(trials=frozenset({name(0), name(1), name(9)})))
        assert queue.demand == 2  # the one that runs, and the one that is left to do
        assert taken(queue) == [name(2)]
        room.end(queue, running, end(TrialState.CANCELLED))
        assert room.states(0, 1, 2) == [
            TrialState.CANCELLED,
            TrialState.WAITING,
            TrialState.RUNNING,
        ]

    def test_all(self, room: Room) -> None:
        queue = room.queue(record(0), record(1), record(2, 0), record(3, 1), retries=5)
        running, failed = queue.claim(), queue.claim()
        room.end(queue, failed, end(TrialState.FAILED, "lost"))
        queue.cancel(CancelRequest(all_trials=True))
        assert (queue.demand, queue.waits_for, queue.finished) == (1, "", False)
        assert queue.claim() is None
        room.end(queue, running, end(TrialState.INTERRUPTED))  # it died before it heard
        queue.cancel(CancelRequest(all_trials=True))
        room.wait(1000.0)
        assert queue.claim() is None
        assert queue.finished
        assert queue.demand == 0

    def test_one_that_runs_elsewhere(self, room: Room) -> None:
        one, two = room.queue(record(1)), room.queue(record(1))
        one.claim()
        assert two.claim() is None
        assert two.waits_for == "waiting for 1 trial that another driver runs"
        two.cancel(CancelRequest(trials=frozenset({name(1)})))
        assert two.finished
        assert two.waits_for == ""


class TestTwoDrivers:
    @given(
        trials=st.integers(0, 6),
        seed=st.integers(0, 2**20),
        fail=st.floats(0, 0.6),
    )
    @settings(max_examples=15)
    def test_every_trial_is_taken_exactly_once_at_a_time(
        self, tmp_path_factory: pytest.TempPathFactory, trials: int, seed: int, fail: float
    ) -> None:
        room, chance = Room(tmp_path_factory.mktemp("room")), random.Random(seed)
        todo = [record(n) for n in range(trials)]
        queues = [room.queue(*chance.sample(todo, trials), retries=100) for _ in range(2)]
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
                room.end(who, which, end(bad if chance.random() < fail else TrialState.SUCCEEDED))
            room.wait(chance.choice([0.0, 1.0, 100.0]))
        assert all(each.finished for each in queues)
        assert room.states(*range(trials)) == [TrialState.SUCCEEDED] * trials
        for each in todo:
            found = room.ledger.attempts(each.id)
            assert [a.number for a in found] == list(range(1, len(found) + 1))
            assert [a.state for a in found].count(TrialState.SUCCEEDED) == 1
        room.ledger.close()

    def test_what_the_other_finished_is_settled(self, room: Room) -> None:
        one, two = room.queue(record(1), record(2)), room.queue(record(1), record(2))
        room.end(one, one.claim(), end(TrialState.SUCCEEDED))
        assert taken(two) == [name(2)]
        assert two.demand == 1

    def test_looks_are_rare(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        one, two = room.queue(record(1)), room.queue(record(1))
        claimed = one.claim()
        assert two.claim() is None
        asked: list[list[str]] = []
        states = room.ledger.states
        monkeypatch.setattr(room.ledger, "states", lambda t: asked.append(t) or states(t))
        for _ in range(20):
            room.wait(trialqueue.POLL / 4)
            two.claim()
        assert 4 <= len(asked) <= 6
        room.end(one, claimed, end(TrialState.SUCCEEDED))
        room.wait()
        two.refresh()
        assert two.finished

    def test_one_that_was_interrupted_elsewhere_is_ours(self, room: Room) -> None:
        one, two = room.queue(record(1)), room.queue(record(1))
        claimed = one.claim()
        assert two.claim() is None
        room.ledger.end_attempt(claimed.attempt, end(TrialState.INTERRUPTED))
        assert two.claim() is None
        room.wait()
        assert taken(two) == [name(1)]

    def test_failures_elsewhere_count(self, room: Room) -> None:
        """Together they try it as often as one driver would."""
        one, two = room.queue(record(1), retries=1), room.queue(record(1), retries=1)
        claimed = one.claim()
        assert two.claim() is None
        room.end(one, claimed, end(TrialState.FAILED, "lost"))
        room.wait(10.0)
        again = one.claim()
        room.end(one, again, end(TrialState.FAILED, "lost"))
        assert one.finished
        room.wait()
        assert two.claim() is None
        assert two.finished
        assert not two.failures  # it failed there

    def test_failures_before_the_driver_began_don_t_count(self, room: Room) -> None:
        early = room.queue(record(1), retries=1)
        room.end(early, early.claim(), end(TrialState.FAILED, "input"))
        assert early.finished
        late, other = room.queue(record(1), retries=1), room.queue(record(1), retries=1)
        claimed = other.claim()
        assert late.claim() is None
        room.end(other, claimed, end(TrialState.FAILED, "lost"))
        room.wait()
        assert late.claim() is None
        assert not late.finished
        room.wait(10.0)
        assert taken(late) == [name(1)]

    @pytest.mark.parametrize("state", [TrialState.CANCELLED, TrialState.STOPPED])
    def test_what_another_sweep_left_alone_is_still_wanted_here(
        self, room: Room, state: TrialState
    ) -> None:
        one, two = room.queue(record(1)), room.queue(record(1), sweep="s2")
        claimed = one.claim()
        assert two.claim() is None
        room.ledger.cancel("s1")
        room.end(one, claimed, end(state))
        room.wait()
        assert taken(two) == [name(1)]

    def test_a_sweep_resumed_while_its_cancelled_driver_still_ends(self, room: Room) -> None:
        old = room.queue(record(1))
        claimed = old.claim()
        room.ledger.cancel("s1")
        new = room.queue(record(1))
        assert new.claim() is None
        room.end(old, claimed, end(TrialState.CANCELLED))
        room.wait()
        assert taken(new) == [name(1)]

    def test_what_was_cancelled_for_both_stays_so(self, room: Room) -> None:
        one, two = room.queue(record(1)), room.queue(record(1))
        claimed = one.claim()
        assert two.claim() is None
        room.ledger.cancel("s1", [name(1)])
        room.end(one, claimed, end(TrialState.CANCELLED))
        room.wait()
        assert two.claim() is None
        assert two.finished

    def test_a_lost_one_comes_back_or_is_settled(self, room: Room) -> None:
        queue = room.queue(record(1), record(2))
        first, second = queue.claim(), queue.claim()
        for each in (first, second):
            queue.handle_loss(each.trial.id)
            room.ledger.end_attempt(each.attempt, end(TrialState.INTERRUPTED))
        other = room.ledger.start_attempt(Claim(name(2), "s1", "d9"))
        assert (queue.running, queue.demand) == (0, 0)
        assert queue.waits_for == "waiting for 2 trials that other drivers run"
        room.wait()
        assert taken(queue) == [name(1)]
        room.ledger.end_attempt(other, end(TrialState.SUCCEEDED))
        room.wait()
        assert queue.claim() is None
        assert queue.demand == 1
