"""Files of a storage: written completely or not at all, and never outside of its root."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.errors import StorageError, UserError
from gaplab.storage.filesystem import Storage, stored_path


def test_round_trip_and_replacement(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        storage.read("trials/x/a.bin")
    for text in (b"\0\1", b""):
        uri = storage.save_bytes("trials/x/a.bin", text)
        assert storage.read("trials/x/a.bin") == text
    assert uri == f"{tmp_path}/trials/x/a.bin"
    assert storage.local_path("trials/x/a.bin") == tmp_path / "trials/x/a.bin"
    assert [p.name for p in (tmp_path / "trials/x").iterdir()] == ["a.bin"]


ACTIONS: dict[str, Callable[[Storage, str], object]] = {
    "write": lambda storage, name: storage.save_text(name, "x"),
    "read": lambda storage, name: storage.read(name),
    "list": lambda storage, name: storage.names(name),
    "list all": lambda storage, name: storage.below(name),
    "move": lambda storage, name: storage.move(name, "b"),
    "move there": lambda storage, name: storage.move("b", name),
    "delete": lambda storage, name: storage.delete(name),
    "place": lambda storage, name: storage.local_path(name),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "name", ["..", "../a", "a/../../b", "a/..", "/etc/x", "a//b", "a/", "./a", "a\\..\\b", "a\0b"]
)
def test_names_that_lead_out_are_rejected(tmp_path: Path, action: str, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "a").write_text("outside")
    with pytest.raises(UserError, match=r"leads out of .*/inside; give a plain path below it$"):
        ACTIONS[action](Storage(str(inside)), name)
    assert (tmp_path / "a").read_text() == "outside"
    assert list(inside.iterdir()) == []


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b.pt", "..."]), min_size=1, max_size=6))
def test_accepted_names_are_below_the_root(parts: list[str]) -> None:
    storage = Storage("/root/of/all")
    try:
        path = storage.local_path("/".join(parts))
    except UserError:
        return
    assert path is not None
    assert os.path.normpath(path) == str(path)
    assert str(path).startswith("/root/of/all/")


@pytest.mark.parametrize("folder", ["home", "a b", "a?b", "a%20b", "größe#"])
def test_relative_paths_lead_to_the_files_after_a_move(tmp_path: Path, folder: str) -> None:
    storage = Storage(str(tmp_path / folder))
    stored = storage.relative(storage.save_text("trials/x/a.txt", "text"))
    assert stored == "trials/x/a.txt"
    (tmp_path / folder).rename(tmp_path / "moved")
    moved = Storage(str(tmp_path / "moved"))
    assert Path(moved.locate(stored)) == tmp_path / "moved" / "trials/x/a.txt"
    other, name = Storage.of(moved.locate(stored))
    assert other.read(name) == b"text"


@pytest.mark.parametrize("uri", ["/elsewhere/a.txt", "s3://bucket/a.txt", "file:///x/a.txt"])
def test_uris_outside_of_the_storage_stay_absolute(tmp_path: Path, uri: str) -> None:
    storage = Storage(str(tmp_path))
    assert storage.relative(uri) == storage.locate(uri) == uri


def test_stored_paths_lead_nowhere_else(tmp_path: Path) -> None:
    for stored in ("../x", "a/../../x", "a\0b", ""):
        with pytest.raises(UserError, match="leads out"):
            Storage(str(tmp_path)).locate(stored)


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("/old/home/trials/t1/candidates/branch=o2o", "trials/t1/candidates/branch=o2o"),
        ("/a/trials/b/trials/t1/a.txt", "trials/t1/a.txt"),
        ("/old/home/trials/t2/a.txt", "/old/home/trials/t2/a.txt"),
        ("trials/t1/a.txt", "trials/t1/a.txt"),
        ("s3://bucket/trials/t1/a.txt", "s3://bucket/trials/t1/a.txt"),
        ("", ""),
    ],
)
def test_absolute_paths_of_earlier_versions(uri: str, stored: str) -> None:
    assert stored_path(uri, "t1") == stored


def test_text(tmp_path: Path) -> None:
    assert Path(Storage(str(tmp_path)).save_text("t/traceback.txt", "é\n")).read_text() == "é\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.save_text("a.txt", "old")

    def fail(name: str, error: type[BaseException]) -> None:
        with storage.writing(name) as stream:
            stream.write(b"half of the ne")
            raise error

    for name, error in (("a.txt", ZeroDivisionError), ("b.txt", KeyboardInterrupt)):
        with pytest.raises(error):
            fail(name, error)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_two_writers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with storage.writing("a.txt") as first, storage.writing("a.txt") as second:
        first.write(b"first" * 1000)
        second.write(b"second")
    assert (tmp_path / "a.txt").read_bytes() == b"first" * 1000
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=r"trials/x/a\.txt: can't be written \(.+\); free space"):
        Storage(str(tmp_path)).save_text("trials/x/a.txt", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["trials"]


@pytest.mark.parametrize("uri", ["", "relative/folder", "nowhere://bucket/folder"])
def test_invalid_uris(uri: str) -> None:
    with pytest.raises(UserError, match=f"^{uri}: can't be used as storage .*; give an absolute"):
        Storage(uri)


def test_names_and_deletion(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for name in ("a b/2.txt", "a b/1.txt", "a b/deeper/3.txt", "0.txt"):
        storage.save_text(name, name)
    assert storage.names("a b") == Storage(f"{tmp_path}/a b").names("") == ["1.txt", "2.txt"]
    assert storage.names("nowhere") == []
    storage.delete("a b/1.txt")
    storage.delete("a b/1.txt")
    assert storage.names("a b") == ["2.txt"]
    other, name = Storage.of(f"{tmp_path}/a b/2.txt")
    assert other.open(name).read() == b"a b/2.txt"


def test_reading_matches_does_not_import_torch() -> None:
    code = (
        "import sys, gaplab.storage.matches, gaplab.results.export; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_a_folder_cannot_be_deleted_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError, match=r"/a: can't be deleted \(.+\); allow writing there"):
        Storage(str(tmp_path)).delete("a")


def test_files_below_a_folder_and_moving(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert storage.below("a") == []
    for name in ("a/1.txt", "a/b/2.txt", "a/b/c/3.txt", "ab/4.txt"):
        storage.save_text(name, name)
    assert storage.below("a") == ["1.txt", "b/2.txt", "b/c/3.txt"]
    storage.move("a/b/2.txt", "a/new/folder/2.txt")
    storage.move("ab/4.txt", "a/1.txt")
    assert storage.below("a") == ["1.txt", "b/c/3.txt", "new/folder/2.txt"]
    assert storage.read("a/1.txt") == b"ab/4.txt"
    with pytest.raises(StorageError, match=r"a/none: can't be moved to b \(.*\); allow writing"):
        storage.move("a/none", "b")
