"""Which processes live, asked of real ones."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gaplab.launch import process
from gaplab.records import Process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")

_TELL = """
import sys
from gaplab.launch.process import this_process
print(*vars(this_process()).values(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[tuple["subprocess.Popen[str]", Process]]:
    """A process that waits, and what it says of itself."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _TELL], text=True, **pipes) as running:
        machine, pid, born = running.stdout.readline().split()
        yield running, Process(machine, int(pid), int(born))
        running.kill()


def test_a_child_lives_until_it_is_killed(child: tuple["subprocess.Popen[str]", Process]) -> None:
    running, known = child
    assert (known.machine, known.pid) == (process.machine_id(), running.pid)
    assert process.running_processes([known]) == {known}
    running.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)  # dead, but not waited for: a zombie
    assert Path(f"/proc/{running.pid}/stat").exists()
    assert process.running_processes([known]) == set()
    running.wait()
    assert process.running_processes([known]) == set()


def test_a_stopped_process_lives(child: tuple["subprocess.Popen[str]", Process]) -> None:
    running, known = child
    running.send_signal(signal.SIGSTOP)
    assert process.running_processes([known]) == {known}
    running.send_signal(signal.SIGCONT)


def test_a_number_that_was_given_again_is_another_process() -> None:
    mine = process.this_process()
    earlier, elsewhere = replace(mine, born=mine.born - 1), replace(mine, machine="other boot")
    assert mine.born > 0
    assert process.running_processes([earlier, elsewhere]) == set()
    assert process.running_processes([earlier, mine, elsewhere, mine]) == {mine}
    assert process.running_processes([]) == set()


def test_a_name_that_looks_like_more_of_the_line() -> None:
    """The kernel puts a program's name into the line, whatever it holds."""
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b'x) Z 1 1', 0, 0, 0)\n" + _TELL
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as running:
        machine, pid, born = running.stdout.readline().split()
        assert "(x) Z 1 1)" in Path(f"/proc/{pid}/stat").read_text()
        known = Process(machine, int(pid), int(born))
        assert process.running_processes([known]) == {known}
        running.kill()


def test_without_proc_no_process_of_another_is_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "_PROC", tmp_path)
    mine = process.this_process()
    assert process.running_processes([mine]) == {mine}
    other = replace(mine, machine=f"{process.node_name()}:{os.getpid() + 1}")
    assert process.running_processes([other]) == set()
