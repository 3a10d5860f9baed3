"""The home folder: there, writable, with room, and closed to others."""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gaplab.cli.doctor.finding import Finding, Level

TOKEN = "ray.token"
_PLAIN = ("ledger.db", "mlflow.db")
_GIB = 2**30
_LITTLE, _SOME = 1, 10  # GiB free


@dataclass(frozen=True)
class Folder:
    """The home folder; where it isn't there yet, `free` and `writable` are of the one above it.

    free: bytes; mode: permission bits; files: those of the files that matter and are there.
    """

    path: Path
    exists: bool
    writable: bool
    free: int
    mode: int = 0o700
    files: Mapping[str, int] = field(default_factory=dict)


def look(path: Path) -> Folder:
    """The folder as it is. Makes nothing."""
    there = next(each for each in (path, *path.parents) if each.is_dir())
    writable, free = os.access(there, os.W_OK | os.X_OK), shutil.disk_usage(there).free
    if there != path:
        return Folder(path, False, writable and not path.exists(), free)
    names = (TOKEN, *_PLAIN)
    files = {name: mode(path / name) for name in names if (path / name).exists()}
    return Folder(path, True, writable, free, mode(path), files)


def mode(path: Path) -> int:
    """Permission bits. Raises OSError."""
    return stat.S_IMODE(path.stat().st_mode)


def check_folder(folder: Folder) -> list[Finding]:
    """One finding for each thing that can be wrong with it."""
    found = [_there(folder), _room(folder)]
    if folder.exists:
        found.append(_open_to_others("home folder", folder.path, folder.mode))
    return found + list(_files(folder))


def check_secret(check: str, path: Path, bits: int) -> Finding:
    """A file that nobody else may read."""
    if bits & 0o077:
        what = f"{path} is open to others (mode {bits:04o})"
        return Finding("problem", check, what, f"chmod 600 {path}, and make a new token")
    return Finding("ok", check, f"{path}, for this user alone")


def _there(folder: Folder) -> Finding:
    if not folder.writable:
        remedy = "allow writing there, or use another --home"
        return Finding("problem", "home", f"{folder.path} can't be written", remedy)
    later = "" if folder.exists else " is not there yet; the first command that needs it makes it"
    return Finding("ok", "home", f"{folder.path}{later}")


def _room(folder: Folder) -> Finding:
    free = folder.free / _GIB
    what = f"{free:.1f} GiB are free for {folder.path}"
    if free >= _SOME:
        return Finding("ok", "disk", what)
    level: Level = "problem" if free < _LITTLE else "warn"
    return Finding(level, "disk", what, "free space: checkpoints and candidates take gigabytes")


def _open_to_others(check: str, path: Path, bits: int) -> Finding:
    """Something that others may read, but not change."""
    if bits & stat.S_IWOTH:
        what = f"everybody may change {path} (mode {bits:04o})"
        return Finding("problem", check, what, f"chmod o-w {path}")
    if bits & stat.S_IWGRP:
        what = f"its group may change {path} (mode {bits:04o})"
        return Finding("warn", check, what, f"chmod g-w {path} unless you trust the group")
    return Finding("ok", check, f"no other user may change {path}")


def _files(folder: Folder) -> Iterator[Finding]:
    for name, bits in folder.files.items():
        path = folder.path / name
        if name == TOKEN:
            yield check_secret("token", path, bits)
        else:
            yield _open_to_others(name, path, bits)
