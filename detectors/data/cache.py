"""Files that are made from data once per machine and read by all processes.

They lie in the folder in the environment variable GAPLAB_CACHE, or else in `gaplab` in the user's
cache folder, and may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

WAIT = 300.0
"""Seconds that a process waits for another one that makes the same file. Then it does so, too."""
_POLL = 0.1
KEPT = 90 * 86400.0
"""Seconds after its last use for which a file is kept."""
_OWN = re.compile(r"(headers-)?[0-9a-f]{32}[0-9a-f-]*\.(arrow|json|lock|new)")
"""Names of files of the cache. Its folder may hold others."""

Content = TypeVar("Content")


def cache_folder() -> Path | None:
    """Return the folder of the cache, which need not exist; None if the user has no home."""
    if given := os.environ.get("GAPLAB_CACHE"):
        return Path(os.path.abspath(os.path.expanduser(given)))
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(users, "gaplab") if os.path.isabs(users) else None


@cache
def code_digest() -> str:
    """Return a digest of the code that reads data, to be part of names of files."""
    whole = hashlib.sha256(" ".join(map(version, ("pyarrow", "pillow"))).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def stored(
    name: str,
    read: Callable[[Path], Content | None],
    build: Callable[[], Content],
    write: Callable[[Path, Content], bool],
) -> Content:
    """Return the content of a file of the cache, which is made if there is none.

    A file that can't be written costs time only: a line is logged once, and the content is that of
    `build`.

    Args:
        name: of the file. Its content must depend on the name alone.
        read: returns the content of a file; None if it is missing or damaged.
        build: makes the content.
        write: writes it to a new file; False if it is not to be kept. Raises OSError.
    """
    folder = cache_folder()
    if folder is None:
        return build()
    path = folder / name
    found = _used(path, read)
    if found is not None:
        return found
    with _alone(path):
        found = read(path)  # of a process that was faster
        if found is not None:
            return found
        built = build()
        try:
            kept = _replace(path, lambda new: write(new, built))
        except OSError as error:
            _warn(str(path.parent), error.strerror or str(error))
            return built
        return (read(path) if kept else None) or built


def _used(path: Path, read: Callable[[Path], Content | None]) -> Content | None:
    """Read a file, and set its time."""
    found = read(path)
    if found is not None:
        with contextlib.suppress(OSError):  # of a file of another user
            os.utime(path)
    return found


def _replace(path: Path, write: Callable[[Path], bool]) -> bool:
    """Write a file and give it its name only when it is complete. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_old(path.parent)
    new = path.with_name(f"{path.stem}-{uuid4().hex}.new")
    try:
        kept = write(new)
        if kept:
            os.replace(new, path)
        return kept
    finally:
        with contextlib.suppress(OSError):
            os.unlink(new)


def _remove_old(folder: Path) -> None:
    """Remove files of the cache that were not used for a long time."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if _OWN.fullmatch(path.name) and time.time() - path.stat().st_mtime > KEPT:
                path.unlink()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock on a file of the cache, as far as that is possible in time.

    The lock ends with its process.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.with_suffix(".lock").open("a"))
            end = time.monotonic() + WAIT
            while not _locked(file.fileno()) and time.monotonic() < end:
                time.sleep(_POLL)
        yield


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@cache
def _warn(folder: str, why: str) -> None:
    logging.getLogger(__name__).warning(
        "%s: can't be written (%s); every process reads the data itself: allow writing there, free "
        "space, or set GAPLAB_CACHE to another folder",
        folder,
        " ".join(why.split()),
    )
