"""Many faults in running sweeps, for `make chaos`.

`make test` has one of each kind: killed drivers and workers in test_sweeps.py, and without a
cluster a ledger that is locked, restarts or has a full disk in contracts/test_retry.py, several
drivers and their deaths in contracts/test_leases.py and launch/test_queue.py, damaged checkpoints
in trial/test_checkpoints.py and trial/test_resume.py, hangs in trial/test_watchdog.py, MLflow that
is down in mirror/.

Whatever happens, every evaluation is there once and equal, digit by digit, to that of the same
trials trained undisturbed; attempts are numbered without a gap, and no trial is trained twice.
"""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sweeps.bench import (
    FULL,
    TIMEOUT,
    Bench,
    Gate,
    Metrics,
    TwoNodes,
    have_ended,
    kill,
    patched_after_import,
)

if TYPE_CHECKING:
    from tests.conftest import Postgres

Write = Callable[..., Path]
Undisturbed = Callable[[Path], Metrics]
Report = Callable[[str, int, Bench, int], None]
pytestmark = [
    pytest.mark.timeout(TIMEOUT),
    pytest.mark.skipif(not FULL, reason="part of `make chaos`"),
]


@pytest.fixture
def sweep(write_spec: Write) -> Path:
    """Twelve trials, which take some minutes."""
    return write_spec(
        grid={"assignment.name": ["center", "fcos"], "seed": list(range(6))},
        assignment={"name": "center"},
        training={"epochs": 6, "batch": 4, "warmup_steps": 4},
        run={"retries": 50, "backoff_seconds": 0.2, "lease_seconds": 5},
    )


def check(bench: Bench, expected: Metrics) -> None:
    """Assert that the sweep is complete and its evaluations are right."""
    assert set(bench.states()) == {"succeeded"}
    assert bench.metrics() == expected
    bench.attempts()


def test_killed_workers(
    sweep: Path,
    either: Bench,
    undisturbed: Undisturbed,
    dice: random.Random,
    report: Report,
) -> None:
    expected, done = undisturbed(sweep), 0
    with either.start("run", sweep) as driver:
        either.wait_for(lambda: either.workers(driver), driver)
        while done < 20 and driver.poll() is None:
            time.sleep(dice.uniform(0.2, 2.0))
            if alive := either.workers(driver):
                done += kill(dice.choice(alive))
        out, err = driver.communicate()
    assert driver.returncode == 0, out + err
    assert "Traceback" not in out + err
    assert "(raylet)" not in out + err
    check(either, expected)
    lost = [each for each in either.attempts() if each.state == "failed"]
    assert lost
    assert {each.fault for each in lost} == {"lost"}
    report("a training worker killed at a random moment", done, either, len(expected))


DRIVER = """
import os, signal, sys
from gaplab.ledger import Ledger

point, when, write = int(sys.argv.pop(1)), sys.argv.pop(1), Ledger._write
count, heartbeat = 0, ("renew_lease", "mark_lost", "mark_orphaned_lost")

def counted(self, action, *given):
    global count
    beats = action.__name__ in heartbeat  # one that starts slowly would never get further
    count += not beats
    fatal = count == point and not beats
    if fatal and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    found = write(self, action, *given)
    if fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

Ledger._write = counted
from gaplab.cli import main
main()
"""
"""The command, killed before or after its n-th write to the ledger, heartbeats not counted."""


def test_a_driver_killed_at_a_write(
    sweep: Path, either: Bench, undisturbed: Undisturbed, report: Report
) -> None:
    expected, killed, point = undisturbed(sweep), 0, 0
    step = 1
    while True:
        point += step
        when = "before" if killed % 2 else "after"
        command = (sys.executable, "-c", DRIVER, str(point), when)
        with either.start("run", sweep, command=command) as driver:
            out, err = driver.communicate()
        if driver.returncode != -signal.SIGKILL:
            break
        killed += 1
    assert driver.returncode == 0, out + err
    assert killed
    check(either, expected)
    report("the driver killed at a write to the ledger", killed, either, len(expected))


@pytest.mark.parametrize("count", [2, 4])
def test_several_drivers(
    sweep: Path,
    either: Bench,
    undisturbed: Undisturbed,
    dice: random.Random,
    report: Report,
    count: int,
) -> None:
    expected = undisturbed(sweep)
    with ExitStack() as stack:
        drivers = [stack.enter_context(either.start("run", sweep)) for _ in range(count)]
        either.wait_for_evaluations(1)
        time.sleep(dice.uniform(0.0, 1.0))
        drivers[0].kill()
        for driver in drivers:
            out, err = driver.communicate()
            assert driver is drivers[0] or driver.returncode == 0, out + err
    check(either, expected)
    report(f"one of {count} drivers on one sweep killed", 1, either, len(expected))


def damage(file: Path, dice: random.Random, flip: bool) -> None:
    """Flip one bit of a file, or cut it short."""
    data = bytearray(file.read_bytes())
    position = dice.randrange(len(data))
    if flip:
        data[position] ^= 1 << dice.randrange(8)
    file.write_bytes(data if flip else data[:position])


@pytest.mark.parametrize("flip", [True, False])
def test_damaged_checkpoints(
    sweep: Path,
    bench: Bench,
    undisturbed: Undisturbed,
    dice: random.Random,
    report: Report,
    flip: bool,
) -> None:
    expected = undisturbed(sweep)
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(4, driver)
        orphans = bench.workers(driver)  # they continue for a moment, and save
        driver.kill()
        driver.communicate()
    bench.wait_for(lambda: have_ended(orphans))
    folders = (bench.home / "trials").glob("*/checkpoints")
    found = [list(folder.glob("*.pt")) for folder in folders]
    newest = [max(files) for files in found if files]  # a trial may have saved nothing yet
    for file in newest:
        damage(file, dice, flip)
    output = bench.gaplab("resume")
    assert "damaged checkpoint" in output
    check(bench, expected)
    kind = "with one bit flipped" if flip else "cut short"
    report(f"newest checkpoints {kind}", len(newest), bench, len(expected))


FAULTY = patched_after_import(
    "detectors.engine",
    """
import ctypes

def patch(module):
    step = module.train_step
    def faulty(learner, batch, progress):
        if learner.training.lr == 0.0011 and progress.step == 6:
            ctypes.PyDLL(None).pause()  # holds the interpreter's lock forever
        if learner.training.lr == 0.0012 and progress.step == 6:
            module.torch.empty(10**15)
        return step(learner, batch, progress)
    module.train_step = faulty
""",
)
"""Makes two learning rates fatal: one hangs in C code, one asks for a petabyte."""


def test_a_hang_a_loss_that_is_nan_and_too_little_memory_affect_no_other_trial(
    write_spec: Write, bench: Bench, tmp_path: Path, undisturbed: Undisturbed, report: Report
) -> None:
    rates = {"good": 0.001, "nan": 1e30, "hang": 0.0011, "memory": 0.0012, "good too": 0.002}
    spec = write_spec(
        rows={name: {"training.lr": rate} for name, rate in rates.items()},
        training={"epochs": 4, "batch": 4, "warmup_steps": 0, "clip_norm": 0.0},
        run={"retries": 0},
        resources={"hang_seconds": 20},
    )
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(FAULTY)
    bench.environment["PYTHONPATH"] = str(tmp_path / "faults")
    output = bench.gaplab("run", spec, code=1)
    ends = {a.fault: a.reason for a in bench.attempts() if a.state == "failed"}
    assert set(ends) == {"input", "hang", "memory"}
    assert "loss is not finite" in ends["input"]
    assert "no step within 20 s" in ends["hang"]
    assert "stuck in faulty" in ends["hang"]
    assert ends["hang"] in output
    assert bench.states() == {"succeeded": 2, "failed": 3}
    expected = (
        2 * 4 + 2 * 1
    )  # the sixth step is in the second epoch; the loss is bad from the start
    assert len(bench.evaluations()) == expected
    report("a hang, a loss that is not finite, too little memory", 3, bench, expected)


def test_mlflow_down_for_the_whole_sweep(
    sweep: Path, bench: Bench, undisturbed: Undisturbed, report: Report
) -> None:
    expected = undisturbed(sweep)
    bench.home.mkdir()
    (bench.home / "mlflow.db").mkdir()  # no database can be there
    output = bench.gaplab("run", sweep)
    assert "gaplab mirror" in output
    check(bench, expected)
    (bench.home / "mlflow.db").rmdir()
    bench.gaplab("mirror")
    last = {trial: metrics["ap"] for (trial, epoch, _), metrics in expected.items() if epoch == 6}
    assert mirrored(bench.home) == last
    report("MLflow down for the whole sweep", 1, bench, len(expected))


def mirrored(home: Path) -> dict[str, float]:
    """Return the last AP of each trial in MLflow's database, read without MLflow."""
    query = """
        SELECT t.value, m.value FROM latest_metrics m JOIN tags t ON t.run_uuid = m.run_uuid
        WHERE t.key = 'gaplab.trial' AND m.key = 'ap'
    """
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        return dict(database.execute(query).fetchall())


def test_a_ledger_that_is_locked_for_long(
    sweep: Path, bench: Bench, undisturbed: Undisturbed, report: Report
) -> None:
    """For longer than SQLite waits by itself."""
    expected = undisturbed(sweep)
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(1, driver)
        with closing(sqlite3.connect(bench.home / "ledger.db", timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(45)
            other.rollback()
        out, err = driver.communicate()
    assert driver.returncode == 0, out + err
    check(bench, expected)
    assert not [each for each in bench.attempts() if each.number > 1]
    report("the ledger locked for 45 s", 1, bench, len(expected))


def test_a_ledger_that_restarts(
    sweep: Path, bench: Bench, undisturbed: Undisturbed, own_postgres: "Postgres", report: Report
) -> None:
    expected, restarts = undisturbed(sweep), 3
    bench.ledger = own_postgres.url
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(1, driver)
        for _ in range(restarts):
            own_postgres.stop()
            time.sleep(10)
            own_postgres.start()
            time.sleep(3)
        out, err = driver.communicate()
    assert driver.returncode == 0, out + err
    assert "the ledger doesn't answer" in out
    check(bench, expected)
    report("PostgreSQL restarted", restarts, bench, len(expected))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(
    sweep: Path, small_disk: Path, undisturbed: Undisturbed, bench: Bench, report: Report
) -> None:
    expected, bench.home = undisturbed(sweep), small_disk / "home"
    bench.ledger = f"sqlite:///{bench.home}/ledger.db"
    ballast = small_disk / "ballast"
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(1, driver)
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        out, err = driver.communicate()
    assert driver.returncode in (1, 2), out + err
    assert "Traceback" not in out + err
    assert "No space left" in out + err or "disk is full" in out + err
    ballast.unlink()
    bench.gaplab("resume")
    check(bench, expected)
    report("the disk of the home folder full", 1, bench, len(expected))


def test_a_node_is_lost_and_another_added(
    sweep: Path, either: Bench, undisturbed: Undisturbed, two_nodes: TwoNodes, report: Report
) -> None:
    expected = undisturbed(sweep)
    either.environment |= two_nodes.environment
    with either.start("run", sweep, "--address", two_nodes.address) as driver:
        either.wait_for_evaluations(2, driver)
        two_nodes("kill", "second")
        time.sleep(2)
        two_nodes("add", "third")
        out, err = driver.communicate()
    assert driver.returncode == 0, out + err
    check(either, expected)
    report("a node of two killed, another added", 1, either, len(expected))


DRAIN = """
import subprocess, sys, ray
from ray.scripts.scripts import main
_, address, name = sys.argv
ray.init(address, logging_level="ERROR", log_to_driver=False)
[node] = [each["NodeID"] for each in ray.nodes() if each["NodeName"] == name]
why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
why += ["--deadline-remaining-seconds=60"]
sys.argv = ["ray", "drain-node", f"--address={address}", f"--node-id={node}", *why]
main()
"""
"""Does what an autoscaler does at the notice of a cloud: it asks Ray to drain the node."""


def test_a_node_that_is_drained(
    write_spec: Write,
    bench: Bench,
    undisturbed: Undisturbed,
    two_nodes: TwoNodes,
    gate: Gate,
    report: Report,
) -> None:
    sweep = write_spec(grid={"seed": [0, 1, 2]}, training={"epochs": 4, "batch": 4})
    gate.close()
    expected = undisturbed(sweep)
    bench.environment |= two_nodes.environment
    with bench.start("run", sweep, "--address", two_nodes.address) as driver:
        bench.wait_for_evaluations(2, driver)
        drain = [sys.executable, "-W", "ignore", "-c", DRAIN, two_nodes.address, "second"]
        subprocess.run(drain, env=bench.variables(), check=True, capture_output=True)
        bench.wait_for(lambda: {a.state for a in bench.attempts()} >= {"preempted"}, driver)
        two_nodes("kill", "second")
        gate.open()
        out, err = driver.communicate()
    assert driver.returncode == 0, out + err
    assert "Traceback" not in out + err
    check(bench, expected)
    ends = {each.state: each.reason for each in bench.attempts()}
    assert ends == {"succeeded": "", "preempted": "its machine is about to be taken away"}
    report("a node of two drained, then killed", 1, bench, len(expected))
