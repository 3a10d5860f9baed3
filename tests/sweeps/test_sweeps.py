"""The command line on a real Ray cluster that it starts itself: run, fail, kill, resume."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]
FULL = os.environ.get("CHAOS") == "full"
full = pytest.mark.skipif(not FULL, reason="a fault of `make chaos`")


@pytest.fixture
def sweep(write_spec: Write) -> Path:
    """Three trials long enough to be caught in the middle."""
    return write_spec(
        grid={"assignment.name": ["center", "fcos", "dual"]},
        assignment={"name": "fcos"},
        training={"epochs": 6, "batch": 4, "warmup_steps": 4},
    )


def test_a_sweep_with_a_failing_trial_and_what_is_left_of_it(write_spec: Write, bench: Any) -> None:
    quick = {"epochs": 2, "batch": 4, "warmup_steps": 0, "clip_norm": 0.0}
    spec = write_spec(grid={"training.lr": [0.001, 1e30], "seed": [0]}, training=quick)
    said = bench.gaplab("run", spec, code=1)
    assert "poto seed 0: epoch 2/2, AP" in said
    assert "failed: loss is not finite at step " in said
    assert "gaplab resume small-" in said
    assert [(a.state, a.fault) for a in bench.attempts() if a.state == "failed"] == [
        ("failed", "input")  # and is not tried again
    ]
    (row,) = json.loads(bench.gaplab("leaderboard", "--json"))
    wanted = {"assignment": "poto", "family": "o2o", "dataset": "shapes", "seed": 0, "epoch": 2}
    assert {key: row[key] for key in wanted} == wanted
    assert row["gap"] == pytest.approx(row["ap"] - row["ap_nms"], abs=2e-4)
    again = bench.gaplab("run", spec, "--set", "training.lr=0.001")
    assert "1 trial, 1 already done, nothing to train" in again
    assert row["trial"] in bench.gaplab("show", row["trial"][:6])


def assert_closed(bench: Any, driver: Any, leaks: Any) -> None:
    """Nobody else can reach what a running sweep listens on, and its token shows nowhere."""
    found = bench.listeners(driver)
    assert found
    assert {each.host for each in found} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    token = (bench.home / "ray.token").read_text()
    assert (bench.home / "ray.token").stat().st_mode & 0o077 == 0
    leaks.assert_no_secret_in_argv(token)
    leaks.assert_no_secret(token, bench.home)


def test_a_killed_driver_loses_nothing(
    sweep: Path, bench: Any, undisturbed: Any, leaks: Any
) -> None:
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(3, driver)
        assert_closed(bench, driver, leaks)
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    before = bench.evaluations()
    said = bench.events("resume")
    after = bench.evaluations()
    assert 3 <= len(before) < len(after) == 3 * 6 + 6
    assert bench.metrics() == undisturbed(sweep)
    assert all(before[key] == after[key] for key in before), "rows stay as first written"
    assert max(e["epoch"] for e in said if e["kind"] == "started") > 0, "resumed, not restarted"
    assert set(said[-1]["states"].values()) == {"succeeded"}
    assert {"its driver died"} == {a.reason for a in bench.attempts() if a.state == "interrupted"}
    assert "nothing to train" in bench.gaplab("resume")


@pytest.mark.parametrize(
    ("told", "code", "state"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "preempted", marks=full),
    ],
)
def test_a_driver_that_is_told_to_stop_saves_and_says_how_to_go_on(
    sweep: Path, bench: Any, undisturbed: Any, told: signal.Signals, code: int, state: str
) -> None:
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(1, driver)
        driver.send_signal(told)
        out, err = driver.communicate(timeout=120)
    assert driver.returncode == code, out + err
    assert "Traceback" not in out + err
    assert "Continue with: gaplab resume small-" in out
    assert "running" not in bench.states()
    assert {a.state for a in bench.attempts()} <= {state, "succeeded"}
    assert state in bench.states()
    if FULL:
        bench.gaplab("resume")
        assert bench.metrics() == undisturbed(sweep)


def test_two_workers_measure_what_one_does(write_spec: Write, bench: Any, undisturbed: Any) -> None:
    """Only the order of float sums differs, so that a few steps agree to far below 0.1 points."""
    quick = {"epochs": 2, "batch": 4, "warmup_steps": 4}
    spec = write_spec(training=quick, assignment={"name": "dual"})
    bench.gaplab("run", spec, "--set", "resources.workers=2")
    one, two = undisturbed(spec), bench.metrics()
    assert one.keys() == two.keys()
    for key in one:
        assert two[key] == pytest.approx(one[key], abs=0.1)


def test_what_cannot_fit_is_refused_before_anything_starts(sweep: Path, bench: Any) -> None:
    settings = ("--set", "resources.workers=64", "--set", "training.batch=64")
    said = bench.gaplab("run", sweep, *settings, code=2)
    assert "resources: 64 workers x 1 CPU can't run here" in said
    assert len(said.splitlines()) == 1
    assert bench.evaluations() == {}


@full
def test_a_search_that_proposes_and_stops_early(write_spec: Write, bench: Any) -> None:
    """Killed on the way, too: the search goes on from what the ledger holds."""
    pytest.importorskip("optuna")
    space = {"training.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    spec = write_spec(
        search={"method": "optuna", "trials": 6, "startup": 2, "space": space},
        stop={"rule": "asha", "after": 1, "keep": 2},
        training={"epochs": 4, "batch": 4, "warmup_steps": 4},
    )
    with bench.start("run", spec) as driver:
        bench.wait_for_evaluations(6, driver)
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    bench.gaplab("resume")
    states = bench.states()
    assert sum(states.values()) == 6
    assert set(states) == {"succeeded", "stopped"}
    reached = {key[0]: key[1] for key in sorted(bench.metrics())}
    stopped = [each for each in bench.attempts() if each.state == "stopped"]
    assert {reached[each.trial] for each in stopped} <= {1, 2}
    assert all("epoch" in each.reason for each in stopped)
    assert sorted(reached.values()).count(4) == states["succeeded"]
    assert "6 trials, 6 already done, nothing to train" in bench.gaplab("resume")
    assert "nothing to run" in bench.gaplab("plan", spec)
