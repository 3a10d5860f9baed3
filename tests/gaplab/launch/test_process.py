"""Which processes are running, asked about real ones."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gaplab.launch import process
from gaplab.launch.process import has_died, running_processes, this_process
from gaplab.records import Process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")

Child = tuple["subprocess.Popen[str]", Process]
REPORT = """
import sys
from gaplab.launch.process import this_process
print(*vars(this_process()).values(), flush=True)
sys.stdin.read()
"""
"""Prints the identity of its process and waits."""


@contextmanager
def started(code: str) -> Iterator[Child]:
    """Run a program that begins with REPORT, with the identity that it reports."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        machine, pid, born = running.stdout.readline().split()
        yield running, Process(machine, int(pid), int(born))
        running.kill()


@pytest.fixture
def child() -> Iterator[Child]:
    with started(REPORT) as found:
        yield found


def test_a_child_is_running_until_it_is_killed(child: Child) -> None:
    running, known = child
    assert (known.machine, known.pid) == (process.machine_id(), running.pid)
    assert running_processes([known]) == {known}
    assert not has_died(known)
    running.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)  # dead, but not reaped: a zombie
    assert Path(f"/proc/{running.pid}/stat").exists()
    assert running_processes([known]) == set()
    assert has_died(known)
    running.wait()
    assert running_processes([known]) == set()
    assert has_died(known)
    assert not has_died(replace(known, machine="another"))


def test_a_suspended_process_is_running(child: Child) -> None:
    running, known = child
    running.send_signal(signal.SIGSTOP)
    assert running_processes([known]) == {known}
    running.send_signal(signal.SIGCONT)


def test_a_process_id_that_is_used_again_is_another_process() -> None:
    mine = this_process()
    earlier, elsewhere = replace(mine, born=mine.born - 1), replace(mine, machine="other boot")
    assert mine.born > 0
    assert running_processes([earlier, elsewhere]) == set()
    assert running_processes([earlier, mine, elsewhere, mine]) == {mine}
    assert running_processes([]) == set()


def test_a_process_name_that_looks_like_other_fields() -> None:
    """The kernel puts the name of a program into the line of fields, whatever it holds."""
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b'x) Z 1 1', 0, 0, 0)\n"
    with started(rename + REPORT) as (_, known):
        assert "(x) Z 1 1)" in Path(f"/proc/{known.pid}/stat").read_text()
        assert running_processes([known]) == {known}


def test_without_proc_only_this_process_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "_PROC", tmp_path)
    mine = this_process()
    assert running_processes([mine]) == {mine}
    other = replace(mine, machine=f"{process.node_name()}:{os.getpid() + 1}")
    assert running_processes([other]) == set()
