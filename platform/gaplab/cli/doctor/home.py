"""The home folder: free space and permissions."""

import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from gaplab.cli.doctor.finding import Finding, ok, problem, warn
from gaplab.errors import UserError
from gaplab.storage.home import Home

_TOKEN = "ray.token"
_FILES = (_TOKEN, "ledger.db", "mlflow.db")
_GIB = 2**30
_PROBLEM, _WARN = 1, 10  # GiB of free space below which there is a finding


@dataclass(frozen=True)
class HomeFolder:
    """Facts about a home folder; the nearest existing parent's if there is none yet."""

    path: Path
    exists: bool
    writable: bool
    free: int  # bytes
    mode: int = 0o700  # permission bits
    files: Mapping[str, int] = field(default_factory=dict)  # permission bits of known files
    error: str = ""  # why it can't be read


def inspect_home(home: Home) -> HomeFolder:
    """Return the facts about the folder without creating it."""
    path = home.path
    nearest = next(each for each in (path, *path.parents) if os.path.isdir(each))
    writable, free = os.access(nearest, os.W_OK | os.X_OK), shutil.disk_usage(nearest).free
    if not home.missing:
        try:
            home.check()
        except UserError as error:
            return HomeFolder(path, False, writable, free, error=str(error))
    if nearest != path:
        return HomeFolder(path, False, writable, free)
    files = {name: permissions(path / name) for name in _FILES if (path / name).exists()}
    return HomeFolder(path, True, writable, free, permissions(path), files)


def permissions(path: Path) -> int:
    """Return the permission bits of a file. Raises OSError."""
    return stat.S_IMODE(path.stat().st_mode)


def check_home(home: HomeFolder) -> list[Finding]:
    """Return findings about the folder, its free space and its permissions."""
    found = [_folder(home), _space(home)]
    if home.exists:
        found.append(_writers("home folder", home.path, home.mode))
    for name, mode in home.files.items():
        path = home.path / name
        secret = name == _TOKEN
        found.append(check_secret("token", path, mode) if secret else _writers(name, path, mode))
    return found


def check_secret(check: str, path: Path, mode: int) -> Finding:
    """Return a finding about a file that only its owner may read."""
    if mode & 0o077:
        what = f"other users can access {path} (mode {mode:04o})"
        return problem(check, what, f"chmod 600 {quote(str(path))}, then create a new token")
    return ok(check, f"{path}, accessible to this user only")


def _writers(check: str, path: Path, mode: int) -> Finding:
    """Return a finding about something that others may read but not change."""
    if mode & stat.S_IWOTH:
        what = f"every user can write to {path} (mode {mode:04o})"
        return problem(check, what, f"chmod o-w {quote(str(path))}")
    if mode & stat.S_IWGRP:
        what = f"the group can write to {path} (mode {mode:04o})"
        return warn(check, what, f"chmod g-w {quote(str(path))} unless you trust the group")
    return ok(check, f"other users cannot write to {path}")


def _folder(home: HomeFolder) -> Finding:
    if home.error:
        what, _, remedy = home.error.partition("; ")
        return problem("home", what, remedy)
    if not home.writable:
        what = f"you cannot write to {home.path}: results there can be read, but no sweep can run"
        remedy = "ask its owner, or use another --home"
        return (warn if home.exists else problem)("home", what, remedy)
    later = "" if home.exists else " does not exist yet; `gaplab run` creates it"
    return ok("home", f"{home.path}{later}")


def _space(home: HomeFolder) -> Finding:
    free = home.free / _GIB
    what = f"{free:.1f} GiB free for {home.path}"
    if free >= _WARN:
        return ok("disk", what)
    judge = problem if free < _PROBLEM else warn
    return judge("disk", what, "free some space: checkpoints and candidates take gigabytes")
