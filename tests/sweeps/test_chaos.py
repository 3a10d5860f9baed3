"""Faults put into running sweeps. `make chaos` puts in many (CHAOS=full), `make test` one kind.

The other kinds have their short form where they cost no cluster: a ledger that is locked, restarts
or fills its disk in contracts/test_patience.py, several drivers and their deaths in test_leases.py
and test_trialqueue.py, damaged checkpoints in test_checkpoints.py and test_resume.py, hangs in
test_watchdog.py and test_group.py, MLflow that is down in test_mirror.py.

Whatever happens: every evaluation exactly once and equal, digit by digit, to those of the same
trials trained undisturbed; attempts numbered without a gap; no trial trained twice.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

FULL = os.environ.get("CHAOS") == "full"
Write = Callable[..., Path]
pytestmark = pytest.mark.timeout(3600 if FULL else 300)
full = pytest.mark.skipif(not FULL, reason="a fault of `make chaos`")


@pytest.fixture
def sweep(write_spec: Write) -> Path:
    """Trials for a few minutes of trouble, or one."""
    return write_spec(
        grid={"assignment.name": ["center", "fcos"], "seed": list(range(6 if FULL else 1))},
        assignment={"name": "center"},
        training={"epochs": 6, "batch": 4, "warmup_steps": 4},
        run={"retries": 50, "backoff_seconds": 0.2, "lease_seconds": 5},
    )


def check(bench: Any, wanted: Any) -> None:
    """The sweep is complete, and what it measured is right."""
    assert set(bench.states()) == {"succeeded"}
    assert bench.metrics() == wanted
    bench.attempts()


def test_killed_workers(sweep: Path, either: Any, undisturbed: Any, dice: Any, report: Any) -> None:
    kills, wanted = 20 if FULL else 2, undisturbed(sweep)
    with either.start("run", sweep) as driver:
        done = 0
        either.wait_for(lambda: either.workers(driver), driver)
        while done < kills and driver.poll() is None:
            time.sleep(dice.uniform(0.2, 2.0))
            if alive := either.workers(driver):
                os.kill(dice.choice(alive), signal.SIGKILL)
                done += 1
        out, err = driver.communicate(timeout=280)
    assert driver.returncode == 0, out + err
    assert "Traceback" not in out + err
    assert "(raylet)" not in out + err
    check(either, wanted)
    lost = [each for each in either.attempts() if each.state == "failed"]
    assert lost
    assert {each.fault for each in lost} == {"lost"}
    report("a training worker killed at a random moment", done, either, len(wanted))


DRIVER = """
import os, signal, sys
from gaplab.ledger import Ledger

point, when, write = int(sys.argv.pop(1)), sys.argv.pop(1), Ledger._write
count, heartbeat = 0, ("renew", "bury", "bury_strangers")

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
"""The command, killed before or after its n-th write to the ledger, heartbeats aside."""


@full
def test_a_driver_killed_at_a_write(
    sweep: Path, either: Any, undisturbed: Any, report: Any
) -> None:
    wanted, killed, point = undisturbed(sweep), 0, 0
    step = 1
    while True:
        point += step
        when = "before" if killed % 2 else "after"
        command = (sys.executable, "-c", DRIVER, str(point), when)
        with either.start("run", sweep, command=command) as driver:
            out, err = driver.communicate(timeout=280)
        if driver.returncode != -signal.SIGKILL:
            break
        killed += 1
    assert driver.returncode == 0, out + err
    assert killed
    check(either, wanted)
    report("the driver killed at a write to the ledger", killed, either, len(wanted))


@full
@pytest.mark.parametrize("count", [2, 4])
def test_several_drivers(
    sweep: Path, either: Any, undisturbed: Any, dice: Any, report: Any, count: int
) -> None:
    wanted = undisturbed(sweep)
    drivers = [either.start("run", sweep) for _ in range(count)]
    either.wait_for(lambda: either.ready() and either.evaluations())
    time.sleep(dice.uniform(0.0, 1.0))
    os.kill(drivers[0].pid, signal.SIGKILL)
    for driver in drivers:
        out, err = driver.communicate(timeout=280)
        assert driver is drivers[0] or driver.returncode == 0, out + err
    check(either, wanted)
    report(f"one of {count} drivers on one sweep killed", 1, either, len(wanted))


def damage(file: Path, dice: Any, flip: bool) -> None:
    """Cut a file short, or turn over one of its bits."""
    data = bytearray(file.read_bytes())
    place = dice.randrange(len(data))
    if flip:
        data[place] ^= 1 << dice.randrange(8)
    file.write_bytes(data if flip else data[:place])


@full
@pytest.mark.parametrize("flip", [True, False])
def test_damaged_checkpoints(
    sweep: Path, bench: Any, undisturbed: Any, dice: Any, report: Any, flip: bool
) -> None:
    wanted = undisturbed(sweep)
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(4, driver)
        orphans = bench.workers(driver)  # they go on for a moment, and save
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    bench.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    folders = list((bench.home / "trials").glob("*/checkpoints"))
    newest = [max(folder.glob("*.pt")) for folder in folders]
    for file in newest:
        damage(file, dice, flip)
    said = bench.gaplab("resume")
    assert "damaged checkpoint" in said
    check(bench, wanted)
    kind = "with a bit turned over" if flip else "cut short"
    report(f"newest checkpoints {kind}", len(newest), bench, len(wanted))


FAULTY = """
import ctypes, importlib.abc, importlib.util, sys
import threading

class Late(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "detectors.engine":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            step = module.train_step
            def faulty(learner, batch, progress):
                if learner.training.lr == 0.0011 and progress.step == 6:
                    ctypes.PyDLL(None).pause()  # holds the interpreter's lock for ever
                if learner.training.lr == 0.0012 and progress.step == 6:
                    module.torch.empty(10**15)
                return step(learner, batch, progress)
            module.train_step = faulty
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Late())
"""
"""Makes two learning rates fatal: one hangs in C code, one asks for a petabyte."""


@full
def test_a_hang_nan_and_too_little_memory_hurt_nobody_else(
    write_spec: Write, bench: Any, tmp_path: Path, undisturbed: Any, report: Any
) -> None:
    rates = {"well": 0.001, "nan": 1e30, "hang": 0.0011, "memory": 0.0012, "well too": 0.002}
    spec = write_spec(
        rows={name: {"training.lr": rate} for name, rate in rates.items()},
        training={"epochs": 4, "batch": 4, "warmup_steps": 0, "clip_norm": 0.0},
        run={"retries": 0},
        resources={"hang_seconds": 20},
    )
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(FAULTY)
    bench.more["PYTHONPATH"] = str(tmp_path / "faults")
    said = bench.gaplab("run", spec, code=1)
    ends = {a.fault: a.reason for a in bench.attempts() if a.state == "failed"}
    assert set(ends) == {"input", "hang", "memory"}
    assert "loss is not finite" in ends["input"]
    assert "no step within 20 s" in ends["hang"]
    assert "stuck in faulty" in ends["hang"]
    assert ends["hang"] in said
    assert bench.states() == {"succeeded": 2, "failed": 3}
    wanted = 2 * 4 + 2 * 1  # the sixth step is in the second epoch; the loss is bad from the start
    assert len(bench.evaluations()) == wanted
    report("a hang, a loss that is not finite, too little memory", 3, bench, wanted)


@full
def test_mlflow_down_for_the_whole_sweep(
    sweep: Path, bench: Any, undisturbed: Any, report: Any
) -> None:
    wanted = undisturbed(sweep)
    bench.home.mkdir()
    (bench.home / "mlflow.db").mkdir()  # no database can be there
    said = bench.gaplab("run", sweep)
    assert "gaplab mirror" in said
    check(bench, wanted)
    (bench.home / "mlflow.db").rmdir()
    bench.gaplab("mirror")
    last = {trial: metrics["ap"] for (trial, epoch, _), metrics in wanted.items() if epoch == 6}
    assert mirrored(bench.home) == last
    report("MLflow down for the whole sweep", 1, bench, len(wanted))


def mirrored(home: Path) -> dict[str, float]:
    """The last AP of each trial in MLflow's database, read past MLflow."""
    query = """
        SELECT t.value, m.value FROM latest_metrics m JOIN tags t ON t.run_uuid = m.run_uuid
        WHERE t.key = 'gaplab.trial' AND m.key = 'ap'
    """
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        return dict(database.execute(query).fetchall())


@full
def test_a_ledger_that_is_locked_for_long(
    sweep: Path, bench: Any, undisturbed: Any, report: Any
) -> None:
    """Longer than SQLite waits by itself."""
    wanted = undisturbed(sweep)
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(1, driver)
        with closing(sqlite3.connect(bench.home / "ledger.db", timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(45)
            other.rollback()
        out, err = driver.communicate(timeout=280)
    assert driver.returncode == 0, out + err
    check(bench, wanted)
    assert not [each for each in bench.attempts() if each.number > 1]
    report("the ledger locked for 45 s", 1, bench, len(wanted))


@full
def test_a_ledger_that_restarts(
    sweep: Path, bench: Any, undisturbed: Any, own_postgres: Any, report: Any
) -> None:
    wanted, restarts = undisturbed(sweep), 3
    bench.ledger = own_postgres.url
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(1, driver)
        for _ in range(restarts):
            own_postgres.stop()
            time.sleep(10)
            own_postgres.start()
            time.sleep(3)
        out, err = driver.communicate(timeout=280)
    assert driver.returncode == 0, out + err
    assert "the ledger doesn't answer" in out
    check(bench, wanted)
    report("PostgreSQL restarted", restarts, bench, len(wanted))


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


@full
def test_a_full_disk(
    sweep: Path, small_disk: Path, undisturbed: Any, bench: Any, report: Any
) -> None:
    wanted, bench.home = undisturbed(sweep), small_disk / "home"
    bench.ledger = f"sqlite:///{bench.home}/ledger.db"
    ballast = small_disk / "ballast"
    with bench.start("run", sweep) as driver:
        bench.wait_for_evaluations(1, driver)
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        out, err = driver.communicate(timeout=280)
    assert driver.returncode in (1, 2), out + err
    assert "Traceback" not in out + err
    assert "No space left" in out + err or "disk is full" in out + err
    ballast.unlink()
    bench.gaplab("resume")
    check(bench, wanted)
    report("the disk of the home folder full", 1, bench, len(wanted))


@full
def test_a_node_goes_away_and_another_joins(
    sweep: Path, either: Any, undisturbed: Any, two_nodes: Any, report: Any
) -> None:
    wanted = undisturbed(sweep)
    either.more |= two_nodes.environment
    with either.start("run", sweep, "--address", two_nodes.address) as driver:
        either.wait_for_evaluations(2, driver)
        two_nodes("kill", "second")
        time.sleep(2)
        two_nodes("add", "third")
        out, err = driver.communicate(timeout=280)
    assert driver.returncode == 0, out + err
    check(either, wanted)
    report("a node of two killed, another joined", 1, either, len(wanted))


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
"""What an autoscaler does when a cloud gives notice: it asks Ray to empty the node."""


@full
def test_a_node_that_is_about_to_be_taken_away(
    write_spec: Write, bench: Any, undisturbed: Any, two_nodes: Any, report: Any
) -> None:
    """Trials long enough to be there still when the word has got round."""
    sweep = write_spec(grid={"seed": [0, 1, 2]}, training={"epochs": 60, "batch": 4})
    wanted, bench.more = undisturbed(sweep), bench.more | two_nodes.environment
    with bench.start("run", sweep, "--address", two_nodes.address) as driver:
        bench.wait_for_evaluations(2, driver)
        drain = [sys.executable, "-W", "ignore", "-c", DRAIN, two_nodes.address, "second"]
        subprocess.run(drain, env=bench.environment(), check=True, capture_output=True)
        bench.wait_for(lambda: {a.state for a in bench.attempts()} >= {"preempted"}, driver)
        two_nodes("kill", "second")
        out, err = driver.communicate(timeout=280)
    assert driver.returncode == 0, out + err
    assert "Traceback" not in out + err
    check(bench, wanted)
    ends = {each.state: each.reason for each in bench.attempts()}
    assert ends == {"succeeded": "", "preempted": "its machine is about to be taken away"}
    report("a node of two emptied, then killed", 1, bench, len(wanted))
