"""`gaplab status`, `logs` and `cancel` on a ledger: what runs, what waits and why, what failed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gaplab.launch.process import this_process
from gaplab.ledger import Ledger
from gaplab.records import (
    AttemptEnd,
    CancelRequest,
    Claim,
    Cost,
    DriverRecord,
    Machine,
    Started,
    SweepRecord,
    TrialRecord,
)
from gaplab.states import TrialState

Gaplab = Callable[..., str]
TRIALS = tuple(
    TrialRecord(f"{n:012x}", {"seed": n}, "poto", "o2o", "shapes", n, 3, 1) for n in (1, 2, 3)
)
SWEEP = SweepRecord("small-00000001", "small", "name: small", TRIALS)


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """A sweep of which one trial runs under a driver that lives, one failed and one waits."""
    driver = DriverRecord(
        "d" * 32, SWEEP.id, "far", **vars(this_process()), cluster="c", priority=0
    )
    with Ledger.open(f"sqlite:///{home}/ledger.db") as opened:
        opened.add_sweep(SWEEP)
        opened.add_driver(driver, 60.0)
        attempts = [opened.start_attempt(Claim(t.id, SWEEP.id, driver.id)) for t in TRIALS[:2]]
        machine = Machine("node-7", "cpu", 1, 0.0)
        opened.begin_attempt(attempts[0], Started(TRIALS[0].id, machine, 0, notes=("look",)))
        reason = "loss is not finite at step 7"
        opened.end_attempt(attempts[1], AttemptEnd(TrialState.FAILED, reason, Cost(), "input"))
        yield opened


def test_status_says_what_runs_what_waits_and_what_failed(gaplab: Gaplab, ledger: Ledger) -> None:
    said = gaplab("status")
    assert "3 trials, 1 waiting, 1 running, 1 failed" in said
    assert "driver dddddddd on far" in said
    assert "node-7" in said
    assert "1 wait for room on the cluster" in said
    assert f"trial {TRIALS[1].id} failed (input): loss is not finite at step 7" in said
    found = json.loads(gaplab("status", "small", "--json"))
    assert found["sweep"]["id"] == SWEEP.id
    assert [each["wants"] for each in found["drivers"]] == [0]


def test_status_without_a_driver_says_so(gaplab: Gaplab, ledger: Ledger) -> None:
    ledger.end_driver("d" * 32)
    assert f"none lives; `gaplab resume {SWEEP.id}` starts one" in gaplab("status")


def test_logs_of_a_trial(gaplab: Gaplab, ledger: Ledger, home: Path) -> None:
    folder = home / "trials" / TRIALS[1].id
    folder.mkdir(parents=True)
    (folder / "traceback.txt").write_text("Somewhere, line 1\n")
    said = gaplab("logs", TRIALS[1].id)
    assert TrialState.FAILED in said
    assert "loss is not finite at step 7" in said
    assert "Somewhere, line 1" in said
    assert "note: look" in gaplab("logs", TRIALS[0].id)


def test_cancelling_reaches_the_driver(gaplab: Gaplab, ledger: Ledger) -> None:
    said = gaplab("cancel", TRIALS[0].id)
    assert "1 drivers hear it within seconds" in said
    assert ledger.cancelled(SWEEP.id, "d" * 32) == CancelRequest(trials=frozenset({TRIALS[0].id}))
    gaplab("cancel", "small")
    assert ledger.cancelled(SWEEP.id, "d" * 32) == CancelRequest(True, frozenset({TRIALS[0].id}))


def test_nothing_of_that_name(gaplab: Gaplab, ledger: Ledger) -> None:
    for command in ("status", "logs", "cancel"):
        assert "'nothing': not in the ledger" in gaplab(command, "nothing", code=2)
    assert ledger.cancelled(SWEEP.id, "d" * 32) == CancelRequest()
