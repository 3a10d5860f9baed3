"""Why trials of a sweep are waiting, as `status` says it."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from gaplab.cli.jobs import print_status
from gaplab.cli.render.terminal import PlainConsole
from gaplab.ledger import Ledger
from gaplab.records import Claim, Started
from gaplab.results.status import status
from gaplab.states import TrialState
from tests.builders import MACHINE, attempt_end, driver_record, sweep_record, trial_record

TRIALS = [trial_record(identity) for identity in ("t1", "t2", "t3")]
SWEEP = sweep_record("s1", *TRIALS)
DRIVER = driver_record("d1", SWEEP.id)
LEASE = 1e6
"""Seconds: no lease ends while a test runs."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with a sweep of three waiting trials."""
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        opened.add_sweep(SWEEP)
        yield opened


def start(ledger: Ledger, trial: str) -> int:
    """Claim a trial for the driver and start it."""
    attempt = ledger.start_attempt(Claim(trial, SWEEP.id, DRIVER.id))
    ledger.begin_attempt(attempt, Started(trial, MACHINE, 0))
    return attempt


def test_what_the_sweep_varies_is_known_while_one_trial_runs(tmp_path: Path) -> None:
    trials = [
        trial_record(f"t{n}", config={"assignment": {"name": "poto", "alpha": alpha}, "seed": n})
        for n, alpha in enumerate((0.25, 0.5))
    ]
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        spec = "name: s1\ngrid: {assignment.alpha: [0.25, 0.5], seed: [0, 1]}\n"
        opened.add_sweep(sweep_record(SWEEP.id, *trials, spec=spec))
        opened.add_driver(DRIVER, LEASE)
        start(opened, "t1")
        found = status(opened, None)
    assert found.varied == ("assignment.alpha",)
    assert found.plain()["varied"] == ("assignment.alpha",)
    console = PlainConsole(file=io.StringIO(), width=80)
    with console.capture() as shown:
        print_status(found, console, json=False)
    lines = shown.get().splitlines()
    assert next(line.split() for line in lines if "trial " in line and "epoch" in line)[:4] == [
        *("trial", "assignment", "alpha", "seed"),
    ]
    assert next(line.split() for line in lines if line.startswith(" t1"))[:4] == [
        *("t1", "poto", "0.5", "0"),
    ]


def test_nothing_runs_the_trials(ledger: Ledger) -> None:
    remedy = "Continue with: gaplab resume s1"
    expected = f"3 trials are waiting and nothing is running them. {remedy}"
    assert status(ledger, "s1").waiting == status(ledger, None).waiting == expected
    ledger.add_driver(DRIVER, LEASE)
    for trial in ("t1", "t2"):
        ledger.end_attempt(start(ledger, trial), attempt_end(TrialState.SUCCEEDED))
    ledger.end_driver(DRIVER.id)
    expected = f"1 trial is waiting and nothing is running it. {remedy}"
    assert status(ledger, "s1").waiting == expected


def test_the_driver_says_what_it_waits_for(ledger: Ledger) -> None:
    ledger.add_driver(DRIVER, LEASE)
    reason = "waiting for 3 trials that other drivers run"
    ledger.renew_lease(DRIVER.id, LEASE, 1, reason)
    assert status(ledger, "s1").waiting == f"3 trials are waiting. Drivers: {reason}"


def test_the_cluster_has_no_free_resources(ledger: Ledger) -> None:
    ledger.add_driver(DRIVER, LEASE)
    waiting = "3 trials are waiting for free resources (none is running)"
    assert status(ledger, "s1").waiting == waiting
    start(ledger, "t1")
    waiting = "2 trials are waiting for free resources (running: 1 on node-1)"
    assert status(ledger, "s1").waiting == waiting
    ledger.start_attempt(Claim("t2", SWEEP.id, DRIVER.id))
    waiting = "1 trial is waiting for free resources "
    waiting += "(running: 1 on node-1, 1 on a node that is starting)"
    assert status(ledger, "s1").waiting == waiting


def test_no_trial_waits_once_all_have_ended(ledger: Ledger) -> None:
    ledger.add_driver(DRIVER, LEASE)
    ends = (TrialState.SUCCEEDED, TrialState.FAILED, TrialState.STOPPED)
    for trial, state in zip(TRIALS, ends, strict=True):
        ledger.end_attempt(start(ledger, trial.id), attempt_end(state))
    found = status(ledger, "s1")
    assert (found.waiting, found.running) == ("", ())
    assert [failure.count for failure in found.failures] == [1]


def test_plain_data_keeps_the_names_of_json(ledger: Ledger) -> None:
    ledger.add_driver(DRIVER, LEASE)
    ledger.renew_lease(DRIVER.id, LEASE, 4, "")
    [driver] = status(ledger, "s1").plain()["drivers"]
    assert (driver["wants"], "demand" in driver) == (4, False)


def test_a_driver_that_has_died_is_lost_at_once(ledger: Ledger) -> None:
    other = driver_record("d2", SWEEP.id, pid=8)
    for driver in (DRIVER, other):
        ledger.add_driver(driver, LEASE)
    start(ledger, "t1")
    ledger.start_attempt(Claim("t2", SWEEP.id, other.id))
    found = status(ledger, None, lambda process: process.pid == DRIVER.pid)
    assert [each.id for each in found.drivers] == ["d2"]
    assert [(each.driver.id, each.reason) for each in found.lost] == [("d1", "died")]
    assert [each.trial.id for each in found.running] == ["t2"]
    assert {state: n for state, n in found.sweep.counts.items() if n} == {
        TrialState.RUNNING: 1,
        TrialState.INTERRUPTED: 1,
        TrialState.WAITING: 1,
    }
    assert found.waiting.startswith("2 trials are waiting for free resources")
    plain = found.plain()
    assert [(each["id"], each["reason"], each["wants"]) for each in plain["lost"]] == [
        ("d1", "died", 0)
    ]


def test_all_drivers_have_died(ledger: Ledger) -> None:
    ledger.add_driver(DRIVER, LEASE)
    start(ledger, "t1")
    found = status(ledger, None, lambda process: True, "resume it: {}".format)
    expected = "3 trials are waiting and nothing is running them. Continue with: resume it: s1"
    assert found.waiting == expected
    assert (found.drivers, found.running) == ((), ())


def test_a_driver_whose_lease_has_ended_is_lost(ledger: Ledger) -> None:
    ledger.add_driver(DRIVER, -7.5 * 3600)
    start(ledger, "t1")
    found = status(ledger, None)
    ((lost,), running) = found.lost, found.running
    assert lost.reason.startswith("sent no heartbeat, and its lease ended 7 h ")
    assert running == ()


def test_trials_that_a_driver_has_left_behind_are_not_running(ledger: Ledger) -> None:
    ledger.add_driver(DRIVER, LEASE)
    start(ledger, "t1")
    ledger.end_driver(DRIVER.id)
    found = status(ledger, None)
    assert (found.drivers, found.lost, found.running) == ((), (), ())
    assert found.sweep.counts[TrialState.INTERRUPTED] == 1
