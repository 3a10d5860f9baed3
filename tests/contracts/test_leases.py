"""Drivers, their leases and their claims, on SQLite and on a real PostgreSQL."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from alembic import command
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Engine, MetaData, insert, select

from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.ledger.migrate import MIGRATE, WRITE, alembic_config, open_engine
from gaplab.ledger.views import METRICS, DriverView
from gaplab.records import (
    AttemptEnd,
    CancelRequest,
    Claim,
    Cost,
    DriverRecord,
    EpochDone,
    EvaluationRecord,
    Machine,
    Started,
    SweepRecord,
    TrialRecord,
)
from gaplab.states import ENDS, TrialState

MACHINE = Machine("node-1", "gpu", 2, 1.0)
COST = Cost(20.0, 5.0, 10.0, 512.0)
METRIC_VALUES = dict.fromkeys(METRICS, 1.0)


def trial(identity: str) -> TrialRecord:
    return TrialRecord(identity, {"seed": 0}, "poto", "o2o", "shapes", 0, 12, 1)


def sweep(identity: str, *trials: str) -> SweepRecord:
    return SweepRecord(identity, identity, "name: s", tuple(trial(each) for each in trials))


def driver(identity: str, sweep_id: str = "s1", **changes: Any) -> DriverRecord:
    known = DriverRecord(identity, sweep_id, "node-1", "boot", 7, 2**40, "local", 3)
    return replace(known, **changes)


def end(state: TrialState, reason: str = "") -> AttemptEnd:
    return AttemptEnd(state, reason, COST, "error" if state == "failed" else "")


def done(identity: str, epoch: int, cost: Cost = COST) -> EpochDone:
    evaluation = EvaluationRecord(identity, epoch, "o2o", True, "default", METRIC_VALUES, ())
    return EpochDone(identity, epoch, 12, {}, (evaluation,), f"uri-{epoch}", cost)


def view(ledger: Ledger, identity: str) -> DriverView:
    [found] = [each for each in ledger.drivers() if each.id == identity]
    return found


@pytest.fixture
def two(ledger: Ledger) -> Ledger:
    """A ledger with sweeps s1 (t1, t2, t3) and s2 (t1), and drivers d1 and d2 of s1."""
    ledger.add_sweep(sweep("s1", "t1", "t2", "t3"))
    ledger.add_sweep(sweep("s2", "t1"))
    ledger.add_driver(driver("d1"), 60.0)
    ledger.add_driver(driver("d2", node="größe", priority=-5), 60.0)
    return ledger


class TestDrivers:
    def test_a_round_trip(self, two: Ledger) -> None:
        before = two.now()
        two.add_driver(driver("d3", "s2", pid=2**31 - 1, born=2**62), 30.0)
        assert [each.id for each in two.drivers()] == ["d1", "d2", "d3"]
        assert [each.id for each in two.drivers("s2")] == ["d3"]
        found = view(two, "d3")
        about = {**vars(driver("d3", "s2", pid=2**31 - 1, born=2**62))}
        assert {name: getattr(found, name) for name in about} == about
        assert (found.demand, found.waits_for, found.ended_at) == (0, "", None)
        assert before <= found.started_at <= two.now()
        assert found.lease_until - found.started_at == timedelta(seconds=30)
        assert found.lease().process.pid == 2**31 - 1
        assert found.lease().until == found.lease_until

    def test_enlisting_again_changes_nothing(self, two: Ledger) -> None:
        before = two.drivers()
        two.add_driver(driver("d1", node="other"), 900.0)
        assert two.drivers() == before

    def test_renewing_lengthens_the_lease_and_tells_wishes(self, two: Ledger) -> None:
        before = view(two, "d1")
        assert two.renew_lease("d1", 90.0, 5, "two others") == set()
        after = view(two, "d1")
        assert (after.demand, after.waits_for) == (5, "two others")
        assert after.lease_until > before.lease_until
        same = {"lease_until": 0, "demand": 0, "waits_for": ""}
        assert {**vars(after), **same} == {**vars(before), **same}
        assert two.renew_lease("unknown", 90.0, 5, "") == set()

    def test_renewing_tells_the_attempts_that_are_its_own(self, two: Ledger) -> None:
        first, second = (two.start_attempt(Claim(t, "s1", "d1")) for t in ("t1", "t2"))
        other = two.start_attempt(Claim("t3", "s1", "d2"))
        assert two.renew_lease("d1", 60.0, 0, "") == {first, second}
        two.end_attempt(first, end(TrialState.SUCCEEDED))
        assert two.renew_lease("d1", 60.0, 0, "") == {second}
        assert two.renew_lease("d2", 60.0, 0, "") == {other}

    def test_a_retired_driver_is_listed_for_its_sweep_alone(self, two: Ledger) -> None:
        two.renew_lease("d1", 60.0, 4, "something")
        two.end_driver("d1")
        assert [each.id for each in two.drivers()] == ["d2"]
        first = two.drivers("s1")[0]
        assert (first.id, first.demand, first.waits_for) == ("d1", 0, "")
        assert first.ended_at is not None

    def test_the_clock_is_in_utc_and_goes_on(self, ledger: Ledger) -> None:
        moments = [ledger.now() for _ in range(3)]
        assert moments == sorted(moments)
        assert {each.utcoffset() for each in moments} == {timedelta(0)}
        assert abs(moments[0] - datetime.now(UTC)) < timedelta(minutes=5)


_CLAIMER = """
import sys
from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.records import Claim
won = []
with Ledger.open(sys.argv[1]) as ledger:
    print("ready", flush=True)
    sys.stdin.readline()
    for trial in sys.argv[3:]:
        try:
            won.append(f"{trial}={ledger.start_attempt(Claim(trial, 's1', sys.argv[2]))}")
        except ClaimError as error:
            assert error.state == "running", error
print(*won, flush=True)
"""


class TestClaims:
    def test_a_claim_belongs_to_its_driver(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1", token="word"))
        [found] = two.attempts("t1")
        assert (found.id, found.driver, found.token, found.state) == (
            *(attempt, "d1", "word"),
            "running",
        )
        assert (found.node, found.device, found.workers, found.gpus) == ("", "", 0, 0.0)
        assert (found.fault, found.notes, found.provenance) == ("", [], {})

    def test_the_same_claim_said_again_is_the_same_attempt(self, two: Ledger) -> None:
        claim = Claim("t1", "s1", "d1")
        attempt = two.start_attempt(claim)
        assert [two.start_attempt(claim) for _ in range(3)] == [attempt] * 3
        two.end_attempt(attempt, end(TrialState.FAILED, "x"))
        assert two.start_attempt(claim) == attempt
        assert two.states(["t1"]) == {"t1": "failed"}
        assert len(two.attempts("t1")) == 1

    def test_the_same_claim_said_by_many_at_once_is_one_attempt(
        self, two: Ledger, url: str
    ) -> None:
        """As one that is cut off while it is committed, and said again on another connection."""
        claims = [Claim(f"t{n % 3 + 1}", "s1", "d1", token=f"word {n % 3}") for n in range(24)]
        with Ledger.open(url) as other, ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit((two, other)[n % 2].start_attempt, c) for n, c in enumerate(claims)]
            told = [(claim.trial, job.result()) for claim, job in zip(claims, jobs, strict=True)]
        assert set(told) == {(t, two.attempts(t)[0].id) for t in ("t1", "t2", "t3")}
        assert [len(two.attempts(t)) for t in ("t1", "t2", "t3")] == [1, 1, 1]

    def test_an_error_tells_the_state(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        for ending, wanted in ((None, "running"), (end(TrialState.SUCCEEDED), "succeeded")):
            if ending:
                two.end_attempt(attempt, ending)
            with pytest.raises(ClaimError, match=f"t1 can't start: it is {wanted}") as error:
                two.start_attempt(Claim("t1", "s2", "d2"))
            assert error.value.state == wanted
        with pytest.raises(ClaimError, match="it is not in the ledger") as error:
            two.start_attempt(Claim("t9", "s1", "d1"))
        assert error.value.state is None

    @pytest.mark.parametrize("state", [s for s in ENDS if s != "succeeded"])
    def test_after_any_other_end_it_may_be_claimed_again(
        self, two: Ledger, state: TrialState
    ) -> None:
        first = two.start_attempt(Claim("t1", "s1", "d1"))
        two.end_attempt(first, end(state, "why"))
        assert two.states(["t1"]) == {"t1": state}
        assert two.start_attempt(Claim("t1", "s2", "d2")) > first
        assert [(a.number, a.state, a.sweep) for a in two.attempts("t1")] == [
            (1, state, "s1"),
            (2, "running", "s2"),
        ]

    def test_of_many_processes_one_wins_each_trial(self, ledger: Ledger, url: str) -> None:
        trials = [f"t{n}" for n in range(25)]
        ledger.add_sweep(sweep("s1", *trials))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        orders = {"a": trials, "b": trials[::-1], "c": trials[7:] + trials[:7]}
        running = {
            name: subprocess.Popen([sys.executable, "-c", _CLAIMER, url, name, *order], **pipes)
            for name, order in orders.items()
        }
        for each in running.values():
            assert each.stdout.readline() == "ready\n"
        for each in running.values():
            each.stdin.write("go\n")
            each.stdin.flush()
        won = {name: each.communicate()[0].split() for name, each in running.items()}
        assert [each.returncode for each in running.values()] == [0, 0, 0]
        told = sorted((*pair.split("="), name) for name in won for pair in won[name])
        found = [(t, str(a.id), a.driver) for t in trials for a in ledger.attempts(t)]
        assert told == sorted(found)
        assert len(found) == len(trials)


class TestFencing:
    @pytest.fixture
    def buried(self, two: Ledger) -> tuple[Ledger, int]:
        """d1's attempt at t1, recorded once and then buried."""
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        two.begin_attempt(attempt, Started("t1", MACHINE, 0))
        two.record_epoch(done("t1", 1), attempt)
        assert two.mark_lost(view(two, "d1"), "its driver\ndied") == ["t1"]
        return two, attempt

    def test_it_can_t_begin_record_or_end(self, buried: tuple[Ledger, int]) -> None:
        ledger, attempt = buried
        for late in (
            lambda: ledger.begin_attempt(attempt, Started("t1", MACHINE, 1)),
            lambda: ledger.record_epoch(done("t1", 2), attempt),
            lambda: ledger.end_attempt(attempt, end(TrialState.SUCCEEDED)),
            lambda: ledger.end_attempt(attempt, end(TrialState.FAILED, "x")),
        ):
            with pytest.raises(ClaimError, match="it is interrupted") as error:
                late()
            assert error.value.state == "interrupted"
        assert [e.epoch for e in ledger.evaluations("t1")] == [1]
        assert ledger.states(["t1"]) == {"t1": "interrupted"}

    def test_nor_after_another_has_taken_the_trial(self, buried: tuple[Ledger, int]) -> None:
        ledger, attempt = buried
        second = ledger.start_attempt(Claim("t1", "s1", "d2"))
        with pytest.raises(ClaimError, match=f"attempt {attempt} is over: it is interrupted"):
            ledger.record_epoch(done("t1", 2), attempt)
        with pytest.raises(ClaimError, match="can't end as succeeded: it is interrupted"):
            ledger.end_attempt(attempt, end(TrialState.SUCCEEDED))
        ledger.end_attempt(attempt, end(TrialState.INTERRUPTED))  # that it is: nothing changes
        assert ledger.states(["t1"]) == {"t1": "running"}
        ledger.record_epoch(done("t1", 2), second)
        ledger.end_attempt(second, end(TrialState.SUCCEEDED))
        assert [(e.epoch, e.attempt) for e in ledger.evaluations("t1")] == [
            (1, attempt),
            (2, second),
        ]

    def test_costs_survive_and_the_row_says_why(self, buried: tuple[Ledger, int]) -> None:
        ledger, _ = buried
        [found] = ledger.attempts("t1")
        assert (found.state, found.fault, found.node) == ("interrupted", "", "node-1")
        assert found.ended_at is not None
        costs = {name: getattr(found, name) for name in vars(COST)}
        assert costs == vars(COST)

    def test_an_unknown_attempt_is_refused(self, two: Ledger) -> None:
        with pytest.raises(
            ClaimError, match="attempt 99 is over: it is not in the ledger"
        ) as error:
            two.record_epoch(done("t1", 1), 99)
        assert error.value.state is None

    def test_costs_are_kept_epoch_by_epoch(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        for epoch in (1, 2):
            cost = Cost(*(float(epoch * n) for n in (1, 2, 3, 4)))
            two.record_epoch(done("t1", epoch, cost), attempt)
            [found] = two.attempts("t1")
            assert {name: getattr(found, name) for name in vars(cost)} == vars(cost)
        with pytest.raises(ValueError, match="not finite: wall_seconds"):
            two.record_epoch(done("t1", 3, Cost(wall_seconds=float("inf"))), attempt)
        assert [e.epoch for e in two.evaluations("t1")] == [1, 2]

    def test_what_it_begins_with_is_kept(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        said = {"commit": "abc", "packages": {"torch": "2.13"}, "dirty": None}
        two.begin_attempt(attempt, Started("t1", MACHINE, 0, said, ("one damaged", "größe")))
        [found] = two.attempts("t1")
        assert (found.node, found.device, found.workers, found.gpus) == ("node-1", "gpu", 2, 1.0)
        assert (found.provenance, found.notes) == (said, ["one damaged", "größe"])


class TestBurying:
    def test_a_driver_that_renewed_can_t_be_buried_with_the_old_view(self, two: Ledger) -> None:
        attempt, old = two.start_attempt(Claim("t1", "s1", "d1")), view(two, "d1")
        two.renew_lease("d1", 60.0, 1, "")
        assert two.mark_lost(old, "silent") == []
        assert view(two, "d1").ended_at is None
        two.record_epoch(done("t1", 1), attempt)
        assert two.mark_lost(view(two, "d1"), "silent") == ["t1"]

    def test_it_takes_the_trials_of_that_driver_alone(self, two: Ledger) -> None:
        for name, who in (("t1", "d1"), ("t2", "d2"), ("t3", "d1")):
            two.start_attempt(Claim(name, "s1", who))
        two.end_attempt(two.attempts("t3")[0].id, end(TrialState.SUCCEEDED))
        dead = view(two, "d1")
        assert two.mark_lost(dead, "silent") == ["t1"]
        assert two.mark_lost(dead, "silent") == []
        wanted = {"t1": "interrupted", "t2": "running", "t3": "succeeded"}
        assert two.states(["t1", "t2", "t3"]) == wanted
        assert [each.id for each in two.drivers()] == ["d2"]

    def test_a_buried_driver_that_renews_lives_without_its_attempts(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        two.mark_lost(view(two, "d1"), "silent")
        assert two.renew_lease("d1", 60.0, 2, "") == set()
        assert view(two, "d1").ended_at is None
        assert two.mark_orphaned_lost("not known") == []
        again = two.start_attempt(Claim("t1", "s1", "d1"))
        assert two.renew_lease("d1", 60.0, 2, "") == {again}
        assert again != attempt

    def test_strangers(self, two: Ledger) -> None:
        """Attempts of no driver, of an unknown one and of one that has ended."""
        two.add_sweep(sweep("s3", "t4"))
        for name, who in (("t1", ""), ("t2", "old home"), ("t3", "d1")):
            two.start_attempt(Claim(name, "s1", who))
        two.start_attempt(Claim("t4", "s3", "d2"))
        two.end_driver("d1")
        assert two.mark_orphaned_lost("its driver is\nnot known") == ["t1", "t2", "t3"]
        assert two.mark_orphaned_lost("its driver is not known") == []
        wanted = dict.fromkeys(("t1", "t2", "t3"), "interrupted") | {"t4": "running"}
        assert two.states(["t1", "t2", "t3", "t4"]) == wanted

    def test_many_bury_and_end_at_once(self, ledger: Ledger, url: str) -> None:
        """Nobody waits for another in a circle; each attempt ends once, as its trial says."""
        trials = [f"t{n:02d}" for n in range(20)]
        ledger.add_sweep(sweep("s1", *trials))
        ledger.add_driver(driver("d1"), 60.0)
        attempts = {each: ledger.start_attempt(Claim(each, "s1", "d1")) for each in trials}
        dead = view(ledger, "d1")

        def finish(name: str) -> list[str]:
            try:
                ledger.end_attempt(attempts[name], end(TrialState.SUCCEEDED))
            except ClaimError as error:
                return [] if error.state == "interrupted" else [f"{name}: {error}"]
            return [name]

        def bury(number: int) -> list[str]:
            if number % 2:
                return other.mark_lost(dead, "silent")
            return other.mark_orphaned_lost("not known")

        with Ledger.open(url) as other, ThreadPoolExecutor(6) as pool:
            ends = pool.map(finish, reversed(trials))
            burials = pool.map(bury, range(8))
            succeeded, buried = [*chain(*ends)], [*chain(*burials)]
        assert sorted(succeeded + buried) == trials
        states = ledger.states(trials)
        assert sorted(t for t in trials if states[t] == "succeeded") == sorted(succeeded)
        assert [a.state for t in trials for a in ledger.attempts(t)] == [states[t] for t in trials]


def some(*trials: str) -> CancelRequest:
    return CancelRequest(trials=frozenset(trials))


class TestCancelling:
    def test_the_drivers_that_live_then_hear_of_it(self, two: Ledger) -> None:
        nothing = CancelRequest()
        assert two.cancelled("s1", "d1") == nothing
        two.cancel("s1", ["t2", "t3"])
        two.cancel("s1", ["t2"])
        two.add_driver(driver("later"), 60.0)
        assert two.cancelled("s1", "d1") == two.cancelled("s1", "d2") == some("t2", "t3")
        assert two.cancelled("s1", "later") == two.cancelled("s1", "unknown") == nothing
        assert two.cancelled("s2", "d1") == nothing
        two.cancel("s1", ["t1"])
        assert two.cancelled("s1", "later") == some("t1")

    def test_a_whole_sweep(self, two: Ledger) -> None:
        two.cancel("s1")
        assert two.cancelled("s1", "d1") == CancelRequest(all_trials=True)
        two.cancel("s1", ["t1"])
        assert two.cancelled("s1", "d1") == CancelRequest(True, frozenset({"t1"}))

    def test_no_trials_are_not_the_whole_sweep(self, two: Ledger) -> None:
        two.cancel("s1", [])
        assert two.cancelled("s1", "d1") == CancelRequest()

    def test_a_request_covers_its_trials(self) -> None:
        assert [some("t1").covers(t) for t in ("t1", "t2", "")] == [True, False, False]
        assert CancelRequest(all_trials=True).covers("t2")
        assert not CancelRequest().covers("t2")


class Drivers(RuleBasedStateMachine):
    """Drivers that claim, record, end, fall silent and are buried, beside a model of it all."""

    TRIALS, DRIVERS = ("t1", "t2"), ("d1", "d2", "d3")

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger.open(self.url)
        self.sweep = f"s{time.monotonic_ns()}"
        self.names = {each: f"{self.sweep}-{each}" for each in (*self.TRIALS, *self.DRIVERS)}
        self.ledger.add_sweep(sweep(self.sweep, *(self.names[each] for each in self.TRIALS)))
        for each in self.DRIVERS:
            self.ledger.add_driver(driver(self.names[each], self.sweep), 60.0)
        self.tried: dict[str, list[dict[str, Any]]] = {each: [] for each in self.TRIALS}
        self.evaluated: dict[tuple[str, int], int] = {}
        self.views: dict[str, DriverView] = {}
        self.renewed: set[str] = set()
        self.dead: set[str] = set()

    def teardown(self) -> None:
        for each in self.DRIVERS:
            self.ledger.end_driver(self.names[each])
        self.ledger.mark_orphaned_lost("over")
        self.ledger.close()

    def attempts(self) -> Iterator[dict[str, Any]]:
        return (each for tried in self.tried.values() for each in tried)

    @rule(which=st.sampled_from(TRIALS), who=st.sampled_from(DRIVERS))
    def claim(self, which: str, who: str) -> None:
        claim = Claim(self.names[which], self.sweep, self.names[who])
        last = self.tried[which][-1]["state"] if self.tried[which] else "waiting"
        if last in ("running", "succeeded"):
            with pytest.raises(ClaimError) as error:
                self.ledger.start_attempt(claim)
            assert error.value.state == last
        else:
            attempt = self.ledger.start_attempt(claim)
            self.tried[which].append({"id": attempt, "driver": who, "state": "running"})

    @precondition(lambda self: any(self.attempts()))
    @rule(data=st.data(), epoch=st.integers(1, 2))
    def record(self, data: st.DataObject, epoch: int) -> None:
        which = data.draw(st.sampled_from([t for t in self.TRIALS if self.tried[t]]))
        attempt = data.draw(st.sampled_from(self.tried[which]))
        said = done(self.names[which], epoch)
        if attempt["state"] == "running":
            self.ledger.record_epoch(said, attempt["id"])
            self.evaluated.setdefault((which, epoch), attempt["id"])
        else:
            with pytest.raises(ClaimError) as error:
                self.ledger.record_epoch(said, attempt["id"])
            assert error.value.state == attempt["state"]

    @precondition(lambda self: any(self.attempts()))
    @rule(data=st.data(), state=st.sampled_from(ENDS))
    def end(self, data: st.DataObject, state: TrialState) -> None:
        attempt = data.draw(st.sampled_from(list(self.attempts())))
        if attempt["state"] in ("running", state):
            self.ledger.end_attempt(attempt["id"], end(state))
            attempt["state"] = state
        else:
            with pytest.raises(ClaimError) as error:
                self.ledger.end_attempt(attempt["id"], end(state))
            assert error.value.state == attempt["state"]

    @rule(who=st.sampled_from(DRIVERS))
    def look(self, who: str) -> None:
        for each in self.ledger.drivers(self.sweep):
            if each.id == self.names[who]:
                self.views[who] = each
                self.renewed.discard(who)

    @rule(who=st.sampled_from(DRIVERS))
    def renew(self, who: str) -> None:
        held = self.ledger.renew_lease(self.names[who], 60.0, 1, "")
        assert held == {a["id"] for a in self.running(who)}
        self.renewed.add(who)
        self.dead.discard(who)

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def bury(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(sorted(self.views)))
        wanted = [] if who in self.renewed else self.interrupted(lambda each: each == who)
        assert self.ledger.mark_lost(self.views[who], "silent") == wanted
        if who not in self.renewed:
            self.dead.add(who)

    @rule(who=st.sampled_from(DRIVERS))
    def retire(self, who: str) -> None:
        self.ledger.end_driver(self.names[who])
        self.dead.add(who)

    @rule()
    def bury_strangers(self) -> None:
        wanted = self.interrupted(lambda each: each in self.dead)
        assert self.ledger.mark_orphaned_lost("not known") == wanted

    def running(self, who: str) -> list[dict[str, Any]]:
        return [a for a in self.attempts() if a["state"] == "running" and a["driver"] == who]

    def interrupted(self, whose: Any) -> list[str]:
        found = []
        for name, tried in self.tried.items():
            for each in tried:
                if each["state"] == "running" and whose(each["driver"]):
                    each["state"] = "interrupted"
                    found.append(self.names[name])
        return sorted(found)

    @invariant()
    def as_in_the_model(self) -> None:
        for name, tried in self.tried.items():
            found = self.ledger.attempts(self.names[name])
            assert [(a.id, a.state) for a in found] == [(a["id"], a["state"]) for a in tried]
            assert [a.number for a in found] == list(range(1, len(found) + 1))
            assert sum(a.state == "running" for a in found) <= 1
            assert "succeeded" not in [a.state for a in found[:-1]]
            state = tried[-1]["state"] if tried else "waiting"
            assert self.ledger.states([self.names[name]]) == {self.names[name]: state}
            kept = {(name, e.epoch): e.attempt for e in self.ledger.evaluations(self.names[name])}
            assert kept == {key: value for key, value in self.evaluated.items() if key[0] == name}


def test_drivers_behave_like_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    Drivers.url = f"sqlite:///{tmp_path_factory.mktemp('model')}/ledger.db"
    from hypothesis.stateful import run_state_machine_as_test

    few = settings(max_examples=15, stateful_step_count=20)
    run_state_machine_as_test(Drivers, settings=few)


class TestMigration:
    """From version 0002, which had no drivers, and back."""

    STATES = ("running", "failed", "succeeded")

    @pytest.fixture
    def engine(self, url: str) -> Iterator[Engine]:
        engine = open_engine(url)
        yield engine
        engine.dispose()

    @pytest.fixture
    def second(self, engine: Engine) -> list[dict[str, Any]]:
        """Makes the ledger one of version 0002 with an attempt in each state; their rows."""
        now = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            command.downgrade(alembic_config(connection), "0002")
            tables = MetaData()
            tables.reflect(connection)
            t = tables.tables
            connection.execute(insert(t["sweep"]).values(**self.sweep_row(now)))
            rows = [self.attempt_row(f"t{n}", s, now) for n, s in enumerate(self.STATES)]
            for n, row in enumerate(rows):
                known = vars(trial(row["trial_id"])) | {"state": row["state"], "created_at": now}
                connection.execute(insert(t["trial"]).values(**known))
                place = {"sweep_id": "s1", "trial_id": row["trial_id"], "position": n}
                connection.execute(insert(t["sweep_trial"]).values(**place))
                made = connection.execute(insert(t["attempt"]).values(**row))
                row["id"] = made.inserted_primary_key[0]
                key = {"trial_id": row["trial_id"], "attempt_id": row["id"], "epoch": 1}
                key |= {"branch": "o2o", "is_primary": True, "protocol": "default"}
                more = {"classes": [], "more": {}, "candidates": "", "matches": ""}
                values = key | more | METRIC_VALUES | {"created_at": now}
                connection.execute(insert(t["evaluation"]).values(**values))
        return rows

    @staticmethod
    def sweep_row(now: datetime) -> dict[str, Any]:
        return {"id": "s1", "name": "s1", "spec": "name: s", "created_at": now}

    @staticmethod
    def attempt_row(name: str, state: str, now: datetime) -> dict[str, Any]:
        key = {"trial_id": name, "sweep_id": "s1", "number": 1}
        about = {"node": "n", "device": "cpu", "workers": 1, "gpus": 0.0, "driver": "/old/home"}
        how = {"state": state, "reason": "größe" if state == "failed" else "", "started_at": now}
        over = {"ended_at": None if state == "running" else now}
        return key | about | how | over | vars(COST)

    def test_attempts_stay_and_running_ones_are_strangers(
        self, url: str, second: list[dict[str, Any]]
    ) -> None:
        with Ledger.open(url) as ledger:
            for row in second:
                [found] = ledger.attempts(row["trial_id"])
                kept = {"trial": row["trial_id"], "sweep": "s1"}
                kept |= {k: v for k, v in row.items() if k not in ("trial_id", "sweep_id")}
                assert {name: getattr(found, name) for name in kept} == kept
                assert (found.fault, found.notes, found.provenance) == ("", [], {})
                assert [e.attempt for e in ledger.evaluations(found.trial)] == [row["id"]]
            assert len({ledger.attempts(row["trial_id"])[0].token for row in second}) == 3
            assert ledger.drivers() == []
            assert ledger.mark_orphaned_lost("its driver is not known") == ["t0"]
            ledger.add_driver(driver("d1"), 60.0)
            for name in ("t0", "t1"):
                again = ledger.start_attempt(Claim(name, "s1", "d1"))
                assert again > max(row["id"] for row in second)
                ledger.end_attempt(again, end(TrialState.CANCELLED, "x"))
            with pytest.raises(ClaimError, match="it is succeeded"):
                ledger.start_attempt(Claim("t2", "s1", "d1"))

    def test_and_back(self, url: str, engine: Engine, second: list[dict[str, Any]]) -> None:
        with Ledger.open(url) as ledger:
            ledger.mark_orphaned_lost("its driver is not known")
            ledger.add_driver(driver("d1"), 60.0)
            ledger.cancel("s1", ["t1"])
            for name, state in (
                ("t0", TrialState.PREEMPTED),
                ("t1", TrialState.CANCELLED),
                ("t1", TrialState.STOPPED),
            ):
                ledger.end_attempt(ledger.start_attempt(Claim(name, "s1", "d1")), end(state))
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            command.downgrade(alembic_config(connection), "0002")
        tables = MetaData()
        tables.reflect(engine)
        attempt, one = tables.tables["attempt"], tables.tables["trial"]
        assert set(attempt.columns.keys()) == second[0].keys()
        assert not {"driver", "cancellation"} & set(tables.tables)
        with engine.connect() as connection:
            rows = connection.execute(select(attempt).order_by(attempt.c.id)).mappings().all()
            states = dict(connection.execute(select(one.c.id, one.c.state)).all())
        assert states == {"t0": "interrupted", "t1": "interrupted", "t2": "succeeded"}
        assert [(r["trial_id"], r["number"], r["state"]) for r in rows] == [
            ("t0", 1, "interrupted"),
            ("t1", 1, "failed"),
            ("t2", 1, "succeeded"),
            ("t0", 2, "interrupted"),
            ("t1", 2, "interrupted"),
            ("t1", 3, "interrupted"),
        ]
        assert {k: rows[1][k] for k in ("reason", *vars(COST))} == {"reason": "größe", **vars(COST)}
        with Ledger.open(url) as ledger:  # and up once more, with all that refers to attempts
            assert [len(ledger.evaluations(t)) for t in ("t0", "t1", "t2")] == [1, 1, 1]
            assert len(ledger.attempts("t1")) == 3

    def test_references_hold_afterwards(self, url: str, second: list[dict[str, Any]]) -> None:
        with Ledger.open(url) as ledger:
            with pytest.raises(ValueError, match="is not one of trial t0"):
                ledger.record(done("t0", 5).evaluations[0], second[1]["id"])
            with pytest.raises(ValueError, match="it is not in sweep s9"):
                ledger.start_attempt(Claim("t1", "s9", "d1"))
            assert ledger.record(done("t0", 5).evaluations[0], second[0]["id"])
