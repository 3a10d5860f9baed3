"""What a scheduler decides while its sweep runs.

The ledger is real; the clock is set by the tests, and orders are only recorded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gaplab.errors import StorageError
from gaplab.launch import scheduler as module
from gaplab.launch.decisions import Demand
from gaplab.launch.heartbeat import DriverDemand, HeartbeatReport
from gaplab.launch.queue import ClaimedTrial, Queue
from gaplab.launch.recorder import Recorder
from gaplab.launch.scheduler import CANCELLED, LEAVING, TAKEN_OVER, Scheduler, SchedulerContext
from gaplab.launch.search import Proposals
from gaplab.launch.stopping import SweepStopping
from gaplab.ledger import Ledger
from gaplab.records import (
    AttemptEnd,
    Claim,
    Cost,
    Ended,
    EpochDone,
    Fault,
    Machine,
    Started,
    TrialRecord,
)
from gaplab.spec.models import Policy
from gaplab.states import TrialState
from gaplab.trial.control import Stop
from tests.builders import driver_record, epoch_done, evaluation_record, sweep_record, trial_record

CTRL_C = Stop(TrialState.INTERRUPTED, "interrupted with Ctrl-C")


def trial(name: str) -> TrialRecord:
    return trial_record(name, config={"training": {"init_from": ""}})


def end(state: TrialState, fault: Fault = "", reason: str = "") -> AttemptEnd:
    return AttemptEnd(state, reason, Cost(), fault)


def epoch(name: str, number: int = 1, **changes: Any) -> EpochDone:
    """Build the event of an epoch that was trained and evaluated."""
    found = evaluation_record(name, number)
    cost = Cost(cpu_seconds=1.0)
    return epoch_done(name, number, found, **{"losses": {"loss": 1.0}, "cost": cost, **changes})


class Clock:
    """A clock that the test sets, and that moves a little at every look."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


@dataclass
class RecordedOrders:
    """Records what a scheduler sends to attempts."""

    orders: dict[int, list[Stop]] = field(default_factory=dict)
    nodes: list[tuple[str, Stop]] = field(default_factory=list)
    verdicts: list[tuple[int, int, bool]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)

    def stop(self, attempt: int, stop: Stop) -> None:
        self.orders.setdefault(attempt, []).append(stop)

    def stop_node(self, node: str, stop: Stop) -> None:
        self.nodes.append((node, stop))

    def answer(self, attempt: int, epoch: int, may_continue: bool) -> None:
        self.verdicts.append((attempt, epoch, may_continue))

    def forget(self, attempt: int) -> None:
        self.forgotten.append(attempt)


class Rule:
    """A stopping rule that ends a trial after its second epoch."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def reason(self, done: EpochDone) -> str:
        self.asked.append(done.epoch)
        return "worse than others" if done.epoch >= 2 else ""


class Driver:
    """A driver of sweep s1: its scheduler, and a heartbeat that the test makes."""

    def __init__(
        self, ledger: Ledger, clock: Clock, trials: str, rule: Rule | None = None, **policy: Any
    ) -> None:
        todo = [trial(each) for each in trials.split()]
        ledger.add_sweep(sweep_record("s1", *todo))
        record = driver_record(f"d{len(ledger.drivers('s1'))}")
        self.id, self.ledger, self.clock = record.id, ledger, clock
        self.orders, self.demand = RecordedOrders(), DriverDemand()
        ledger.add_driver(record, 60.0)
        chosen = Policy.model_validate({"backoff_seconds": 10.0, **policy})
        self.queue = Queue(ledger, record, chosen, todo, clock)
        self.recorder, self.slots = Recorder(ledger, []), 2
        self.leaving: set[str] = set()
        self.announced: list[str] = []
        self.context = SchedulerContext(
            *(self.id, chosen, self.queue, self.recorder, self.orders, self.demand),
            slots=lambda: self.slots,
            announce=self.announce,
            leaving=lambda: self.leaving,
        )
        self.scheduler = Scheduler(self.context, cast(SweepStopping | None, rule))
        self.beat()

    def announce(self, trials: Sequence[TrialRecord]) -> None:
        self.announced += [each.id for each in trials]

    def beat(self, *others: Demand) -> None:
        """Make a heartbeat, with the demands of other drivers."""
        at = self.clock()
        held = self.ledger.renew_lease(self.id, 60.0, self.demand.slots, self.demand.waits_for)
        cancelled = self.ledger.cancelled("s1", self.id)
        demands = (Demand(self.id, 0, self.demand.slots), *others)
        self.scheduler.receive_report(HeartbeatReport(at, frozenset(held), cancelled, demands))

    def start(self) -> list[ClaimedTrial]:
        """Start all trials that may start now."""
        self.scheduler.tick()
        return list(iter(self.scheduler.next_trial, None))

    def end(self, claimed: ClaimedTrial, how: AttemptEnd) -> None:
        """End an attempt with an event."""
        self.scheduler.handle(claimed.attempt, Ended(claimed.trial.id, how))

    def finished(self) -> bool:
        """Return whether the driver may end."""
        return self.scheduler.finished

    def stop_reason(self) -> Stop:
        """Return the order that ended the sweep early; there must be one."""
        assert self.scheduler.stopped is not None
        return self.scheduler.stopped

    def lose(self) -> None:
        """Mark this driver as lost in the ledger, without its notice."""
        [mine] = [each for each in self.ledger.drivers() if each.id == self.id]
        self.ledger.mark_lost(mine, "no heartbeat")


Make = Callable[..., Driver]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made))
    return made


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def make(ledger: Ledger, clock: Clock) -> Make:
    return lambda trials, **given: Driver(ledger, clock, trials, **given)


def names(found: list[ClaimedTrial]) -> str:
    return " ".join(each.trial.id for each in found)


class TestASweep:
    def test_nothing_to_do(self, make: Make) -> None:
        driver = make("")
        assert driver.scheduler.finished
        assert driver.scheduler.next_trial() is None

    def test_from_start_to_end(self, make: Make, ledger: Ledger) -> None:
        driver = make("a b c d e")
        claimed: list[ClaimedTrial] = []
        while not driver.scheduler.finished:
            started = driver.start()
            assert 1 <= len(driver.recorder.open) <= 2
            claimed += started
            for each in started:
                driver.scheduler.handle(each.attempt, epoch(each.trial.id))
                driver.end(each, end(TrialState.SUCCEEDED))
            driver.beat()
        assert names(claimed) == "a b c d e"
        assert driver.orders.forgotten == [each.attempt for each in claimed]
        assert set(ledger.states(list("abcde")).values()) == {"succeeded"}
        assert driver.orders.orders == {}
        assert driver.orders.verdicts == []

    def test_free_slots_are_filled_and_the_cluster_is_read_again(
        self, make: Make, clock: Clock
    ) -> None:
        driver = make("a b c d e")
        first, _ = driver.start()
        driver.end(first, end(TrialState.SUCCEEDED))
        assert names(driver.start()) == "c"
        driver.slots = 4
        assert driver.start() == []
        clock.now += module.REFRESH
        assert names(driver.start()) == "d e"

    def test_attempts_on_a_node_that_leaves_are_stopped(self, make: Make, clock: Clock) -> None:
        driver = make("a b")
        first, _ = driver.start()
        driver.leaving = {"ab12"}
        driver.scheduler.tick()
        assert driver.orders.nodes == []
        clock.now += module.REFRESH
        driver.scheduler.tick()
        assert driver.orders.nodes == [("ab12", LEAVING)]
        driver.end(first, end(TrialState.PREEMPTED))
        assert names(driver.start()) == "a", "it is retried at once on any free slot"

    def test_a_single_trial_is_retried_though_nothing_is_due(
        self, make: Make, clock: Clock
    ) -> None:
        driver = make("a", retries=1)
        driver.end(driver.start()[0], end(TrialState.FAILED, "lost"))
        assert driver.start() == []
        assert driver.demand.waits_for == "waiting for 1 trial to be retried, the first in 10 s"
        clock.now += 10.0
        driver.end(driver.start()[0], end(TrialState.SUCCEEDED))
        assert driver.scheduler.finished

    def test_the_driver_waits_for_a_trial_of_another_driver(
        self, make: Make, clock: Clock, ledger: Ledger
    ) -> None:
        one, two = make("a"), make("a")
        claimed = one.start()[0]
        assert two.start() == []
        assert two.start() == []
        assert two.demand.waits_for == "waiting for 1 trial that another driver runs"
        one.end(claimed, end(TrialState.SUCCEEDED))
        clock.now += 1.0
        assert two.start() == []
        assert two.scheduler.finished

    def test_the_death_of_a_process_is_a_failure_that_is_retried(
        self, make: Make, ledger: Ledger
    ) -> None:
        driver = make("a", backoff_seconds=0)
        first = driver.start()[0]
        driver.scheduler.handle_death(first.attempt, end(TrialState.FAILED, "lost", "killed"))
        second = driver.start()[0]
        driver.scheduler.handle_death(
            first.attempt, end(TrialState.FAILED, "lost", "reported twice")
        )
        driver.end(second, end(TrialState.SUCCEEDED))
        driver.scheduler.handle_death(
            second.attempt, end(TrialState.FAILED, "lost", "reported late")
        )
        assert driver.scheduler.finished
        assert [(a.state, a.reason) for a in ledger.attempts("a")] == [
            ("failed", "killed"),
            ("succeeded", ""),
        ]


class TestStopping:
    @pytest.mark.parametrize(
        ("policy", "faults", "stops_after"),
        [
            ({}, ["input"] * 4, None),
            ({"on_failure": "stop"}, ["input"] * 4, 1),
            ({"on_failure": "stop_after_n_identical", "identical": 2}, ["input"] * 4, 2),
            ({"on_failure": "stop_after_n_identical", "identical": 4}, ["input"] * 3, None),
        ],
    )
    def test_by_failures(
        self, make: Make, policy: dict[str, Any], faults: list[Fault], stops_after: int | None
    ) -> None:
        driver = make("a b c d e f", at_once=1, **policy)
        for number, fault in enumerate(faults, start=1):
            driver.end(
                driver.start()[0], end(TrialState.FAILED, fault, f"loss is not finite at {number}")
            )
            if number == stops_after:
                break
            assert driver.scheduler.stopped is None
        if stops_after:
            assert driver.stop_reason().state == "interrupted"
            assert "on_failure: stop" in driver.stop_reason().reason
            assert driver.start() == []
            assert driver.scheduler.finished
        else:
            assert driver.start()

    def test_failures_that_differ_in_the_name_of_their_node_are_equal(self, make: Make) -> None:
        driver = make("a b c", on_failure="stop_after_n_identical", identical=2)
        for each, node in zip(driver.start(), ("alpha", "beta"), strict=True):
            machine = Machine(node, "cpu", 1, 0.0)
            driver.scheduler.handle(each.attempt, Started(each.trial.id, machine, 0))
            driver.end(each, end(TrialState.FAILED, "input", f"no data set on {node}"))
        assert driver.scheduler.stopped is not None

    def test_running_attempts_get_an_order_and_are_waited_for(
        self, make: Make, ledger: Ledger
    ) -> None:
        driver = make("a b c", grace_seconds=30)
        started = driver.start()
        driver.scheduler.stop(CTRL_C)
        driver.scheduler.stop(Stop(TrialState.PREEMPTED, "the first counts"))
        assert driver.scheduler.stopped == CTRL_C
        assert driver.orders.orders == {}, "a signal handler sends nothing"
        driver.scheduler.tick()
        driver.scheduler.tick()
        assert driver.orders.orders == {each.attempt: [CTRL_C] for each in started}
        for each in started:
            assert driver.start() == []
            assert not driver.scheduler.finished
            driver.end(each, end(TrialState.INTERRUPTED))
        assert driver.start() == []
        assert driver.scheduler.finished
        assert list(ledger.states(list("abc")).values()) == ["interrupted"] * 2 + ["waiting"]

    def test_a_driver_waits_no_longer_than_its_grace_period(
        self, make: Make, clock: Clock, ledger: Ledger
    ) -> None:
        driver = make("a b", grace_seconds=30)
        first, _ = driver.start()
        driver.scheduler.stop(Stop(TrialState.PREEMPTED, "SIGTERM"))
        driver.end(first, end(TrialState.PREEMPTED))
        clock.now += 29.9
        assert not driver.finished()
        clock.now += 0.2
        assert driver.finished()
        driver.scheduler.close("the driver was stopped")
        assert ledger.states(["a", "b"]) == {"a": "preempted", "b": "preempted"}
        (late,) = (a.reason for a in ledger.attempts("b"))
        assert late is not None
        assert late.startswith("no new checkpoint within 30 s of the stop; raise run.grace_seconds")

    def test_a_signal_while_a_trial_is_claimed(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        driver = make("a")
        claim = driver.queue.claim

        def interrupted() -> ClaimedTrial | None:
            found = claim()
            driver.scheduler.stop(CTRL_C)
            return found

        monkeypatch.setattr(driver.queue, "claim", interrupted)
        started = driver.scheduler.next_trial()
        assert started is not None
        driver.scheduler.tick()
        assert driver.orders.orders == {started.attempt: [CTRL_C]}

    def test_a_driver_that_ends_closes_its_attempts(self, make: Make, ledger: Ledger) -> None:
        driver = make("a b")
        started = driver.start()
        driver.scheduler.handle(started[0].attempt, epoch("a"))
        driver.scheduler.close("an error")
        driver.scheduler.close("an error")
        for each, cpu in (("a", 1.0), ("b", 0.0)):
            [found] = ledger.attempts(each)
            assert (found.state, found.reason) == ("interrupted", "an error")
            assert found.cpu_seconds == cpu

    def test_by_a_ledger_that_cannot_be_written(
        self, make: Make, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        driver, full = make("a b c", grace_seconds=30), StorageError("ledger: the disk is full")

        def refuse(*_: object) -> None:
            raise full

        first, second = driver.start()
        monkeypatch.setattr(ledger, "record_epoch", refuse)
        driver.scheduler.handle(first.attempt, epoch("a"))
        assert driver.scheduler.error is full
        assert not driver.finished()
        assert driver.start() == []
        orders = {key: [each.reason for each in sent] for key, sent in driver.orders.orders.items()}
        assert orders == {each.attempt: [str(full)] for each in (first, second)}
        for each in (first, second):
            driver.end(each, end(TrialState.INTERRUPTED))
        assert driver.finished()
        with pytest.raises(StorageError, match="the disk is full"):
            driver.scheduler.close("the driver was stopped")

    def test_by_a_trial_that_cannot_be_saved(self, make: Make) -> None:
        driver = make("a b c")
        first, second = driver.start()
        driver.end(first, end(TrialState.FAILED, "storage", "no space left"))
        assert driver.start() == []
        assert driver.orders.orders == {
            second.attempt: [Stop(TrialState.INTERRUPTED, "no space left")]
        }


class TestCancelling:
    def test_a_waiting_and_a_running_trial(self, make: Make, ledger: Ledger) -> None:
        driver = make("a b c d")
        first, second = driver.start()
        ledger.cancel("s1", ["a", "c"])
        driver.beat()
        for _ in range(5):
            assert driver.start() == []
        assert driver.orders.orders == {first.attempt: [CANCELLED]}, "once"
        driver.end(first, end(TrialState.CANCELLED))
        assert names(driver.start()) == "d"
        driver.end(second, end(TrialState.SUCCEEDED))
        assert ledger.states(["a", "c"]) == {"a": "cancelled", "c": "waiting"}

    def test_the_whole_sweep(self, make: Make, ledger: Ledger) -> None:
        driver = make("a b c d", retries=9)
        started = driver.start()
        ledger.cancel("s1")
        driver.beat()
        assert driver.start() == []
        assert driver.orders.orders == {each.attempt: [CANCELLED] for each in started}
        driver.end(started[0], end(TrialState.CANCELLED))
        driver.scheduler.handle_death(started[1].attempt, end(TrialState.FAILED, "lost"))
        assert driver.start() == []
        assert driver.scheduler.finished


class TestTakenOver:
    @pytest.fixture
    def lost(self, make: Make) -> tuple[Driver, ClaimedTrial]:
        """A driver that was marked as lost while it ran `a`, without its notice."""
        driver = make("a b", at_once=1)
        claimed = driver.start()[0]
        driver.lose()
        return driver, claimed

    def check(self, driver: Driver, claimed: ClaimedTrial) -> None:
        """The driver stops the attempt and continues with other trials, later with `a` again."""
        assert driver.orders.orders == {claimed.attempt: [TAKEN_OVER]}
        assert driver.recorder.open == {}
        driver.beat()
        [other] = driver.start()
        assert other.trial.id == "b"
        driver.end(claimed, end(TrialState.INTERRUPTED))  # too late
        driver.end(other, end(TrialState.SUCCEEDED))
        driver.clock.now += 1.0
        [again] = driver.start()
        assert (again.trial.id, again.attempt > claimed.attempt) == ("a", True)
        driver.end(again, end(TrialState.SUCCEEDED))
        assert driver.scheduler.finished
        states = [a.state for a in driver.ledger.attempts("a")]
        assert states == ["interrupted", "succeeded"]
        assert driver.orders.orders == {claimed.attempt: [TAKEN_OVER]}

    def test_noticed_at_a_heartbeat(self, lost: tuple[Driver, ClaimedTrial]) -> None:
        driver, claimed = lost
        driver.beat()
        driver.scheduler.tick()
        self.check(driver, claimed)

    @pytest.mark.parametrize(
        "event",
        [
            Started("a", Machine("n", "cpu", 1, 0.0), 0),
            epoch("a"),
            Ended("a", AttemptEnd(TrialState.SUCCEEDED, "", Cost())),
        ],
    )
    def test_noticed_at_an_event(self, lost: tuple[Driver, ClaimedTrial], event: Any) -> None:
        driver, claimed = lost
        driver.scheduler.handle(claimed.attempt, event)
        assert driver.ledger.evaluations("a") == []
        self.check(driver, claimed)

    def test_noticed_at_its_death(self, lost: tuple[Driver, ClaimedTrial]) -> None:
        driver, claimed = lost
        driver.scheduler.handle_death(claimed.attempt, end(TrialState.FAILED, "lost"))
        self.check(driver, claimed)

    def test_a_lost_attempt_gets_a_verdict(self, make: Make) -> None:
        """A trial that waits for the stopping rule doesn't read orders."""
        driver = make("a", rule=Rule())
        claimed = driver.start()[0]
        driver.scheduler.handle(claimed.attempt, epoch("a", 1))
        driver.lose()
        for number in (2, 3):
            driver.scheduler.handle(claimed.attempt, epoch("a", number))
        verdicts = [(claimed.attempt, 1, True), *((claimed.attempt, n, False) for n in (2, 3))]
        assert driver.orders.verdicts == verdicts
        assert driver.orders.orders == {claimed.attempt: [TAKEN_OVER]}

    def test_an_old_report_does_not_end_newer_attempts(self, make: Make) -> None:
        driver = make("a b")
        driver.beat()
        started = driver.start()
        assert driver.start() == []
        assert driver.orders.orders == {}
        assert len(driver.recorder.open) == len(started) == 2

    def test_by_another_driver_that_finishes_the_trial(self, make: Make, ledger: Ledger) -> None:
        driver = make("a")
        claimed = driver.start()[0]
        driver.lose()
        other = ledger.start_attempt(Claim("a", "s1", "d9"))
        driver.scheduler.handle(claimed.attempt, epoch("a"))
        assert driver.start() == []
        assert not driver.scheduler.finished
        ledger.end_attempt(other, end(TrialState.SUCCEEDED))
        driver.clock.now += 1.0
        assert driver.start() == []
        assert driver.scheduler.finished


class TestSharing:
    def test_a_limit(self, make: Make) -> None:
        driver = make("a b c d", at_once=1)
        assert names(driver.start()) == "a"
        assert driver.demand.slots == 1

    def test_equal_and_different_priorities(self, make: Make, clock: Clock) -> None:
        driver = make("a b c d e f")
        driver.slots = 5
        for other, slots in (
            (Demand("zz", 0, 9), 3),
            (Demand("aa", 0, 9), 2),
            (Demand("zz", 1, 4), 1),
            (Demand("zz", -1, 9), 5),
            (Demand("zz", 0, 1), 4),
        ):
            driver.beat(other)
            started = driver.start()
            assert len(started) == slots
            for each in started:
                driver.end(each, end(TrialState.INTERRUPTED))

    def test_no_slots_while_a_higher_priority_needs_all(self, make: Make) -> None:
        driver = make("a")
        driver.beat(Demand("zz", 5, 9))
        assert driver.start() == []
        driver.beat(Demand("zz", 5, 1))
        assert names(driver.start()) == "a"

    def test_the_demand_is_published(self, make: Make) -> None:
        driver = make("a b c", at_once=2)
        driver.slots = 1
        driver.start()
        assert (driver.demand.slots, driver.demand.waits_for) == (2, "")


class GivenTrials:
    """Proposes trials of these names one by one."""

    def __init__(self, driver: Driver, known: list[str], names: list[str]) -> None:
        self._driver, self._known, self._names = driver, known, names
        self.finished = False

    def next_trials(self) -> list[TrialRecord]:
        found, self._names = [trial(each) for each in self._names[:1]], self._names[1:]
        self.finished = not found
        known = [*self._known, *self._driver.announced]
        assert self._driver.ledger.extend_sweep("s1", known, found)
        return found


class TestSearching:
    @pytest.mark.parametrize("known", ["", "a"])
    def test_a_search_is_asked_when_no_trial_is_due(
        self, make: Make, clock: Clock, known: str
    ) -> None:
        driver, done = make(known), list[ClaimedTrial]()
        proposals = GivenTrials(driver, known.split(), ["x", "y"])
        driver.scheduler = Scheduler(driver.context, None, cast(Proposals, proposals))
        driver.beat()
        for _ in range(20):
            for each in driver.start():
                done.append(each)
                driver.end(each, end(TrialState.SUCCEEDED))
            clock.now += module.REFRESH
        assert driver.scheduler.finished
        assert names(done) == f"{known} x y".strip()
        assert driver.announced == ["x", "y"]


class TestJudging:
    def test_the_rule_decides_after_evaluations(self, make: Make, ledger: Ledger) -> None:
        rule = Rule()
        driver = make("a", rule=rule)
        claimed = driver.start()[0]
        without = epoch("a", 1, evaluations=())
        for done in (without, epoch("a", 1), epoch("a", 2)):
            driver.scheduler.handle(claimed.attempt, done)
        assert rule.asked == [1, 2]
        verdicts = [(claimed.attempt, 1, True), (claimed.attempt, 2, False)]
        assert driver.orders.verdicts == verdicts
        driver.end(claimed, end(TrialState.STOPPED, reason="by an order"))
        assert driver.scheduler.finished
        assert [a.reason for a in ledger.attempts("a")] == ["worse than others"]

    def test_an_attempt_that_replays_an_epoch_gets_an_order(self, make: Make) -> None:
        driver = make("a", rule=Rule())
        claimed = driver.start()[0]
        for number in (1, 2):
            driver.scheduler.handle(claimed.attempt, epoch("a", number, losses={}))
        assert driver.orders.verdicts == []
        stop = Stop(TrialState.STOPPED, "worse than others")
        assert driver.orders.orders == {claimed.attempt: [stop]}


class TestRejecting:
    def test_an_attempt_with_impossible_numbers_fails(self, make: Make, ledger: Ledger) -> None:
        driver = make("a b", at_once=1)
        claimed = driver.start()[0]
        bad = evaluation_record("a", 1, metrics={"ap": float("nan"), "ap_nms": 1.0, "gap": 1.0})
        driver.scheduler.handle(claimed.attempt, epoch("a", 1, evaluations=(bad,)))
        [attempt] = ledger.attempts("a")
        assert (attempt.state, attempt.fault) == ("failed", "input")
        assert "ap" in attempt.reason
        [order] = driver.orders.orders[claimed.attempt]
        assert (order.state, order.reason) == (TrialState.CANCELLED, attempt.reason)
        driver.scheduler.handle(claimed.attempt, epoch("a", 2))
        assert ledger.evaluations("a") == []
        assert names(driver.start()) == "b"
