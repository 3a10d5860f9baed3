"""What can keep Ray from starting a cluster on this machine, found before it starts.

Ray itself raises an error of its own kind for each, after up to a minute.
"""

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from gaplab.formatting import plural
from gaplab.launch.ray.address import RayProblem

FREE_MIB = 16
"""Free space in the temporary folder below which Ray is not started."""
DESCRIPTORS = 64
"""Limit of open files below which Ray is not started."""
SHARED_MEMORY = Path("/dev/shm")
_SOCKET = "session_2026-01-02_03-04-05_123456_{pid}/sockets/plasma_store"
"""The longest path of a socket, relative to the temporary folder."""
_SOCKET_BYTES = 107  # the system's limit
_OTHER_FOLDER = "set RAY_TMPDIR to the absolute path of a folder that you can write"


def temporary_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of Ray's sockets and logs: `ray` in RAY_TMPDIR, else in TMPDIR or /tmp."""
    return Path(environ.get("RAY_TMPDIR", environ.get("TMPDIR", "/tmp")), "ray")


def start_problems(folder: Path, shared: Path = SHARED_MEMORY) -> list[RayProblem]:
    """Return why Ray can't start here; empty if it can, as far as is known. Nothing is changed.

    Args:
        folder: Ray's temporary folder, see `temporary_folder`.
        shared: the folder of shared memory.
    """
    return [*_folder_problems(folder), *_memory_problems(shared), *_descriptor_problems()]


def _folder_problems(folder: Path) -> Iterator[RayProblem]:
    name = f"Ray's temporary folder {folder}"
    length = len(os.fsencode(folder / _SOCKET.format(pid=os.getpid())))
    if not folder.is_absolute():
        yield RayProblem(f"{name} is not an absolute path", _OTHER_FOLDER)
    elif length > _SOCKET_BYTES:
        what = f"{name} is too long by {plural(length - _SOCKET_BYTES, 'byte')}"
        yield RayProblem(what, "set RAY_TMPDIR to a short absolute path")
    elif reason := _write_problem(folder):
        yield RayProblem(f"{name} can't be written ({reason})", _OTHER_FOLDER)
    elif (free := shutil.disk_usage(_existing(folder)).free / 2**20) < FREE_MIB:
        what = f"{name} has {free:.1f} MiB of free space, and Ray needs {FREE_MIB}"
        yield RayProblem(what, f"free space there, or {_OTHER_FOLDER}")


def _memory_problems(shared: Path) -> Iterator[RayProblem]:
    if reason := _write_problem(shared) if shared.exists() else os.strerror(errno.ENOENT):
        remedy = "mount a tmpfs there (in a container: --shm-size=1g)"
        yield RayProblem(f"shared memory: {shared} can't be written ({reason})", remedy)


def _descriptor_problems() -> Iterator[RayProblem]:
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < DESCRIPTORS:
        what = f"a process may open {limit} files, and Ray needs {DESCRIPTORS}"
        yield RayProblem(what, "raise the limit: ulimit -n 4096")


def _write_problem(folder: Path) -> str:
    """Return why no file can be created in the folder, or where it would be; empty if one can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())
