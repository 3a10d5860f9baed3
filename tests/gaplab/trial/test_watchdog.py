"""A process that makes no progress is ended and its stacks are stored; others are left alone."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gaplab.records import Cost, EpochDone, StepDone
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.control import NO_CONTROL, Stop
from gaplab.trial.watchdog import Watchdog, WatchedControl, clear_hangs, hang_reason, watch

TRIAL = "0123456789ab"

PROGRAM = """
import json, os, re, signal, sys, threading, time
from gaplab.trial.control import NO_CONTROL
from gaplab.storage.filesystem import Storage
from gaplab.trial.watchdog import watch

home, limit, behaviours = sys.argv[1], float(sys.argv[2]), sys.argv[3:]

def run_trial(behaviour, control):
    if behaviour == "waits":
        threading.Event().wait()
    elif behaviour == "holds the GIL":
        re.match("(a+)+b", "a" * 64)
    elif behaviour == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif behaviour == "beats":
        file = os.open(f"{home}/last beat", os.O_CREAT | os.O_WRONLY)
        start = time.monotonic()
        while time.monotonic() < start + 2 * limit:
            os.pwrite(file, b"%20.6f" % time.monotonic(), 0)
            control.beat()

children = {}
for behaviour in behaviours:
    child = os.fork()
    if child == 0:
        with watch(NO_CONTROL, behaviour, Storage(home), limit) as control:
            run_trial(behaviour, control)
        os._exit(0)
    children[child] = behaviour
ends = {}
for _ in behaviours:
    child, status = os.wait()
    ends[children[child]] = os.waitstatus_to_exitcode(status), time.monotonic()
print(json.dumps(ends))
"""
"""Runs watched processes, one for each behaviour; prints their exit codes and when they ended. The
behaviour is the id of the trial, too."""


HANGS = {
    "waits": r"wait \([^/]+/threading\.py:\d+\)",
    "holds the GIL": r"match \(re/__init__\.py:\d+\)",
}
"""Behaviours that hang, and where."""


@dataclass(frozen=True)
class Outcome:
    """What became of a watched process: exit code, and when it ended by the monotonic clock."""

    code: int
    ended: float


@dataclass(frozen=True)
class Watched:
    """A home, the limit on the time without a step in seconds, and the ends of processes."""

    home: Path
    limit: int
    ends: dict[str, Outcome]

    @property
    def storage(self) -> Storage:
        return Storage(str(self.home))


def watched(home: Path, limit: int) -> Watched:
    """Run processes that behave so, all at the same time."""
    behaviours = (*HANGS, "is killed", "beats")
    command = [sys.executable, "-c", PROGRAM, str(home), str(limit), *behaviours]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return Watched(home, limit, {k: Outcome(*v) for k, v in json.loads(done.stdout).items()})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Their ends. The limit is longer if the machine is too slow for them to hang within it."""
    for limit in (1, 5, 25):
        found = watched(tmp_path_factory.mktemp("home"), limit)
        reasons = {name: hang_reason(name, found.storage) or "" for name in HANGS}
        if all(re.search(where, reasons[name]) for name, where in HANGS.items()):
            break
    return found


@pytest.mark.parametrize(("behaviour", "where"), HANGS.items())
def test_a_process_that_hangs_is_ended_and_its_location_is_known(
    outcomes: Watched, behaviour: str, where: str
) -> None:
    home = outcomes.home
    assert outcomes.ends[behaviour].code == 1
    reason = hang_reason(behaviour, Storage(str(home)))
    assert reason is not None
    pattern = (
        rf"no step within {outcomes.limit} s \(resources\.hang_seconds\): stuck in {where}; "
        "stacks in (.+) of the home folder"
    )
    match = re.fullmatch(pattern, reason)
    assert match, reason
    (stacks,) = (home / match[1]).iterdir()
    assert "in run_trial" in stacks.read_text()
    clear_hangs(behaviour, Storage(str(home)))
    assert hang_reason(behaviour, Storage(str(home))) is None


def test_a_process_that_beats_is_left_alone(outcomes: Watched) -> None:
    """It runs for longer than the limit. On a slow machine a beat may really come too late."""
    last = float((outcomes.home / "last beat").read_text())
    if outcomes.ends["beats"].ended - last < outcomes.limit:
        assert outcomes.ends["beats"].code == 0
        assert hang_reason("beats", outcomes.storage) is None
        assert list((outcomes.home / "trials" / "beats" / "hang").iterdir()) == []


def test_another_death_is_no_hang(outcomes: Watched) -> None:
    assert outcomes.ends["is killed"].code == -9
    assert hang_reason("is killed", outcomes.storage) is None


def test_without_files_there_is_no_hang(tmp_path: Path) -> None:
    clear_hangs(TRIAL, Storage(str(tmp_path)))
    assert hang_reason(TRIAL, Storage(str(tmp_path))) is None


class Timer:
    """Stands for faulthandler and for the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.set: list[tuple[float, float]] = []

    def dump_traceback_later(self, seconds: float, exit: bool, file: object) -> None:  # noqa: A002
        assert exit
        self.set.append((self.now, seconds))

    def cancel_dump_traceback_later(self) -> None:
        self.set.append((self.now, 0.0))

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Timer:
    made = Timer()
    monkeypatch.setattr("gaplab.trial.watchdog.faulthandler", made)
    monkeypatch.setattr("gaplab.trial.watchdog.time", made)
    return made


def test_the_timer_is_reset_rarely_and_never_ends_early(timer: Timer, tmp_path: Path) -> None:
    """However often beats come, it ends at the limit after the last one or a little later."""
    watchdog = Watchdog(tmp_path / "hang.txt", 100.0)
    for _ in range(1000):
        timer.now += 1.0
        watchdog.beat()
        at, seconds = timer.set[-1]
        assert timer.now + 100.0 <= at + seconds <= timer.now + 105.0
    assert len(timer.set) == 1 + 1000 // 5
    watchdog.close()
    assert timer.set[-1][1] == 0.0


def test_a_watched_control_passes_everything_on(timer: Timer, tmp_path: Path) -> None:
    class Answers:
        beats = 0

        def order(self) -> Stop:
            return Stop(TrialState.CANCELLED, "x")

        def beat(self) -> None:
            self.beats += 1

        def report(self, step: StepDone) -> None:
            self.step = step

        def may_continue(self, done: EpochDone) -> bool:
            return done.epoch != 1

    control, watchdog = Answers(), Watchdog(tmp_path / "hang.txt", 100.0)
    watched = WatchedControl(control, watchdog)
    assert watched.order() == Stop(TrialState.CANCELLED, "x")
    answers = [watched.may_continue(EpochDone(TRIAL, n, 3, {}, (), "", Cost())) for n in (1, 2)]
    assert answers == [False, True]
    timer.now += 50
    watched.beat()
    assert control.beats == 1
    watched.report(step := StepDone(TRIAL, 1, 2, 3, 0.5))
    assert control.step is step
    assert timer.set[-1][0] == 50
    watchdog.close()


def test_with_an_object_store_the_process_is_watched_without_stacks(
    timer: Timer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(storage, "local_path", lambda name: None)
    with watch(NO_CONTROL, TRIAL, storage, 100.0):
        assert timer.set == [(0.0, 105.0)]
    assert timer.set[-1] == (0.0, 0.0)
    assert list((tmp_path / "trials" / TRIAL / "hang").iterdir()) == []


STACKS = """limit 9 s
Timeout (0:00:09.45)!
Thread 0x00007f (most recent call first):
  File "/x/ray/worker.py", line 8 in listen

Thread 0x00007e (most recent call first):
  File "/x/{file}", line 7 in {what}
  File "/x/gaplab/trial/run.py", line 61 in run_trial
"""


def test_each_location_of_several_workers_is_named_once(tmp_path: Path) -> None:
    """One hangs, two wait for it, one was killed otherwise."""
    locations = [
        ("torch/dist.py", "all_reduce"),
        ("a/disk.py", "read"),
        ("torch/dist.py", "all_reduce"),
    ]
    texts = [STACKS.format(file=file, what=what) for file, what in locations]
    storage = Storage(str(tmp_path))
    for number, text in enumerate([*texts, "limit 9 s\n", ""]):
        storage.save_text(f"trials/{TRIAL}/hang/node-{number}.txt", text)
    assert hang_reason(TRIAL, storage) == (
        "no step within 9 s (resources.hang_seconds): stuck in all_reduce (torch/dist.py:7), "
        f"read (a/disk.py:7); stacks in trials/{TRIAL}/hang of the home folder"
    )
