"""Ends a process that makes no progress any more, even one that is stuck in C code.

Python's faulthandler waits in a C thread of its own: when no beat has come for too long, it writes
the stacks of all threads into a file and ends the process. The file is beside the checkpoints of
the trial, so that a driver on another machine can read why a worker died. An object store can't
hold such a file: there the stacks stay in a temporary folder of the worker's machine, and the
driver only learns that the process died.
"""

import faulthandler
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaplab.records import EpochDone, StepDone
from gaplab.storage.filesystem import Storage
from gaplab.trial.control import Control, Stop

SLACK = 0.05
"""Fraction of the limit during which further beats are ignored, because resetting the timer costs
more than reading the clock. The process ends between 1 and 1 + SLACK times the limit after its last
beat."""
_HEAD = re.compile(r"limit (\S+) s\n(?=.)")
_FRAME = re.compile(r'File "(?:[^"]*?/)??([^/"]+(?:/[^/"]+)?)", line (\d+) in (.+)')


class Watchdog:
    """Ends this process when `seconds` pass without a beat, until it is closed.

    Only one can exist per process at a time.

    Args:
        file: the stacks are appended to it.
        seconds: the limit.
    """

    def __init__(self, file: Path, seconds: float) -> None:
        self._file = file.open("ab", buffering=0)
        self._seconds, self._slack = seconds, seconds * SLACK
        self._reset()

    def beat(self) -> None:
        """Note that the process makes progress."""
        if time.monotonic() - self._since >= self._slack:
            self._reset()

    def close(self) -> None:
        """Stop watching."""
        faulthandler.cancel_dump_traceback_later()
        self._file.close()

    def _reset(self) -> None:
        self._since = time.monotonic()
        limit = self._seconds + self._slack
        faulthandler.dump_traceback_later(limit, exit=True, file=self._file)


class WatchedControl:
    """A control whose beats also reach a watchdog."""

    def __init__(self, control: Control, watchdog: Watchdog) -> None:
        self._control, self._watchdog = control, watchdog

    def order(self) -> Stop | None:
        """Return the order of the control."""
        return self._control.order()

    def beat(self) -> None:
        """Pass the beat to both."""
        self._watchdog.beat()
        self._control.beat()

    def report(self, step: StepDone) -> None:
        """Pass the step to the control."""
        self._control.report(step)

    def may_continue(self, done: EpochDone) -> bool:
        """Return the answer of the control."""
        return self._control.may_continue(done)


@contextmanager
def watch(control: Control, trial: str, storage: Storage, seconds: float) -> Iterator[Control]:
    """End this process when it gets no beat for `seconds` while the context is open.

    Yields:
        A control that passes everything on to `control` and beats to the watchdog.

    Raises:
        StorageError: if the file for the stacks can't be written.
    """
    name = f"{_folder(trial)}/{socket.gethostname()}-{os.getpid()}.txt"
    storage.save_text(name, f"limit {seconds:g} s\n")
    path = storage.local_path(name)
    watchdog = Watchdog(path or Path(tempfile.mkdtemp(prefix="gaplab-hang-")) / "hang.txt", seconds)
    try:
        yield WatchedControl(control, watchdog)
    finally:
        watchdog.close()
        storage.delete(name)


def clear_hangs(trial: str, storage: Storage) -> None:
    """Delete the stacks of earlier attempts at `trial`."""
    for name in storage.names(_folder(trial)):
        storage.delete(f"{_folder(trial)}/{name}")


def hang_reason(trial: str, storage: Storage) -> str | None:
    """Return in one line where the running attempt at `trial` was stuck when watchdogs ended it.

    To be called when a process has died. With several workers one is stuck and the others wait for
    it, so each location is named once. None if no watchdog has ended a process.
    """
    texts = [_text(storage, f"{_folder(trial)}/{n}") for n in storage.names(_folder(trial))]
    hung = [(head[1], _location(text)) for text in texts if (head := _HEAD.match(text))]
    if not hung:
        return None
    where = ", ".join(dict.fromkeys(each for _, each in hung if each)) or "an unknown location"
    return (
        f"no step within {hung[0][0]} s (resources.hang_seconds): stuck in {where}; "
        f"stacks in {_folder(trial)} of the home folder"
    )


def _text(storage: Storage, name: str) -> str:
    """Return what a process wrote; empty if it has ended well since the files were listed."""
    try:
        return storage.read(name).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _location(text: str) -> str:
    """Return the innermost frame of the thread that ran the trial, or an empty text."""
    threads = [part for part in text.split("\n\n") if " in run_trial\n" in part] or [text]
    frame = _FRAME.search(threads[0])
    return f"{frame[3]} ({frame[1]}:{frame[2]})" if frame else ""


def _folder(trial: str) -> str:
    return f"trials/{trial}/hang"
