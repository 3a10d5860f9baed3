"""Whole commands on Ray clusters that they start themselves: run, kill, stop, resume, results.

One sweep goes through everything. To be independent of speed, its trials wait at a gate in the
middle of their second epoch until a test opens it; meanwhile they still obey orders.
"""

import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaplab.ledger import Ledger
from gaplab.ledger.views import AttemptView, EvaluationView
from gaplab.states import TrialState
from tests.leaks import assert_no_secret, assert_no_secret_in_argv
from tests.sweeps.bench import FULL, TIMEOUT, Bench, Driver, Gate, Key, Metrics, kill

Write = Callable[..., Path]
Undisturbed = Callable[[Path], Metrics]
full = pytest.mark.skipif(not FULL, reason="part of `make chaos`")
pytestmark = pytest.mark.timeout(TIMEOUT)

ROWS = {
    "diverges": {"training.lr": 1e30},
    "center": {"assignment.name": "center"},
    "dual": {"assignment.name": "dual"},
}
EPOCHS, STEPS = 4, 4
EVALUATIONS = EPOCHS * (0 + 1 + 2)
"""Of the three trials, by their branches; the first one diverges before it is evaluated."""

COMPARED = """
import os, sys
import detectors, ray  # set variables when they are imported
before = dict(os.environ)
from gaplab.cli import main
try:
    main()
finally:
    after = dict(os.environ)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    print("changed variables:", sorted(changed), file=sys.stderr)
"""
"""The command, which prints at its end what it has left changed in its environment."""


@dataclass
class History:
    """What became of one sweep that was killed, stopped and resumed.

    Attributes:
        bench: its home and ledger.
        spec: its spec.
        when_killed: evaluations in the ledger after its driver was killed.
        stopped: attempts after a resumed driver was stopped by Ctrl-C.
        attempts: attempts at the end.
        metrics: metrics of all evaluations at the end.
        states: number of trials by state at the end.
        outputs: standard output of the drivers, by what became of them.
        errors: their standard errors.
        codes: their exit codes.
        killed_workers: number of workers that were killed in the last driver.
    """

    bench: Bench
    spec: Path
    when_killed: dict[Key, EvaluationView] = field(default_factory=dict)
    stopped: list[AttemptView] = field(default_factory=list)
    attempts: list[AttemptView] = field(default_factory=list)
    metrics: Metrics = field(default_factory=dict)
    states: Counter[TrialState] = field(default_factory=Counter)
    outputs: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    killed_workers: int = 0

    def end(self, name: str, driver: Driver) -> None:
        """Wait for the end of a driver."""
        self.outputs[name], self.errors[name] = driver.communicate()
        self.codes[name] = driver.returncode

    def is_waiting(self, driver: Driver) -> bool:
        """Return whether only trials that wait at the gate, or will soon, are left in a driver.

        The trial that diverges has failed in this driver then, so nothing ends by itself.
        """
        if not self.bench.ready():
            return False
        with Ledger.open(self.bench.ledger) as ledger:
            drivers = {each.id for each in ledger.drivers() if each.pid == driver.pid}
        attempts = [each for each in self.bench.attempts() if each.driver in drivers]
        running = sum(each.state == "running" and each.node != "" for each in attempts)
        return running == 2 and any(each.fault == "input" for each in attempts)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, small: dict[str, Any]) -> History:
    folder = tmp_path_factory.mktemp("history")
    spec, gate = folder / "small.yaml", Gate(folder / "gate")
    content = {
        "rows": ROWS,
        "assignment": {"name": "center"},
        "training": {"epochs": EPOCHS, "batch": 4, "warmup_steps": 0, "clip_norm": 0.0},
        "run": {"retries": 50, "backoff_seconds": 0.2, "lease_seconds": 5},
    }
    spec.write_text(yaml.safe_dump(small | content))
    found = History(Bench.at(folder / "home"), spec)
    found.bench.environment |= gate.environment
    kill_a_driver(found)
    stop_a_driver(found)
    kill_workers_and_finish(found, gate)
    return found


def kill_a_driver(found: History) -> None:
    """Kill the first driver while two trials wait at the gate, each after one epoch."""
    with found.bench.start("run", found.spec) as driver:
        found.bench.wait_for_evaluations(3, driver)
        found.bench.wait_for(lambda: found.is_waiting(driver), driver)
        assert_closed(found.bench, driver)
        driver.kill()
        found.end("killed", driver)
    found.when_killed = found.bench.evaluations()


def assert_closed(bench: Bench, driver: Driver) -> None:
    """Nobody else can connect to a running sweep, and its token is shown nowhere."""
    addresses = bench.addresses(driver)
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    token = (bench.home / "ray.token").read_text()
    assert (bench.home / "ray.token").stat().st_mode & 0o077 == 0
    assert_no_secret_in_argv(token)
    assert_no_secret(token, bench.home)


def stop_a_driver(found: History) -> None:
    """Stop the second driver by Ctrl-C while both trials wait at the gate."""
    with found.bench.start("resume") as driver:
        found.bench.wait_for(lambda: found.is_waiting(driver), driver)
        driver.send_signal(signal.SIGINT)
        found.end("stopped", driver)
    found.stopped = found.bench.attempts()


def kill_workers_and_finish(found: History, gate: Gate) -> None:
    """Kill both workers of the third driver, wait until that is noticed, and open the gate."""

    def lost() -> int:
        return sum(each.fault == "lost" for each in found.bench.attempts())

    with found.bench.start("resume", command=(sys.executable, "-c", COMPARED)) as driver:
        found.bench.wait_for(lambda: found.is_waiting(driver), driver)
        for worker in found.bench.workers(driver):
            found.killed_workers += kill(worker)
        found.bench.wait_for(lambda: lost() >= 2, driver)
        gate.open()
        found.end("finished", driver)
    found.attempts, found.metrics = found.bench.attempts(), found.bench.metrics()
    found.states = found.bench.states()


def test_nothing_is_lost(history: History, undisturbed: Undisturbed) -> None:
    """Every evaluation is there once and equal, digit by digit, to that of undisturbed trials."""
    assert len(history.metrics) == EVALUATIONS
    assert history.metrics == undisturbed(history.spec)
    assert history.states == {"succeeded": 2, "failed": 1}


def test_a_killed_driver(history: History) -> None:
    assert history.codes["killed"] == -signal.SIGKILL
    before, after = history.when_killed, history.bench.evaluations()
    assert 3 <= len(before) < len(after)
    assert all(before[key] == after[key] for key in before), "rows stay as first written"
    assert "resumed after epoch 1 on" in history.outputs["stopped"]
    reasons = [each.reason for each in history.stopped if each.state == "interrupted"]
    assert reasons.count("its driver died") == 2


def test_a_stopped_driver_saves_and_says_how_to_continue(history: History) -> None:
    out, err = history.outputs["stopped"], history.errors["stopped"]
    assert history.codes["stopped"] == 130, out + err
    assert "Traceback" not in out + err
    assert "stopped: interrupted with Ctrl-C; progress is saved" in out
    assert "Continue with: gaplab resume small-" in out
    assert {each.state for each in history.stopped} == {"interrupted", "failed"}
    reasons = [each.reason for each in history.stopped if each.state == "interrupted"]
    assert reasons.count("interrupted with Ctrl-C") == 2


def test_killed_workers(history: History) -> None:
    assert history.killed_workers >= 2
    out, err = history.outputs["finished"], history.errors["finished"]
    assert "Traceback" not in out + err
    assert "(raylet)" not in out + err
    lost = [each for each in history.attempts if each.fault == "lost"]
    assert len(lost) == 2
    assert {each.state for each in lost} == {"failed"}


def test_a_failed_trial(history: History) -> None:
    out = history.outputs["finished"]
    assert history.codes["finished"] == 1
    assert re.search(r" center lr=\S+ seed 0: epoch 4/4, AP", out)
    assert "failed: loss is not finite at step " in out
    assert "gaplab resume small-" in out
    failed = [each.fault for each in history.attempts if each.state == "failed"]
    assert failed.count("input") == 3, "once per driver: the same input fails the same way"


def test_the_environment_is_left_as_it_was(history: History) -> None:
    """The names of the token and of all settings for Ray included."""
    assert "changed variables: []" in history.errors["finished"].splitlines()


def test_results(history: History) -> None:
    bench = history.bench
    rows = json.loads(bench.gaplab("leaderboard", "--json"))
    assert {row["assignment"] for row in rows} == {"center", "dual"}
    (row,) = (each for each in rows if each["assignment"] == "center")
    expected = {"family": "o2o", "dataset": "shapes", "seed": 0, "epoch": EPOCHS}
    assert {key: row[key] for key in expected} == expected
    assert row["gap"] == pytest.approx(row["ap"] - row["ap_nms"], abs=2e-4)
    assert row["trial"] in bench.gaplab("show", row["trial"][:6])


def test_another_sweep_of_the_same_trials_trains_nothing(history: History) -> None:
    content = yaml.safe_load(history.spec.read_text())
    del content["rows"]["diverges"]
    other = history.spec.with_name("other.yaml")
    other.write_text(yaml.safe_dump(content))
    out = history.bench.gaplab("run", other)
    assert "2 trials, 2 already done, nothing to train" in out
    assert "nothing to train" in history.bench.gaplab("resume")


@full
@pytest.mark.parametrize(
    ("number", "code", "state"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "preempted"),
        (signal.SIGHUP, 129, "preempted"),
    ],
)
def test_a_driver_that_is_stopped_by_a_signal(
    write_spec: Write,
    bench: Bench,
    undisturbed: Undisturbed,
    gate: Gate,
    number: signal.Signals,
    code: int,
    state: str,
) -> None:
    spec = write_spec(
        grid={"assignment.name": ["center", "fcos", "dual"]},
        assignment={"name": "fcos"},
        training={"epochs": 4, "batch": 4, "warmup_steps": 4},
    )
    gate.close()
    bench.environment |= gate.environment
    with bench.start("run", spec) as driver:
        bench.wait_for_evaluations(1, driver)
        driver.send_signal(number)
        out, err = driver.communicate()
    assert driver.returncode == code, out + err
    assert "Traceback" not in out + err
    assert "Continue with: gaplab resume small-" in out
    assert "running" not in bench.states()
    assert {a.state for a in bench.attempts()} <= {state, "succeeded"}
    assert state in bench.states()
    gate.open()
    bench.gaplab("resume")
    assert bench.metrics() == undisturbed(spec)


def test_two_workers_measure_what_one_does(
    write_spec: Write, history: History, undisturbed: Undisturbed
) -> None:
    """Only the order of float sums differs, so a few steps agree to far less than 0.1 points."""
    quick = {"epochs": 2, "batch": 4, "warmup_steps": 4}
    spec = write_spec(training=quick, assignment={"name": "dual"})
    events = history.bench.events("run", spec, "--set", "resources.workers=2")
    assert set(events[-1]["states"].values()) == {"succeeded"}
    (trial,) = events[-1]["states"]
    one, found = undisturbed(spec), history.bench.metrics()
    two = {key: metrics for key, metrics in found.items() if key[0] == trial}
    assert one.keys() == two.keys()
    for key in one:
        assert two[key] == pytest.approx(one[key], abs=0.1)


@full
def test_a_search_that_proposes_and_stops_early(write_spec: Write, bench: Bench) -> None:
    """A killed driver, too: the search continues from the ledger."""
    pytest.importorskip("optuna")
    space = {"training.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    spec = write_spec(
        search={"method": "optuna", "trials": 6, "startup": 2, "space": space},
        stop={"rule": "asha", "after": 1, "keep": 2},
        training={"epochs": 4, "batch": 4, "warmup_steps": 4},
    )
    with bench.start("run", spec) as driver:
        bench.wait_for_evaluations(6, driver)
        driver.kill()
        driver.communicate()
    bench.gaplab("resume")
    states = bench.states()
    assert sum(states.values()) == 6
    assert set(states) == {"succeeded", "stopped"}
    reached = {key[0]: key[1] for key in sorted(bench.metrics())}
    stopped = [each for each in bench.attempts() if each.state == "stopped"]
    assert {reached[each.trial] for each in stopped} <= {1, 2}
    assert all("epoch" in each.reason for each in stopped)
    assert sorted(reached.values()).count(4) == states[TrialState.SUCCEEDED]
    assert "6 trials, 6 already done, nothing to train" in bench.gaplab("resume")
    assert "nothing to run" in bench.gaplab("plan", spec)
