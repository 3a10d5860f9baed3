"""Ends a process that makes no step any more, even one that is stuck in C code.

Python's faulthandler waits in a thread of its own, which needs nothing from Python: when no beat
came for too long it writes the stacks of all threads into a file and ends the process. The file
lies beside the trial's checkpoints, so that a driver on another machine reads why a worker died.
With an object store for a storage that can't be: there the stacks stay in a temporary folder of the
worker's machine, and the driver only sees that the process died.
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

from gaplab.records import EpochDone
from gaplab.storage.filesystem import Storage
from gaplab.trial.control import Control, Stop

SLACK = 0.05
"""Share of the limit for which beats are not passed on: setting the timer costs more than asking.
The process ends between 1 and 1 + SLACK times the limit after its last beat."""
_HEAD = re.compile(r"limit (\S+) s\n(?=.)")
_FRAME = re.compile(r'File "(?:[^"]*?/)??([^/"]+(?:/[^/"]+)?)", line (\d+) in (.+)')


class Watchdog:
    """Ends this process when `seconds` pass without a beat, until it is closed.

    file: gets the stacks then, after what it already holds. One for each process at a time.
    """

    def __init__(self, file: Path, seconds: float) -> None:
        self._file = file.open("ab", buffering=0)
        self._seconds, self._slack = seconds, seconds * SLACK
        self._set()

    def beat(self) -> None:
        """The process is well."""
        if time.monotonic() - self._since >= self._slack:
            self._set()

    def close(self) -> None:
        """Watch no longer."""
        faulthandler.cancel_dump_traceback_later()
        self._file.close()

    def _set(self) -> None:
        self._since = time.monotonic()
        limit = self._seconds + self._slack
        faulthandler.dump_traceback_later(limit, exit=True, file=self._file)


class Watched:
    """A control whose beats also reach a watchdog."""

    def __init__(self, control: Control, watchdog: Watchdog) -> None:
        self._control, self._watchdog = control, watchdog

    def order(self) -> Stop | None:
        """What the control says."""
        return self._control.order()

    def beat(self) -> None:
        """For both."""
        self._watchdog.beat()
        self._control.beat()

    def may_go_on(self, done: EpochDone) -> bool:
        """What the control says."""
        return self._control.may_go_on(done)


@contextmanager
def watched(control: Control, trial: str, storage: Storage, seconds: float) -> Iterator[Control]:
    """A control for `trial` in this process, which dies when it gets no beat for `seconds`.

    Raises StorageError where the file for the stacks can't be written.
    """
    name = f"{_folder(trial)}/{socket.gethostname()}-{os.getpid()}.txt"
    storage.save_text(name, f"limit {seconds:g} s\n")
    path = storage.local_path(name)
    watchdog = Watchdog(path or Path(tempfile.mkdtemp(prefix="gaplab-hang-")) / "hang.txt", seconds)
    try:
        yield Watched(control, watchdog)
    finally:
        watchdog.close()
        storage.delete(name)


def clear(trial: str, storage: Storage) -> None:
    """Forget what earlier attempts at `trial` hung in."""
    for name in storage.names(_folder(trial)):
        storage.delete(f"{_folder(trial)}/{name}")


def hang_reason(trial: str, storage: Storage) -> str | None:
    """Why processes of the running attempt at `trial` were ended by their watchdogs, on one line.

    Of several workers one hangs, and the others in waiting for it. None where none was ended so. To
    be asked when a process died without a word.
    """
    texts = [_text(storage, f"{_folder(trial)}/{n}") for n in storage.names(_folder(trial))]
    hung = [(head[1], _where(text)) for text in texts if (head := _HEAD.match(text))]
    if not hung:
        return None
    where = ", ".join(dict.fromkeys(frame for _, frame in hung if frame)) or "an unknown place"
    return (
        f"no step within {hung[0][0]} s (resources.hang_seconds): stuck in {where}; "
        f"stacks in {storage.uri}/{_folder(trial)}"
    )


def _text(storage: Storage, name: str) -> str:
    """What a process wrote; empty where it has ended well since we looked."""
    try:
        return storage.read(name).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _where(text: str) -> str:
    """The innermost frame of the thread that ran the trial."""
    threads = [part for part in text.split("\n\n") if " in run_trial\n" in part] or [text]
    frame = _FRAME.search(threads[0])
    return f"{frame[3]} ({frame[1]}:{frame[2]})" if frame else ""


def _folder(trial: str) -> str:
    return f"trials/{trial}/hang"
