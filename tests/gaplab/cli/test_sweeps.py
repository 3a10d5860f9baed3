"""The command line on a real Ray cluster that it starts itself: run, fail, kill, resume."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaplab.launch.attempt import attempt, run_alone
from gaplab.ledger import Ledger
from gaplab.ledger.views import EvaluationView
from gaplab.records import EpochDone, Event
from gaplab.specfile import load_spec
from gaplab.storage import Storage
from gaplab.sweep import expand

Write = Callable[..., Path]
GAPLAB = (sys.executable, "-c", "from gaplab.cli import main; main()")


def environment() -> dict[str, str]:
    hidden = ("RAY_", "GAPLAB_", "MLFLOW_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def start(*words: object, home: Path) -> "subprocess.Popen[str]":
    command = [*GAPLAB, *map(str, words), "--home", str(home)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment())


def gaplab(*words: object, home: Path, code: int = 0) -> str:
    """Run a command to its end; its standard output. The exit code must be `code`."""
    with start(*words, home=home) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
    assert "Traceback" not in out + err
    return out if code != 2 else err


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def evaluations(home: Path) -> dict[tuple[str, int, str], EvaluationView]:
    """Every evaluation in the ledger; none may be there twice."""
    with Ledger.open(f"sqlite:///{home}/ledger.db") as ledger:
        trials = {t.id for s in ledger.sweeps() for t in ledger.trials(s.id)}
        rows = [e for trial in trials for e in ledger.evaluations(trial)]
    found = {(e.trial, e.epoch, e.branch): e for e in rows}
    assert len(found) == len(rows)
    return found


def undisturbed(spec: Path, folder: Path) -> dict[tuple[str, int, str], dict[str, float]]:
    """Metrics of the same trials trained in this process, without Ray or a ledger."""
    events: list[Event] = []
    for trial in expand(load_spec(spec)).trials:
        attempt(trial, Storage(str(folder)), events.append, run_alone)
    said = [e for event in events if isinstance(event, EpochDone) for e in event.evaluations]
    return {(e.trial, e.epoch, e.branch): e.metrics for e in said}


def wait_for_evaluations(home: Path, count: int, process: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        assert process.poll() is None, "the driver ended too early"
        if (home / "ledger.db").exists() and len(evaluations(home)) >= count:
            return
        time.sleep(0.1)
    raise AssertionError("no evaluation after two minutes")


@pytest.fixture
def sweep(write_spec: Write) -> Path:
    """Three trials long enough to be caught in the middle."""
    return write_spec(
        grid={"assignment.name": ["center", "fcos", "dual"]},
        assignment={"name": "fcos"},
        training={"epochs": 6, "batch": 4, "warmup_steps": 4},
    )


def test_a_sweep_with_a_failing_trial_and_what_is_left_of_it(
    write_spec: Write, tmp_path: Path
) -> None:
    home, quick = tmp_path / "home", {"epochs": 2, "batch": 4, "warmup_steps": 0, "clip_norm": 0.0}
    spec = write_spec(grid={"training.lr": [0.001, 1e30], "seed": [0]}, training=quick)
    said = gaplab("run", spec, home=home, code=1)
    assert "poto seed 0: epoch 2/2, AP" in said
    assert "failed: loss is not finite at step " in said
    assert "gaplab resume small-" in said
    (row,) = json.loads(gaplab("leaderboard", "--json", home=home))
    wanted = {"assignment": "poto", "family": "o2o", "dataset": "shapes", "seed": 0, "epoch": 2}
    assert {key: row[key] for key in wanted} == wanted
    assert row["gap"] == pytest.approx(row["ap"] - row["ap_nms"], abs=2e-4)
    again = gaplab("run", spec, "--set", "training.lr=0.001", home=home)
    assert "1 trials, 1 already done, nothing to train" in again
    assert row["trial"] in gaplab("show", row["trial"][:6], home=home)


def test_a_killed_driver_loses_nothing(sweep: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with start("run", sweep, home=home) as driver:
        wait_for_evaluations(home, 3, driver)
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    before = evaluations(home)
    said = events(gaplab("resume", "--json", home=home))
    after = evaluations(home)
    assert 3 <= len(before) < len(after) == 3 * 6 + 6
    assert {k: e.metrics for k, e in after.items()} == undisturbed(sweep, tmp_path / "calm")
    assert all(before[key] == after[key] for key in before), "rows stay as first written"
    assert max(e["epoch"] for e in said if e["kind"] == "started") > 0, "resumed, not restarted"
    assert set(said[-1]["states"].values()) == {"succeeded"}
    assert "nothing to train" in gaplab("resume", home=home)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(sweep: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with start("run", sweep, home=home) as driver:
        wait_for_evaluations(home, 1, driver)
        driver.send_signal(signal.SIGINT)
        out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    assert "Traceback" not in out + err
    assert "Go on with: gaplab resume small-" in out
    with Ledger.open(f"sqlite:///{home}/ledger.db") as ledger:
        trials = ledger.trials(ledger.sweeps()[0].id)
        states = {t.state for t in trials}
        ends = {a.state for t in trials for a in ledger.attempts(t.id)}
    assert "running" not in states
    assert ends <= {"interrupted", "succeeded"}
    assert "interrupted" in ends


def test_two_workers_measure_what_one_does(write_spec: Write, tmp_path: Path) -> None:
    """Only the order of float sums differs, so that a few steps agree to far below 0.1 points."""
    quick = {"epochs": 2, "batch": 4, "warmup_steps": 4}
    spec = write_spec(training=quick, assignment={"name": "dual"})
    home = tmp_path / "home"
    gaplab("run", spec, "--set", "resources.workers=2", home=home)
    one, two = undisturbed(spec, tmp_path / "one"), evaluations(home)
    assert one.keys() == two.keys()
    for key in one:
        assert two[key].metrics == pytest.approx(one[key], abs=0.1)


def test_what_cannot_fit_is_refused_before_anything_starts(sweep: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = ("--set", "resources.workers=64", "--set", "training.batch=64")
    said = gaplab("run", sweep, *settings, home=home, code=2)
    assert "resources: 64 workers x 1 CPUs can't run here" in said
    assert len(said.splitlines()) == 1
    assert evaluations(home) == {}
