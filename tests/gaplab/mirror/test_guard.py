"""A guarded command and its processes end with the program that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from gaplab.mirror import guard

CHILD = """
import subprocess, sys, time
if sys.argv[1:] == ["stubborn"]:
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e6)"])
print(below.pid, flush=True)
if sys.argv[1:] == ["ends"]:
    sys.exit()
time.sleep(1e6)
"""
"""Starts a process below it, prints its id and waits."""
PARENT = """
import subprocess, sys
guarded = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
print(guarded.pid, flush=True)
guarded.wait()
"""


def command(*words: str) -> list[str]:
    return [sys.executable, guard.__file__, sys.executable, "-c", CHILD, *words]


def wait_for_end(group: int) -> None:
    """Wait until no process of a group is left, apart from those that wait for their parent."""
    while any(in_group(each, group) for each in psutil.process_iter()):
        time.sleep(0.05)


def in_group(process: psutil.Process, group: int) -> bool:
    with suppress(psutil.Error, ProcessLookupError):
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def parent() -> Iterator["subprocess.Popen[str]"]:
    """A program that starts a guarded command; it prints the ids of the guard and of a process."""
    line = [sys.executable, "-c", PARENT, *command()]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as started:
        yield started
        started.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_parent_is_killed(parent: "subprocess.Popen[str]", number: signal.Signals) -> None:
    assert parent.stdout is not None
    ids = {int(parent.stdout.readline()) for _ in range(2)}
    (group,) = {os.getpgid(each) for each in ids}
    assert group in ids
    parent.send_signal(number)
    parent.wait()
    wait_for_end(group)


@pytest.mark.parametrize("words", [(), ("ends",)])
def test_the_command_ends_or_is_stopped(words: tuple[str, ...]) -> None:
    with subprocess.Popen(
        command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as started:
        assert started.stdout is not None
        assert started.stdin is not None
        assert int(started.stdout.readline()) > 0
        if not words:
            started.stdin.close()
        started.wait()
    wait_for_end(started.pid)


def test_a_command_that_ignores_the_request_to_stop_is_killed() -> None:
    code = "import sys; from gaplab.mirror.guard import guard; guard(sys.argv[1:], 0.1)"
    line = [sys.executable, "-c", code, *command("stubborn")[2:]]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as started:
        assert started.stdout is not None
        assert started.stdin is not None
        assert int(started.stdout.readline()) > 0
        started.stdin.close()
        started.wait()
    wait_for_end(started.pid)
    assert started.returncode == -signal.SIGKILL
