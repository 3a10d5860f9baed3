"""Drivers, their leases and requests to cancel: on SQLite and on a real PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain

from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.ledger.views import DriverView
from gaplab.records import CancelRequest, Claim
from gaplab.states import TrialState
from tests.builders import (
    attempt_end,
    driver_record,
    epoch_done,
    evaluation_record,
    sweep_record,
    trial_record,
)


def view(ledger: Ledger, identity: str) -> DriverView:
    [found] = [each for each in ledger.drivers() if each.id == identity]
    return found


class TestDrivers:
    def test_a_round_trip(self, two: Ledger) -> None:
        before = two.now()
        two.add_driver(driver_record("d3", "s2", pid=2**31 - 1, born=2**62), 30.0)
        assert [each.id for each in two.drivers()] == ["d1", "d2", "d3"]
        assert [each.id for each in two.drivers("s2")] == ["d3"]
        found = view(two, "d3")
        about = {**vars(driver_record("d3", "s2", pid=2**31 - 1, born=2**62))}
        assert {name: getattr(found, name) for name in about} == about
        assert (found.demand, found.waits_for, found.ended_at) == (0, "", None)
        assert before <= found.started_at <= two.now()
        assert found.lease_until - found.started_at == timedelta(seconds=30)
        assert found.lease().process.pid == 2**31 - 1
        assert found.lease().until == found.lease_until

    def test_adding_a_driver_again_changes_nothing(self, two: Ledger) -> None:
        before = two.drivers()
        two.add_driver(driver_record("d1", node="other"), 900.0)
        assert two.drivers() == before

    def test_renewing_extends_the_lease_and_publishes_the_demand(self, two: Ledger) -> None:
        before = view(two, "d1")
        assert two.renew_lease("d1", 90.0, 5, "two others") == set()
        after = view(two, "d1")
        assert (after.demand, after.waits_for) == (5, "two others")
        assert after.lease_until > before.lease_until
        same = {"lease_until": 0, "demand": 0, "waits_for": ""}
        assert {**vars(after), **same} == {**vars(before), **same}
        assert two.renew_lease("unknown", 90.0, 5, "") == set()

    def test_renewing_returns_the_attempts_that_it_still_holds(self, two: Ledger) -> None:
        first, second = (two.start_attempt(Claim(t, "s1", "d1")) for t in ("t1", "t2"))
        other = two.start_attempt(Claim("t3", "s1", "d2"))
        assert two.renew_lease("d1", 60.0, 0, "") == {first, second}
        two.end_attempt(first, attempt_end(TrialState.SUCCEEDED))
        assert two.renew_lease("d1", 60.0, 0, "") == {second}
        assert two.renew_lease("d2", 60.0, 0, "") == {other}

    def test_a_driver_that_ended_is_listed_only_for_its_sweep(self, two: Ledger) -> None:
        two.renew_lease("d1", 60.0, 4, "something")
        two.end_driver("d1")
        assert [each.id for each in two.drivers()] == ["d2"]
        first = two.drivers("s1")[0]
        assert (first.id, first.demand, first.waits_for) == ("d1", 0, "")
        assert first.ended_at is not None

    def test_the_clock_is_in_utc_and_never_runs_backwards(self, ledger: Ledger) -> None:
        before = datetime.now(UTC)
        moments = [ledger.now() for _ in range(3)]
        assert moments == sorted(moments)
        assert {each.utcoffset() for each in moments} == {timedelta(0)}
        assert before <= moments[0] <= datetime.now(UTC)


class TestLostDrivers:
    def test_a_driver_that_has_renewed_its_lease_is_not_lost(self, two: Ledger) -> None:
        attempt, old = two.start_attempt(Claim("t1", "s1", "d1")), view(two, "d1")
        two.renew_lease("d1", 60.0, 1, "")
        assert two.mark_lost(old, "silent") == []
        assert view(two, "d1").ended_at is None
        two.record_epoch(epoch_done("t1", 1, evaluation_record()), attempt)
        assert two.mark_lost(view(two, "d1"), "silent") == ["t1"]

    def test_only_attempts_of_that_driver_are_interrupted(self, two: Ledger) -> None:
        for name, holder in (("t1", "d1"), ("t2", "d2"), ("t3", "d1")):
            two.start_attempt(Claim(name, "s1", holder))
        two.end_attempt(two.attempts("t3")[0].id, attempt_end(TrialState.SUCCEEDED))
        lost = view(two, "d1")
        assert two.mark_lost(lost, "silent") == ["t1"]
        assert two.mark_lost(lost, "silent") == []
        wanted = {"t1": "interrupted", "t2": "running", "t3": "succeeded"}
        assert two.states(["t1", "t2", "t3"]) == wanted
        assert [each.id for each in two.drivers()] == ["d2"]

    def test_a_lost_driver_that_renews_is_active_without_its_attempts(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        two.mark_lost(view(two, "d1"), "silent")
        assert two.renew_lease("d1", 60.0, 2, "") == set()
        assert view(two, "d1").ended_at is None
        assert two.mark_orphaned_lost("not known") == []
        again = two.start_attempt(Claim("t1", "s1", "d1"))
        assert two.renew_lease("d1", 60.0, 2, "") == {again}
        assert again != attempt

    def test_orphaned_attempts(self, two: Ledger) -> None:
        """Attempts without a driver, of an unknown one and of one that has ended."""
        two.add_sweep(sweep_record("s3", trial_record("t4")))
        for name, holder in (("t1", ""), ("t2", "old home"), ("t3", "d1")):
            two.start_attempt(Claim(name, "s1", holder))
        two.start_attempt(Claim("t4", "s3", "d2"))
        two.end_driver("d1")
        assert two.mark_orphaned_lost("its driver is\nnot known") == ["t1", "t2", "t3"]
        assert two.mark_orphaned_lost("its driver is not known") == []
        wanted = dict.fromkeys(("t1", "t2", "t3"), "interrupted") | {"t4": "running"}
        assert two.states(["t1", "t2", "t3", "t4"]) == wanted

    def test_many_mark_as_lost_and_end_at_once(self, ledger: Ledger, url: str) -> None:
        """There is no deadlock, and each attempt ends once, in the state of its trial."""
        trials = [f"t{n:02d}" for n in range(20)]
        ledger.add_sweep(sweep_record("s1", *map(trial_record, trials)))
        ledger.add_driver(driver_record("d1"), 60.0)
        attempts = {each: ledger.start_attempt(Claim(each, "s1", "d1")) for each in trials}
        lost = view(ledger, "d1")

        def finish(name: str) -> list[str]:
            try:
                ledger.end_attempt(attempts[name], attempt_end(TrialState.SUCCEEDED))
            except ClaimError as error:
                return [] if error.state == "interrupted" else [f"{name}: {error}"]
            return [name]

        def mark(number: int) -> list[str]:
            if number % 2:
                return other.mark_lost(lost, "silent")
            return other.mark_orphaned_lost("not known")

        with Ledger.open(url) as other, ThreadPoolExecutor(6) as pool:
            ends = pool.map(finish, reversed(trials))
            marked = pool.map(mark, range(8))
            succeeded, interrupted = [*chain(*ends)], [*chain(*marked)]
        assert sorted(succeeded + interrupted) == trials
        states = ledger.states(trials)
        assert sorted(t for t in trials if states[t] == "succeeded") == sorted(succeeded)
        assert [a.state for t in trials for a in ledger.attempts(t)] == [states[t] for t in trials]


def some(*trials: str) -> CancelRequest:
    return CancelRequest(trials=frozenset(trials))


class TestCancelling:
    def test_only_drivers_that_are_running_receive_it(self, two: Ledger) -> None:
        nothing = CancelRequest()
        assert two.cancelled("s1", "d1") == nothing
        two.cancel("s1", ["t2", "t3"])
        two.cancel("s1", ["t2"])
        two.add_driver(driver_record("later"), 60.0)
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
