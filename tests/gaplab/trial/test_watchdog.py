"""A process without a beat ends, with its stacks kept; others are left alone."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gaplab.records import Cost, EpochDone
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.trial.control import NO_CONTROL, Stop
from gaplab.trial.watchdog import Watchdog, WatchedControl, clear_hangs, hang_reason, watch

pytestmark = pytest.mark.slow

TRIAL = "0123456789ab"

PROGRAM = """
import re, sys, threading, time
from gaplab.trial.control import NO_CONTROL
from gaplab.storage.filesystem import Storage
from gaplab.trial.watchdog import watch

def run_trial():
    if sys.argv[3] == "python":
        threading.Event().wait(60)
    elif sys.argv[3] == "holding the GIL":
        re.match("(a+)+b", "a" * 64)
    elif sys.argv[3] == "killed":
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        for _ in range(100):
            time.sleep(0.05)
            control.beat()

with watch(NO_CONTROL, sys.argv[2], Storage(sys.argv[1]), float(sys.argv[4])) as control:
    run_trial()
print("done")
"""


def run(home: Path, how: str, seconds: float = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(home), TRIAL, how, str(seconds)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("python", r"wait \([^/]+/threading\.py:\d+\)"),
        ("holding the GIL", r"match \(re/__init__\.py:\d+\)"),
    ],
)
def test_a_process_that_hangs_ends_and_says_where(tmp_path: Path, how: str, where: str) -> None:
    said = run(tmp_path, how)
    assert (said.returncode, said.stdout) == (1, "")
    reason = hang_reason(TRIAL, Storage(str(tmp_path)))
    assert reason is not None
    pattern = rf"no step within 1 s \(resources\.hang_seconds\): stuck in {where}; stacks in (\S+)"
    match = re.fullmatch(pattern, reason)
    assert match, reason
    (stacks,) = Path(match[1]).iterdir()
    assert "in run_trial" in stacks.read_text()
    clear_hangs(TRIAL, Storage(str(tmp_path)))
    assert hang_reason(TRIAL, Storage(str(tmp_path))) is None


def test_beats_keep_a_process_alive(tmp_path: Path) -> None:
    """Longer than the limit."""
    said = run(tmp_path, "beating", seconds=4)
    assert (said.returncode, said.stdout) == (0, "done\n"), said.stderr
    assert hang_reason(TRIAL, Storage(str(tmp_path))) is None
    assert list((tmp_path / "trials" / TRIAL / "hang").iterdir()) == []


def test_another_death_is_no_hang(tmp_path: Path) -> None:
    assert run(tmp_path, "killed").returncode == -9
    assert hang_reason(TRIAL, Storage(str(tmp_path))) is None


def test_nothing_there_is_no_hang(tmp_path: Path) -> None:
    clear_hangs(TRIAL, Storage(str(tmp_path)))
    assert hang_reason(TRIAL, Storage(str(tmp_path))) is None


class Timer:
    """Stands for faulthandler, and for the clock."""

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


def test_beats_are_cheap_and_never_bite_early(timer: Timer, tmp_path: Path) -> None:
    """However often beats come, the timer ends no sooner than the limit after the last one."""
    dog = Watchdog(tmp_path / "hang.txt", 100.0)
    for _ in range(1000):
        timer.now += 1.0
        dog.beat()
        at, seconds = timer.set[-1]
        assert timer.now + 100.0 <= at + seconds <= timer.now + 105.0
    assert len(timer.set) == 1 + 1000 // 5
    dog.close()
    assert timer.set[-1][1] == 0.0


def test_a_control_in_between_passes_everything_on(timer: Timer, tmp_path: Path) -> None:
    class Loud:
        beats = 0

        def order(self) -> Stop:
            return Stop(TrialState.CANCELLED, "x")

        def beat(self) -> None:
            self.beats += 1

        def may_continue(self, done: EpochDone) -> bool:
            return done.epoch != 1

    loud, dog = Loud(), Watchdog(tmp_path / "hang.txt", 100.0)
    between = WatchedControl(loud, dog)
    assert between.order() == Stop(TrialState.CANCELLED, "x")
    told = [between.may_continue(EpochDone(TRIAL, n, 3, {}, (), "", Cost())) for n in (1, 2)]
    assert told == [False, True]
    timer.now += 50
    between.beat()
    assert loud.beats == 1
    assert timer.set[-1][0] == 50
    dog.close()


def test_an_object_store_gets_no_stacks_but_the_process_is_watched(
    timer: Timer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    nowhere: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr(storage, "local_path", nowhere)
    with watch(NO_CONTROL, TRIAL, storage, 100.0):
        assert timer.set == [(0.0, 105.0)]
    assert timer.set[-1] == (0.0, 0.0)
    assert list((tmp_path / "trials" / TRIAL / "hang").iterdir()) == []


STACKS = """limit 9 s
Timeout (0:00:09.45)!
Thread 0x00007f (most recent call first):
  File "/x/ray/worker.py", line 8 in listen

Thread 0x00007e (most recent call first):
  File "/x/{place}", line 7 in {what}
  File "/x/gaplab/trial.py", line 61 in run_trial
"""


def test_of_several_workers_each_place_is_named_once(tmp_path: Path) -> None:
    """One hangs, two wait for it, one was merely killed."""
    places = [
        ("torch/dist.py", "all_reduce"),
        ("a/disk.py", "read"),
        ("torch/dist.py", "all_reduce"),
    ]
    texts = [STACKS.format(place=place, what=what) for place, what in places]
    storage = Storage(str(tmp_path))
    for number, text in enumerate([*texts, "limit 9 s\n", ""]):
        storage.save_text(f"trials/{TRIAL}/hang/node-{number}.txt", text)
    assert hang_reason(TRIAL, storage) == (
        "no step within 9 s (resources.hang_seconds): stuck in all_reduce (torch/dist.py:7), "
        f"read (a/disk.py:7); stacks in {tmp_path}/trials/{TRIAL}/hang"
    )
