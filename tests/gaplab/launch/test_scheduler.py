"""What a driver decides while its sweep runs: a real ledger, orders that are noted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gaplab.errors import StorageError
from gaplab.launch import scheduler as module
from gaplab.launch.decisions import Demand
from gaplab.launch.heartbeat import DriverDemand, HeartbeatReport
from gaplab.launch.queue import ClaimedTrial, Queue
from gaplab.launch.recorder import Recorder
from gaplab.launch.scheduler import CANCELLED, LEAVING, TAKEN_OVER, Scheduler, SchedulerContext
from gaplab.ledger import Ledger
from gaplab.ledger.views import METRICS
from gaplab.records import (
    AttemptEnd,
    Claim,
    Cost,
    Ended,
    EpochDone,
    EvaluationRecord,
    Fault,
    Machine,
    Started,
    SweepRecord,
    TrialRecord,
)
from gaplab.spec.models import Policy
from gaplab.states import TrialState
from gaplab.trial.control import Stop
from tests.builders import driver_record

CTRL_C = Stop(TrialState.INTERRUPTED, "somebody pressed Ctrl-C")


def trial(name: str) -> TrialRecord:
    return TrialRecord(name, {"training": {"init_from": ""}}, "poto", "o2o", "shapes", 0, 3, 1)


def end(state: TrialState, fault: Fault = "", reason: str = "") -> AttemptEnd:
    return AttemptEnd(state, reason, Cost(), fault)


def epoch(name: str, number: int = 1) -> EpochDone:
    metrics = dict.fromkeys(METRICS, 1.0)
    found = EvaluationRecord(name, number, "o2o", True, "default", metrics, ())
    return EpochDone(name, number, 3, {"loss": 1.0}, (found,), "", Cost(1.0))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


@dataclass
class Orders:
    """Notes what attempts are told."""

    orders: dict[int, list[Stop]] = field(default_factory=dict)
    left: list[tuple[str, Stop]] = field(default_factory=list)
    verdicts: list[tuple[int, int, bool]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)

    def stop(self, attempt: int, stop: Stop) -> None:
        self.orders.setdefault(attempt, []).append(stop)

    def stop_node(self, node: str, stop: Stop) -> None:
        self.left.append((node, stop))

    def answer(self, attempt: int, epoch: int, may_continue: bool) -> None:
        self.verdicts.append((attempt, epoch, may_continue))

    def forget(self, attempt: int) -> None:
        self.forgotten.append(attempt)


class Driver:
    """One driver of sweep s1 in a ledger: its scheduler, and the heartbeat done by hand."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        trials: str,
        stopping: Any = None,
        **policy: Any,
    ) -> None:
        todo = [trial(each) for each in trials.split()]
        ledger.add_sweep(SweepRecord("s1", "s1", "name: s", tuple(todo)))
        self.id = f"d{len(ledger.drivers('s1'))}"
        self.ledger, self.clock, self.orders, self.demand = ledger, clock, Orders(), DriverDemand()
        record = driver_record(self.id)
        ledger.add_driver(record, 60.0)
        chosen = Policy.model_validate({"backoff_seconds": 10.0, **policy})
        self.queue = Queue(ledger, record, chosen, todo, clock)
        self.recorder, self.slots = Recorder(ledger, []), 2
        self.leaving: set[str] = set()
        given = SchedulerContext(
            *(self.id, chosen, self.queue, self.recorder, self.orders, self.demand),
            slots=lambda: self.slots,
            leaving=lambda: self.leaving,
        )
        self.scheduler = Scheduler(given, stopping)
        self.beat()

    def beat(self, *others: Demand) -> None:
        at = self.clock()
        held = self.ledger.renew_lease(self.id, 60.0, self.demand.slots, self.demand.waits_for)
        cancelled = self.ledger.cancelled("s1", self.id)
        mine = Demand(self.id, 0, self.demand.slots)
        self.scheduler.receive_report(
            HeartbeatReport(at, frozenset(held), cancelled, (mine, *others))
        )

    def start(self) -> list[ClaimedTrial]:
        """What starts now, until there is no room."""
        self.scheduler.tick()
        return list(iter(self.scheduler.next_trial, None))

    def ends(self, claimed: ClaimedTrial, how: AttemptEnd) -> None:
        self.scheduler.handle(claimed.attempt, Ended(claimed.trial.id, how))

    def bury(self) -> None:
        [mine] = [each for each in self.ledger.drivers() if each.id == self.id]
        self.ledger.mark_lost(mine, "silent")


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
        driver, seen = make("a b c d e"), []
        while not driver.scheduler.finished:
            started = driver.start()
            assert 1 <= len(driver.recorder.open) <= 2
            seen += started
            for each in started:
                driver.scheduler.handle(each.attempt, epoch(each.trial.id))
                driver.ends(each, end(TrialState.SUCCEEDED))
            driver.beat()
        assert names(seen) == "a b c d e"
        assert driver.orders.forgotten == [each.attempt for each in seen]
        assert set(ledger.states(list("abcde")).values()) == {"succeeded"}
        assert driver.orders.orders == {}
        assert driver.orders.verdicts == []

    def test_it_fills_what_becomes_free_and_looks_again_at_the_cluster(
        self, make: Make, clock: Clock
    ) -> None:
        driver = make("a b c d e")
        first, _ = driver.start()
        driver.ends(first, end(TrialState.SUCCEEDED))
        assert names(driver.start()) == "c"
        driver.slots = 4
        assert driver.start() == []
        clock.now += module.REFRESH
        assert names(driver.start()) == "d e"

    def test_a_node_that_leaves_is_told_by_its_id(self, make: Make, clock: Clock) -> None:
        driver = make("a b")
        first, _ = driver.start()
        driver.leaving = {"ab12"}
        driver.scheduler.tick()
        assert driver.orders.left == []
        clock.now += module.REFRESH
        driver.scheduler.tick()
        assert driver.orders.left == [("ab12", LEAVING)]
        driver.ends(first, end(TrialState.PREEMPTED))
        assert names(driver.start()) == "a", "again at once, wherever there is room"

    def test_a_single_trial_is_tried_again_though_nothing_is_due(
        self, make: Make, clock: Clock
    ) -> None:
        driver = make("a", retries=1)
        driver.ends(driver.start()[0], end(TrialState.FAILED, "lost"))
        assert driver.start() == []
        assert driver.demand.waits_for == "waiting for 1 trial to be retried, the first in 10 s"
        clock.now += 10.0
        driver.ends(driver.start()[0], end(TrialState.SUCCEEDED))
        assert driver.scheduler.finished

    def test_one_that_runs_elsewhere_is_waited_for(
        self, make: Make, clock: Clock, ledger: Ledger
    ) -> None:
        one, two = make("a"), make("a")
        claimed = one.start()[0]
        assert two.start() == []
        assert two.start() == []
        assert two.demand.waits_for == "waiting for 1 trial that another driver runs"
        one.ends(claimed, end(TrialState.SUCCEEDED))
        clock.now += 1.0
        assert two.start() == []
        assert two.scheduler.finished

    def test_a_process_that_dies_is_a_failure_that_is_retried(
        self, make: Make, ledger: Ledger
    ) -> None:
        driver = make("a", backoff_seconds=0)
        first = driver.start()[0]
        driver.scheduler.handle_death(first.attempt, end(TrialState.FAILED, "lost", "killed"))
        second = driver.start()[0]
        driver.scheduler.handle_death(first.attempt, end(TrialState.FAILED, "lost", "told twice"))
        driver.ends(second, end(TrialState.SUCCEEDED))
        driver.scheduler.handle_death(second.attempt, end(TrialState.FAILED, "lost", "told late"))
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
            driver.ends(
                driver.start()[0], end(TrialState.FAILED, fault, f"loss is not finite at {number}")
            )
            if number == stops_after:
                break
            assert driver.scheduler.stopped is None
        if stops_after:
            assert driver.scheduler.stopped.state == "interrupted"
            assert "on_failure: stop" in driver.scheduler.stopped.reason
            assert driver.start() == []
            assert driver.scheduler.finished
        else:
            assert driver.start()

    def test_failures_that_name_their_node_are_alike(self, make: Make) -> None:
        driver = make("a b c", on_failure="stop_after_n_identical", identical=2)
        for each, node in zip(driver.start(), ("alpha", "beta"), strict=True):
            machine = Machine(node, "cpu", 1, 0.0)
            driver.scheduler.handle(each.attempt, Started(each.trial.id, machine, 0))
            driver.ends(each, end(TrialState.FAILED, "input", f"no data set on {node}"))
        assert driver.scheduler.stopped is not None

    def test_what_runs_is_told_and_waited_for(self, make: Make, ledger: Ledger) -> None:
        driver = make("a b c", grace_seconds=30)
        started = driver.start()
        driver.scheduler.stop(CTRL_C)
        driver.scheduler.stop(Stop(TrialState.PREEMPTED, "the first counts"))
        assert driver.scheduler.stopped == CTRL_C
        assert driver.orders.orders == {}  # a signal's handler talks to nobody
        driver.scheduler.tick()
        driver.scheduler.tick()
        assert driver.orders.orders == {each.attempt: [CTRL_C] for each in started}
        for each in started:
            assert driver.start() == []
            assert not driver.scheduler.finished
            driver.ends(each, end(TrialState.INTERRUPTED))
        assert driver.start() == []
        assert driver.scheduler.finished
        assert list(ledger.states(list("abc")).values()) == ["interrupted"] * 2 + ["waiting"]

    def test_the_grace_ends(self, make: Make, clock: Clock, ledger: Ledger) -> None:
        driver = make("a b", grace_seconds=30)
        first, _ = driver.start()
        driver.scheduler.stop(Stop(TrialState.PREEMPTED, "SIGTERM"))
        driver.ends(first, end(TrialState.PREEMPTED))
        clock.now += 29.9
        assert not driver.scheduler.finished
        clock.now += 0.2
        assert driver.scheduler.finished
        driver.scheduler.close("the driver was stopped")
        assert ledger.states(["a", "b"]) == {"a": "preempted", "b": "preempted"}
        assert [a.reason for a in ledger.attempts("b")] == ["the driver was stopped"]

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
        driver.scheduler.tick()
        assert driver.orders.orders == {started.attempt: [CTRL_C]}

    def test_a_driver_that_goes_leaves_nothing_running(self, make: Make, ledger: Ledger) -> None:
        driver = make("a b")
        started = driver.start()
        driver.scheduler.handle(started[0].attempt, epoch("a"))
        driver.scheduler.close("an error")
        driver.scheduler.close("an error")
        for each, cpu in (("a", 1.0), ("b", 0.0)):
            [found] = ledger.attempts(each)
            assert (found.state, found.reason) == ("interrupted", "an error")
            assert found.cpu_seconds == cpu

    def test_by_a_ledger_that_can_t_be_written(
        self, make: Make, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        driver, full = make("a b c", grace_seconds=30), StorageError("ledger: the disk is full")

        def refuse(*_: object) -> None:
            raise full

        first, second = driver.start()
        monkeypatch.setattr(ledger, "record_epoch", refuse)
        driver.scheduler.handle(first.attempt, epoch("a"))
        assert driver.scheduler.error is full
        assert not driver.scheduler.finished
        assert driver.start() == []
        orders = {key: [each.reason for each in told] for key, told in driver.orders.orders.items()}
        assert orders == {each.attempt: [str(full)] for each in (first, second)}
        for each in (first, second):
            driver.ends(each, end(TrialState.INTERRUPTED))
        assert driver.scheduler.finished
        with pytest.raises(StorageError, match="the disk is full"):
            driver.scheduler.close("the driver was stopped")

    def test_by_a_trial_that_can_t_save_itself(self, make: Make) -> None:
        driver = make("a b c")
        first, second = driver.start()
        driver.ends(first, end(TrialState.FAILED, "storage", "no space left"))
        assert driver.start() == []
        assert driver.orders.orders == {
            second.attempt: [Stop(TrialState.INTERRUPTED, "no space left")]
        }


class TestCancelling:
    def test_one_that_waits_and_one_that_runs(self, make: Make, ledger: Ledger) -> None:
        driver = make("a b c d")
        first, second = driver.start()
        ledger.cancel("s1", ["a", "c"])
        driver.beat()
        for _ in range(5):
            assert driver.start() == []
        assert driver.orders.orders == {first.attempt: [CANCELLED]}  # told once
        driver.ends(first, end(TrialState.CANCELLED))
        assert names(driver.start()) == "d"
        driver.ends(second, end(TrialState.SUCCEEDED))
        assert ledger.states(["a", "c"]) == {"a": "cancelled", "c": "waiting"}

    def test_the_whole_sweep(self, make: Make, ledger: Ledger) -> None:
        driver = make("a b c d", retries=9)
        started = driver.start()
        ledger.cancel("s1")
        driver.beat()
        assert driver.start() == []
        assert driver.orders.orders == {each.attempt: [CANCELLED] for each in started}
        driver.ends(started[0], end(TrialState.CANCELLED))
        driver.scheduler.handle_death(started[1].attempt, end(TrialState.FAILED, "lost"))
        assert driver.start() == []
        assert driver.scheduler.finished


class TestTakenOver:
    @pytest.fixture
    def fenced(self, make: Make) -> tuple[Driver, ClaimedTrial]:
        """A driver that was buried while it ran `a`; it doesn't know."""
        driver = make("a b", at_once=1)
        claimed = driver.start()[0]
        driver.bury()
        return driver, claimed

    def check(self, driver: Driver, claimed: ClaimedTrial) -> None:
        """It let go, told the trial, and goes on with others; then with `a` again."""
        assert driver.orders.orders == {claimed.attempt: [TAKEN_OVER]}
        assert driver.recorder.open == {}
        driver.beat()
        [other] = driver.start()
        assert other.trial.id == "b"
        driver.ends(claimed, end(TrialState.INTERRUPTED))  # too late to be heard
        driver.ends(other, end(TrialState.SUCCEEDED))
        driver.clock.now += 1.0
        [again] = driver.start()
        assert (again.trial.id, again.attempt > claimed.attempt) == ("a", True)
        driver.ends(again, end(TrialState.SUCCEEDED))
        assert driver.scheduler.finished
        states = [a.state for a in driver.ledger.attempts("a")]
        assert states == ["interrupted", "succeeded"]
        assert driver.orders.orders == {claimed.attempt: [TAKEN_OVER]}

    def test_seen_at_a_heartbeat(self, fenced: tuple[Driver, ClaimedTrial]) -> None:
        driver, claimed = fenced
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
    def test_seen_when_it_says_something(
        self, fenced: tuple[Driver, ClaimedTrial], event: Any
    ) -> None:
        driver, claimed = fenced
        driver.scheduler.handle(claimed.attempt, event)
        assert driver.ledger.evaluations("a") == []
        self.check(driver, claimed)

    def test_seen_when_it_dies(self, fenced: tuple[Driver, ClaimedTrial]) -> None:
        driver, claimed = fenced
        driver.scheduler.handle_death(claimed.attempt, end(TrialState.FAILED, "lost"))
        self.check(driver, claimed)

    def test_it_gets_a_verdict_all_the_same(self, make: Make) -> None:
        """A trial that waits for the stopping rule doesn't hear an order meanwhile."""
        driver = make("a", stopping=SweepStopping())
        claimed = driver.start()[0]
        driver.scheduler.handle(claimed.attempt, epoch("a", 1))
        driver.bury()
        for number in (2, 3):
            driver.scheduler.handle(claimed.attempt, epoch("a", number))
        verdicts = [(claimed.attempt, 1, True), *((claimed.attempt, n, False) for n in (2, 3))]
        assert driver.orders.verdicts == verdicts
        assert driver.orders.orders == {claimed.attempt: [TAKEN_OVER]}

    def test_old_news_don_t_take_what_was_claimed_since(self, make: Make) -> None:
        driver = make("a b")
        driver.beat()
        started = driver.start()
        assert driver.start() == []
        assert driver.orders.orders == {}
        assert len(driver.recorder.open) == len(started) == 2

    def test_by_another_driver_that_finishes_it(self, make: Make, ledger: Ledger) -> None:
        driver = make("a")
        claimed = driver.start()[0]
        driver.bury()
        other = ledger.start_attempt(Claim("a", "s1", "d9"))
        driver.scheduler.handle(claimed.attempt, epoch("a"))
        assert driver.start() == []
        assert not driver.scheduler.finished
        ledger.end_attempt(other, end(TrialState.SUCCEEDED))
        driver.clock.now += 1.0
        assert driver.start() == []
        assert driver.scheduler.finished


class TestSharing:
    def test_a_cap(self, make: Make) -> None:
        driver = make("a b c d", at_once=1)
        assert names(driver.start()) == "a"
        assert driver.demand.slots == 1

    def test_equals_and_priorities(self, make: Make, clock: Clock) -> None:
        driver = make("a b c d e f")
        driver.slots = 5
        for other, places in (
            (Demand("zz", 0, 9), 3),
            (Demand("aa", 0, 9), 2),
            (Demand("zz", 1, 4), 1),
            (Demand("zz", -1, 9), 5),
            (Demand("zz", 0, 1), 4),
        ):
            driver.beat(other)
            started = driver.start()
            assert len(started) == places
            for each in started:
                driver.ends(each, end(TrialState.INTERRUPTED))

    def test_none_while_a_higher_one_wants_all(self, make: Make) -> None:
        driver = make("a")
        driver.beat(Demand("zz", 5, 9))
        assert driver.start() == []
        driver.beat(Demand("zz", 5, 1))
        assert names(driver.start()) == "a"

    def test_it_tells_its_wishes(self, make: Make) -> None:
        driver = make("a b c", at_once=2)
        driver.slots = 1
        driver.start()
        assert (driver.demand.slots, driver.demand.waits_for) == (2, "")


class TestSearching:
    @pytest.mark.parametrize("known", ["", "a"])
    def test_a_search_is_asked_when_nothing_is_due(
        self, make: Make, ledger: Ledger, clock: Clock, known: str
    ) -> None:
        driver, announced, done = make(known), list[str](), list[ClaimedTrial]()
        given = replace(
            driver.scheduler._context, announce=lambda ts: announced.extend(t.id for t in ts)
        )
        queue = SimpleNamespace(finished=False, left=["x", "y"])

        def next_trials() -> list[TrialRecord]:
            found, queue.left = [trial(each) for each in queue.left[:1]], queue.left[1:]
            queue.finished = not found
            held = [trial(each) for each in [*known.split(), *announced]]
            assert ledger.extend_sweep("s1", [each.id for each in held], found)
            return found

        queue.next_trials = next_trials
        driver.scheduler = Scheduler(given, None, queue)
        driver.beat()
        for _ in range(20):
            for each in driver.start():
                done.append(each)
                driver.ends(each, end(TrialState.SUCCEEDED))
            clock.now += module.REFRESH
        assert driver.scheduler.finished
        assert names(done) == f"{known} x y".strip()
        assert announced == ["x", "y"]


class SweepStopping:
    """Ends a trial after its second epoch."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def reason(self, done: EpochDone) -> str:
        self.asked.append(done.epoch)
        return "worse than others" if done.epoch >= 2 else ""


class TestJudging:
    def test_evaluations_are_judged(self, make: Make, ledger: Ledger) -> None:
        stopping = SweepStopping()
        driver = make("a", stopping=stopping)
        claimed = driver.start()[0]
        without = EpochDone("a", 1, 3, {"loss": 1.0}, (), "", Cost())
        for done in (without, epoch("a", 1), epoch("a", 2)):
            driver.scheduler.handle(claimed.attempt, done)
        assert stopping.asked == [1, 2]
        verdicts = [(claimed.attempt, 1, True), (claimed.attempt, 2, False)]
        assert driver.orders.verdicts == verdicts
        driver.ends(claimed, end(TrialState.STOPPED, reason="as it was told"))
        assert driver.scheduler.finished
        assert [a.reason for a in ledger.attempts("a")] == ["worse than others"]

    def test_one_that_resumed_after_its_last_epoch_is_told(self, make: Make) -> None:
        driver = make("a", stopping=SweepStopping())
        claimed = driver.start()[0]
        for number in (1, 2):
            repeated = EpochDone("a", number, 3, {}, epoch("a", number).evaluations, "", Cost())
            driver.scheduler.handle(claimed.attempt, repeated)
        assert driver.orders.verdicts == []
        stop = Stop(TrialState.STOPPED, "worse than others")
        assert driver.orders.orders == {claimed.attempt: [stop]}
