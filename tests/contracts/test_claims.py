"""Claims of trials by drivers that compete for them: on SQLite and on a real PostgreSQL."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.records import Claim, Cost, EpochDone, Machine, Started
from gaplab.states import ENDS, TrialState
from tests.builders import attempt_end, epoch_done, evaluation_record, sweep_record, trial_record

MACHINE = Machine("node-1", "gpu", 2, 1.0)
COST = Cost(20.0, 5.0, 10.0, 512.0)


def done(trial: str, epoch: int, cost: Cost = COST) -> EpochDone:
    return epoch_done(trial, epoch, evaluation_record(trial, epoch), cost=cost)


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


def start_claimer(url: str, driver: str, trials: list[str]) -> subprocess.Popen[str]:
    """Start a process that claims the trials in their order when it reads a line."""
    command = [sys.executable, "-c", _CLAIMER, url, driver, *trials]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class TestClaims:
    def test_a_claim_belongs_to_its_driver(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1", token="token"))
        [found] = two.attempts("t1")
        assert (found.id, found.driver, found.token, found.state) == (
            *(attempt, "d1", "token"),
            "running",
        )
        assert (found.node, found.device, found.workers, found.gpus) == ("", "", 0, 0.0)
        assert (found.fault, found.notes, found.provenance) == ("", [], {})

    def test_repeating_a_claim_returns_the_same_attempt(self, two: Ledger) -> None:
        claim = Claim("t1", "s1", "d1")
        attempt = two.start_attempt(claim)
        assert [two.start_attempt(claim) for _ in range(3)] == [attempt] * 3
        two.end_attempt(attempt, attempt_end(TrialState.FAILED, "x"))
        assert two.start_attempt(claim) == attempt
        assert two.states(["t1"]) == {"t1": "failed"}
        assert len(two.attempts("t1")) == 1

    def test_the_same_claim_from_many_connections_is_one_attempt(
        self, two: Ledger, url: str
    ) -> None:
        """As a claim that is cut off during its commit and repeated on another connection."""
        claims = [Claim(f"t{n % 3 + 1}", "s1", "d1", token=f"word {n % 3}") for n in range(24)]
        with Ledger.open(url) as other, ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit((two, other)[n % 2].start_attempt, c) for n, c in enumerate(claims)]
            found = [(claim.trial, job.result()) for claim, job in zip(claims, jobs, strict=True)]
        assert set(found) == {(t, two.attempts(t)[0].id) for t in ("t1", "t2", "t3")}
        assert [len(two.attempts(t)) for t in ("t1", "t2", "t3")] == [1, 1, 1]

    def test_the_error_holds_the_state(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        for ending, wanted in ((None, "running"), (attempt_end(TrialState.SUCCEEDED), "succeeded")):
            if ending:
                two.end_attempt(attempt, ending)
            with pytest.raises(ClaimError, match=f"t1 can't start: it is {wanted}") as error:
                two.start_attempt(Claim("t1", "s2", "d2"))
            assert error.value.state == wanted
        with pytest.raises(ClaimError, match="it is not in the ledger") as error:
            two.start_attempt(Claim("t9", "s1", "d1"))
        assert error.value.state is None

    @pytest.mark.parametrize("state", [s for s in ENDS if s != "succeeded"])
    def test_after_any_other_end_a_trial_can_be_claimed_again(
        self, two: Ledger, state: TrialState
    ) -> None:
        first = two.start_attempt(Claim("t1", "s1", "d1"))
        two.end_attempt(first, attempt_end(state, "why"))
        assert two.states(["t1"]) == {"t1": state}
        assert two.start_attempt(Claim("t1", "s2", "d2")) > first
        assert [(a.number, a.state, a.sweep) for a in two.attempts("t1")] == [
            (1, state, "s1"),
            (2, "running", "s2"),
        ]

    def test_of_many_processes_one_claims_each_trial(self, ledger: Ledger, url: str) -> None:
        trials = [f"t{n}" for n in range(25)]
        ledger.add_sweep(sweep_record("s1", *map(trial_record, trials)))
        orders = {"a": trials, "b": trials[::-1], "c": trials[7:] + trials[:7]}
        running = {name: start_claimer(url, name, order) for name, order in orders.items()}
        for each in running.values():
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in running.values():
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        won = {name: each.communicate()[0].split() for name, each in running.items()}
        assert [each.returncode for each in running.values()] == [0, 0, 0]
        claimed = sorted((*pair.split("="), name) for name in won for pair in won[name])
        found = [(t, str(a.id), a.driver) for t in trials for a in ledger.attempts(t)]
        assert claimed == sorted(found)
        assert len(found) == len(trials)


class TestFencing:
    @pytest.fixture
    def lost(self, two: Ledger) -> tuple[Ledger, int]:
        """d1's attempt at t1, recorded once, after which d1 was marked as lost."""
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        two.begin_attempt(attempt, Started("t1", MACHINE, 0))
        two.record_epoch(done("t1", 1), attempt)
        assert two.mark_lost(two.drivers()[0], "its driver\ndied") == ["t1"]
        return two, attempt

    def test_a_lost_attempt_can_t_begin_record_or_end(self, lost: tuple[Ledger, int]) -> None:
        ledger, attempt = lost
        late_writes: list[Callable[[], None]] = [
            lambda: ledger.begin_attempt(attempt, Started("t1", MACHINE, 1)),
            lambda: ledger.record_epoch(done("t1", 2), attempt),
            lambda: ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED)),
            lambda: ledger.end_attempt(attempt, attempt_end(TrialState.FAILED, "x")),
        ]
        for late in late_writes:
            with pytest.raises(ClaimError, match="it is interrupted") as error:
                late()
            assert error.value.state == "interrupted"
        assert [e.epoch for e in ledger.evaluations("t1")] == [1]
        assert ledger.states(["t1"]) == {"t1": "interrupted"}

    def test_nor_after_another_driver_claimed_the_trial(self, lost: tuple[Ledger, int]) -> None:
        ledger, attempt = lost
        second = ledger.start_attempt(Claim("t1", "s1", "d2"))
        with pytest.raises(ClaimError, match=f"attempt {attempt} has ended: it is interrupted"):
            ledger.record_epoch(done("t1", 2), attempt)
        with pytest.raises(ClaimError, match="can't end as succeeded: it is interrupted"):
            ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
        ledger.end_attempt(attempt, attempt_end(TrialState.INTERRUPTED))  # changes nothing
        assert ledger.states(["t1"]) == {"t1": "running"}
        ledger.record_epoch(done("t1", 2), second)
        ledger.end_attempt(second, attempt_end(TrialState.SUCCEEDED))
        assert [(e.epoch, e.attempt) for e in ledger.evaluations("t1")] == [
            (1, attempt),
            (2, second),
        ]

    def test_costs_stay(self, lost: tuple[Ledger, int]) -> None:
        ledger, _ = lost
        [found] = ledger.attempts("t1")
        assert (found.state, found.fault, found.node) == ("interrupted", "", "node-1")
        assert found.ended_at is not None
        costs = {name: getattr(found, name) for name in vars(COST)}
        assert costs == vars(COST)

    def test_an_unknown_attempt_is_refused(self, two: Ledger) -> None:
        with pytest.raises(
            ClaimError, match="attempt 99 has ended: it is not in the ledger"
        ) as error:
            two.record_epoch(done("t1", 1), 99)
        assert error.value.state is None

    def test_costs_are_recorded_with_each_epoch(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        for epoch in (1, 2):
            cost = Cost(*(float(epoch * n) for n in (1, 2, 3, 4)))
            two.record_epoch(done("t1", epoch, cost), attempt)
            [found] = two.attempts("t1")
            assert {name: getattr(found, name) for name in vars(cost)} == vars(cost)
        with pytest.raises(ValueError, match="not finite: wall_seconds"):
            two.record_epoch(done("t1", 3, Cost(wall_seconds=float("inf"))), attempt)
        assert [e.epoch for e in two.evaluations("t1")] == [1, 2]

    def test_machine_notes_and_provenance_are_stored(self, two: Ledger) -> None:
        attempt = two.start_attempt(Claim("t1", "s1", "d1"))
        provenance = {"commit": "abc", "packages": {"torch": "2.13"}, "dirty": None}
        two.begin_attempt(attempt, Started("t1", MACHINE, 0, provenance, ("one damaged", "größe")))
        [found] = two.attempts("t1")
        assert (found.node, found.device, found.workers, found.gpus) == ("node-1", "gpu", 2, 1.0)
        assert (found.provenance, found.notes) == (provenance, ["one damaged", "größe"])
