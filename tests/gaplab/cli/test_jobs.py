"""`gaplab status`, `logs` and `cancel` on a ledger with running, waiting and failed trials."""

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gaplab.launch.process import this_process
from gaplab.ledger import Ledger
from gaplab.records import CancelRequest, Claim, Started
from gaplab.states import TrialState
from tests.builders import MACHINE, attempt_end, driver_record, sweep_record, trial_record

Gaplab = Callable[..., str]
TRIALS = tuple(trial_record(f"{n:012x}", seed=n) for n in (1, 2, 3))
SWEEP = sweep_record("small-00000001", *TRIALS, name="small")
DRIVER = "d" * 32
LEASE = 1e6
"""Seconds: no lease ends while a test runs."""


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """A sweep with a running driver: one trial is running, one has failed and one is waiting."""
    driver = driver_record(DRIVER, SWEEP.id, node="far", **vars(this_process()))
    with Ledger.open(f"sqlite:///{home}/ledger.db") as opened:
        opened.add_sweep(SWEEP)
        opened.add_driver(driver, LEASE)
        attempts = [opened.start_attempt(Claim(t.id, SWEEP.id, driver.id)) for t in TRIALS[:2]]
        opened.begin_attempt(attempts[0], Started(TRIALS[0].id, MACHINE, 0, notes=("look",)))
        reason = "loss is not finite at step 7"
        opened.end_attempt(attempts[1], attempt_end(TrialState.FAILED, reason, fault="input"))
        yield opened


def test_status_lists_running_waiting_and_failed_trials(gaplab: Gaplab, ledger: Ledger) -> None:
    output = gaplab("status")
    assert "3 trials, 1 waiting, 1 running, 1 failed" in output
    assert "driver dddddddd on far" in output
    assert MACHINE.node in output
    assert "1 trial is waiting for free resources (running: 1 on node-1)" in output
    assert f"trial {TRIALS[1].id} failed (input): loss is not finite at step 7" in output
    found = json.loads(gaplab("status", "small", "--json"))
    assert found["sweep"]["id"] == SWEEP.id
    assert [each["wants"] for each in found["drivers"]] == [0]


def test_status_without_a_driver(gaplab: Gaplab, ledger: Ledger) -> None:
    ledger.end_driver(DRIVER)
    waiting = "2 trials are waiting and nothing is running them. Continue with: gaplab resume"
    assert f"{waiting} {SWEEP.id}" in gaplab("status")


def test_status_of_a_driver_of_this_machine_that_has_died(gaplab: Gaplab, ledger: Ledger) -> None:
    """A later process with the same number is another one."""
    ledger.end_driver(DRIVER)
    mine = this_process()
    dead = driver_record("e" * 32, SWEEP.id, **vars(replace(mine, born=mine.born - 1)))
    ledger.add_driver(dead, LEASE)
    output = gaplab("status")
    assert f"driver eeeeeeee on node-1, process {mine.pid}, died\n" in output
    assert "3 trials, 1 waiting, 1 failed, 1 interrupted" in output
    continued = f"Continue with: gaplab resume {SWEEP.id}\n"
    assert f"2 trials are waiting and nothing is running them. {continued}" in output
    found = json.loads(gaplab("status", "--json"))
    assert [each["reason"] for each in found["lost"]] == ["died"]
    assert found["drivers"] == found["running"] == []


def test_logs_of_a_trial(gaplab: Gaplab, ledger: Ledger, home: Path) -> None:
    folder = home / "trials" / TRIALS[1].id
    folder.mkdir(parents=True)
    (folder / "traceback.txt").write_text("Somewhere, line 1\n")
    output = gaplab("logs", TRIALS[1].id)
    assert TrialState.FAILED in output
    assert "loss is not finite at step 7" in output
    assert "Somewhere, line 1" in output
    assert "note: look" in gaplab("logs", TRIALS[0].id)


def test_drivers_receive_a_request_to_cancel(gaplab: Gaplab, ledger: Ledger) -> None:
    output = gaplab("cancel", TRIALS[0].id)
    assert output == (
        f"trial {TRIALS[0].id} of sweep {SWEEP.id}: cancelled; 1 driver will stop within seconds\n"
    )
    assert ledger.cancelled(SWEEP.id, DRIVER) == CancelRequest(trials=frozenset({TRIALS[0].id}))
    assert gaplab("cancel", "small").startswith(f"sweep {SWEEP.id}: cancelled; 1 driver ")
    assert ledger.cancelled(SWEEP.id, DRIVER) == CancelRequest(True, frozenset({TRIALS[0].id}))


def test_an_unknown_name(gaplab: Gaplab, ledger: Ledger) -> None:
    for command in ("status", "logs", "cancel"):
        assert "'nothing': not in the ledger" in gaplab(command, "nothing", code=2)
    assert ledger.cancelled(SWEEP.id, DRIVER) == CancelRequest()


def test_cancelling_without_a_driver(gaplab: Gaplab, ledger: Ledger) -> None:
    ledger.end_driver(DRIVER)
    assert gaplab("cancel", "small") == (
        f"sweep {SWEEP.id}: nothing to stop, no driver is running the sweep\n"
    )
    never_attempted = gaplab("cancel", TRIALS[2].id, code=2)
    assert "no driver runs it, so there is nothing to cancel" in never_attempted


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "SPEC", "--cluster-home", "/shared"),
        ("status",),
        ("logs", "job"),
        ("cancel", "job"),
    ],
)
def test_a_dashboard_that_does_not_answer(
    gaplab: Gaplab, write_spec: Callable[..., Path], words: tuple[str, ...]
) -> None:
    spec = str(write_spec())
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        command = [spec if word == "SPEC" else word for word in words]
        error = gaplab(*command, "--address", url, code=2)
    assert error == (
        f"gaplab: --address {url}: can't connect (Connection refused); start the cluster with `ray "
        "start --head`, or correct the address: http://HEAD:8265, the dashboard of a cluster\n"
    )
