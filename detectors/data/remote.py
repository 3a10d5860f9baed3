"""Data sets in object stores: copied to this machine once, for all of its processes.

A copy lies in `remote` in the cache folder (see `cache`). Its name is a digest of the address and
of the names, sizes and times of all files, so changed data is copied anew. A process that uses a
copy holds a shared lock on it until it ends; copies that nobody uses are removed, those that were
used longest ago first, when room is needed for another one.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pyarrow.fs

from detectors.data.base import DataError
from detectors.data.cache import cache_folder

GIB = 2**30
LIMIT = "GAPLAB_CACHE_GIB"
"""Environment variable with the largest size of all copies together, in GiB."""
DEFAULT_GIB = 200.0
THREADS = 16
"""Files that are copied at the same time."""
_COMPLETE = ".complete"
_held: dict[Path, int] = {}
"""Copy -> the descriptor of its lock, which this process holds until it ends."""


def is_remote(root: str) -> bool:
    """Return whether a root is an address, such as s3://bucket/folder."""
    return "://" in root


def plain_root(root: str) -> str:
    """Return the absolute path of a local root, also of a file:// address; others as they are."""
    address = urlsplit(root)
    if address.scheme == "file" and address.netloc in ("", "localhost"):
        root = unquote(address.path)
    if not is_remote(root):
        return os.path.abspath(root)
    scheme, _, rest = root.partition("://")
    return f"{scheme}://{rest.rstrip('/')}"


def local_root(root: str) -> Path:
    """Return the folder of a data set on this machine, which is copied there if it is remote.

    Raises:
        DataError: the address can't be read, the data is larger than the limit or the disk, or
            there is no cache folder.
    """
    return _copy_of(root) if is_remote(root) else Path(root)


@dataclass(frozen=True)
class _Remote:
    """A remote folder: its address, where it is in a file system, and its files."""

    root: str
    system: Any
    base: str
    files: dict[str, tuple[int, int]]
    """Path relative to the folder -> size, and time of the last change in nanoseconds."""

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.files.values())

    @property
    def name(self) -> str:
        listed = [self.root, *(f"{p}\0{s}\0{t}" for p, (s, t) in sorted(self.files.items()))]
        return hashlib.sha256("\0\0".join(listed).encode("utf-8", "surrogatepass")).hexdigest()[:32]


@cache
def _copy_of(root: str) -> Path:
    folder = cache_folder()
    if folder is None:
        raise DataError([f"{root}: no folder for a copy; set GAPLAB_CACHE to one"])
    remote = _listed(root)
    path = folder / "remote" / remote.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fill(remote, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free space" if full else "allow writing there"
        raise DataError(
            [
                f"{root}: can't be copied to {path.parent}: {_one_line(error)}; {remedy}, or set "
                "GAPLAB_CACHE to another folder"
            ]
        ) from error
    return path


def _listed(root: str) -> _Remote:
    """List a remote folder."""
    try:
        if not root.partition("://")[2]:
            raise ValueError("no bucket or folder in the address")
        system, base = open_address(root)
        found = system.get_file_info(pyarrow.fs.FileSelector(base, recursive=True))
    except Exception as error:  # of any kind, from the clients of many stores
        raise DataError(
            [f"{root}: can't be read: {_one_line(error)}; correct `root`, or the access to it"]
        ) from error
    files = {
        each.path[len(base) :].lstrip("/"): (each.size, each.mtime_ns or 0)
        for each in found
        if each.is_file
    }
    if bad := [name for name in files if ".." in PurePosixPath(name).parts]:
        raise DataError([f"{root}: {bad[0]}: leads out of the folder; rename it"])
    if not files:
        raise DataError([f"{root}: no files there; set `root` to the data set's folder"])
    return _Remote(root, system, base, files)


def open_address(root: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    system, base = pyarrow.fs.FileSystem.from_uri(root)
    return system, base.rstrip("/")


def _fill(remote: _Remote, path: Path) -> None:
    """Make a copy complete, unless it is, and hold its lock. Raises OSError."""
    lock = _locked(path)
    try:
        while not (path / _COMPLETE).exists():
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits for a process that is copying
            if not (path / _COMPLETE).exists():
                _make_room(remote, path)
                _copy(remote, path)
            fcntl.flock(lock, fcntl.LOCK_SH)  # not at once: another one may remove the copy before
        os.utime(path / _COMPLETE)
    except BaseException:
        os.close(lock)
        raise
    _held[path] = lock


def _locked(path: Path) -> int:
    """Return the descriptor of a copy's lock, held together with others."""
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _copy(remote: _Remote, path: Path) -> None:
    """Copy the files that are missing. What is there of an interrupted copy is used."""

    def copy(name: str) -> None:
        target = path / name
        if target.is_file() and target.stat().st_size == remote.files[name][0]:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{uuid4().hex}.part")
        try:
            source = remote.system.open_input_stream(f"{remote.base}/{name}")
            with source, part.open("wb") as file:
                shutil.copyfileobj(source, file, 2**20)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(copy, name) for name in sorted(remote.files)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    (path / _COMPLETE).touch()


def _make_room(remote: _Remote, path: Path) -> None:
    """Remove unused copies until another one fits. Raises DataError if it can't."""
    limit = _limit()
    others = [each for each in path.parent.glob(f"*/{_COMPLETE}") if each.parent != path]
    unused = sorted(others, key=lambda each: each.stat().st_mtime)
    sizes = {each.parent: _size(each.parent) for each in others}
    present = _size(path) if path.exists() else 0

    def missing() -> str:
        needed = remote.size - present
        if sum(sizes.values()) + remote.size > limit:
            return f"the limit of {limit / GIB:.1f} GiB for all copies ({LIMIT})"
        free = shutil.disk_usage(path.parent).free
        return f"the {free / GIB:.1f} GiB that are free in {path.parent}" if free < needed else ""

    while missing() and unused:
        oldest = unused.pop(0).parent
        if _removed(oldest):
            del sizes[oldest]
    if problem := missing():
        raise DataError(
            [
                f"{remote.root}: {remote.size / GIB:.1f} GiB are more than {problem}; raise it, "
                "free space, or set GAPLAB_CACHE to another folder"
            ]
        )


def _limit() -> float:
    """Return the largest number of bytes of all copies."""
    given = os.environ.get(LIMIT, str(DEFAULT_GIB))
    try:
        limit = float(given)
    except ValueError:
        limit = -1
    if not 0 < limit < float("inf"):
        raise DataError([f"{LIMIT}: must be a number above 0, got {given!r}"])
    return limit * GIB


def _removed(path: Path) -> bool:
    """Remove a copy unless a process uses it."""
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        (path / _COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(lock)


def _size(path: Path) -> int:
    """Return the bytes of all files of a copy."""
    return sum(each.stat().st_size for each in _files(path))


def _files(path: Path) -> Iterable[Path]:
    return (each for each in path.rglob("*") if each.is_file())


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
