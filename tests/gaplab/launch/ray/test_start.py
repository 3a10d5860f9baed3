"""What keeps Ray from starting on this machine: folders, shared memory and limits."""

import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from ray._common.utils import get_default_ray_temp_dir

from gaplab.launch.ray.start import start_problems, temporary_folder


class Usage(NamedTuple):
    free: int


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def lines(folder: Path, shared: Path | None = None) -> list[str]:
    return [str(each) for each in start_problems(folder / "ray", shared or folder)]


def test_a_sound_machine(short: Path) -> None:
    assert lines(short) == []
    assert lines(short / "not" / "yet", short) == []
    assert list(short.iterdir()) == [], "nothing is created"


def test_a_folder_that_is_not_absolute(short: Path) -> None:
    (line,) = lines(Path("here"), short)
    assert line == (
        "Ray's temporary folder here/ray is not an absolute path; set RAY_TMPDIR to the absolute "
        "path of a folder that you can write"
    )


@pytest.mark.parametrize("longer", range(12))
def test_a_folder_whose_sockets_have_too_long_a_path(short: Path, longer: int) -> None:
    name = "session_2026-11-29_16-10-13_478488_" + str(os.getpid())
    rest = len(os.fsencode(short / "ray" / name / "sockets" / "plasma_store"))
    folder = short / ("x" * (101 - rest + longer))
    path = folder / "ray" / name / "sockets" / "plasma_store"
    with (
        socket.socket(socket.AF_UNIX) as one,
        pytest.raises(OSError, match=r"AF_UNIX|No such") as e,
    ):
        one.bind(str(path))
    too_long = "too long" in str(e.value)  # else there is no such folder
    assert any("is too long by" in line for line in lines(folder, short)) == too_long
    assert too_long == (longer > 5)


def test_a_folder_in_which_nothing_can_be_created(short: Path) -> None:
    (short / "file").touch()
    (line,) = lines(short / "file", short)
    assert f"{short}/file/ray can't be written (Not a directory); set RAY_TMPDIR" in line
    (line,) = lines(Path("/proc"), short)  # also for root
    assert "/proc/ray can't be written (" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_another_user(short: Path) -> None:
    (short / "ray").mkdir(mode=0o555)
    (line,) = lines(short)
    assert f"{short}/ray can't be written (Permission denied); set RAY_TMPDIR" in line


def test_a_full_disk(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(3 * 2**19))
    (line,) = lines(short)
    assert f"{short}/ray has 1.5 MiB of free space, and Ray needs 16; free space there, or" in line


@pytest.mark.parametrize("shared", [Path("/nothing/here"), Path("/proc")])
def test_no_shared_memory(short: Path, shared: Path) -> None:
    (line,) = lines(short, shared)
    assert line.startswith(f"shared memory: {shared} can't be written (No such file or directory)")
    assert line.endswith("mount a tmpfs there (in a container: --shm-size=1g)")


@pytest.mark.parametrize(
    ("limit", "enough"), [(40, False), (63, False), (64, True), (resource.RLIM_INFINITY, True)]
)
def test_too_few_open_files(
    short: Path, monkeypatch: pytest.MonkeyPatch, limit: int, enough: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, limit))
    assert (lines(short) == []) == enough
    if not enough:
        assert lines(short)[0].startswith(f"a process may open {limit} files, and Ray needs 64")


def test_all_problems_are_found_at_once(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, 40))
    assert len(lines(Path("here"), Path("/nothing"))) == 3


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TMPDIR": "/a"},
        {"RAY_TMPDIR": "/b"},
        {"TMPDIR": "/a", "RAY_TMPDIR": "/b"},
        {"RAY_TMPDIR": ""},
    ],
)
def test_the_folder_is_the_one_that_ray_uses(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert str(temporary_folder(os.environ)) == get_default_ray_temp_dir()
