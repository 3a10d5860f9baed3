"""What was read from a COCO file is kept in a file: equal, found again, and replaced if damaged."""

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from detectors.data import cache, coco_index, index_file
from detectors.data.coco_index import Index, read_index
from detectors.data.index_file import stored_index
from tests.detectors.data.random_coco import random_coco, written
from tests.detectors.data.small_coco import coco, document, write
from tests.detectors.data.test_coco_blocks import shown


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep files of any size in a folder of the test."""
    monkeypatch.setenv("GAPLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_file, "LEAST_BYTES", 0)
    cache._warn.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a file with annotations of every kind."""
    path = tmp_path / "train.json"
    path.write_bytes(written(random_coco(5, 0.2), 5))
    return path


def kept(folder: Path) -> list[Path]:
    return [*folder.glob("*.arrow")]


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail if annotations are read."""

    def read(path: Path) -> Index:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(coco_index, "read_index", read)


@pytest.mark.parametrize("bad", [0.0, 0.3])
def test_random_files_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    paths = [tmp_path / f"{seed}.json" for seed in range(12)]
    for seed, path in enumerate(paths):
        path.write_bytes(written(random_coco(seed, bad), seed))
    expected = [shown(read_index(path)) for path in paths]
    assert [shown(stored_index(path)) for path in paths] == expected
    forbid(monkeypatch)
    assert [shown(stored_index(path)) for path in paths] == expected


def test_a_data_set_that_is_found_again(tmp_path: Path) -> None:
    root = write(tmp_path / "pets")
    first, second = (coco(root, title=title) for title in ("a", "b"))
    prints, notes = first.fingerprint(), first.load("train").notes
    assert second.fingerprint() == prints
    assert second.load("train").notes == notes
    for a, b in zip(first.load("train").truth(), second.load("train").truth(), strict=True):
        assert str(a) == str(b)


def test_small_files_are_not_kept(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_file, "LEAST_BYTES", path.stat().st_size + 1)
    stored_index(path)
    assert not folder.exists()


def test_notes_name_the_file_that_is_read(tmp_path: Path) -> None:
    content = document()
    content["categories"] += [{"id": 1, "name": "cat", "supercategory": "cat"}]
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    for path in paths:
        path.write_text(json.dumps(content))
        (note,) = stored_index(path).notes
        assert note.startswith(f"{path}: left out category 1 (cat)")


def test_a_file_without_sizes_is_not_kept(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(written(random_coco(3, 0.0, unsized=1.0), 0))
    assert shown(stored_index(path)) == shown(read_index(path))
    assert kept(folder) == []


def test_changed_annotations_are_read_again(tmp_path: Path, path: Path, folder: Path) -> None:
    before = shown(stored_index(path))
    path.write_bytes(written(random_coco(6, 0.2), 5))
    assert shown(stored_index(path)) == shown(read_index(path)) != before
    assert len(kept(folder)) == 2


def test_annotations_that_change_while_they_are_read(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> Index:
        path.write_bytes(written(random_coco(7, 0.0), 0))
        return read_index(path)

    monkeypatch.setattr(coco_index, "read_index", read)
    assert shown(stored_index(path)) == shown(read_index(path))
    assert kept(folder) == []


def flipped(at: float) -> Callable[[Path], None]:
    """Change one byte."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(at * len(content))] ^= 0x11
        path.write_bytes(content)

    return damage


def cut(part: float) -> Callable[[Path], Any]:
    """Keep only the first part."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


DAMAGES: list[Callable[[Path], Any]] = [
    *map(flipped, (0.001, *(i / 41 for i in range(1, 41)), 0.999)),
    *map(cut, (0.0, 0.01, 0.5, 0.9999)),
    lambda path: path.write_text("this is no Arrow file"),
]


def test_a_damaged_file_is_made_again(path: Path, folder: Path) -> None:
    expected = shown(stored_index(path))
    (file,) = kept(folder)
    for damage in DAMAGES:
        damage(file)
        assert shown(stored_index(path)) == expected
        assert index_file._read(file) is not None


def test_code_that_has_changed_reads_again(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_index(path)
    monkeypatch.setattr(index_file, "code_digest", lambda: "other")
    stored_index(path)
    assert len(kept(folder)) == 2


# A cache that can't be used -----------------------------------------------------------------------


def no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file")


def full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *rest: object, **more: object) -> bool:
        path.write_text("a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index_file, "_write", fail)


@pytest.mark.parametrize(
    ("spoil", "why"), [(no_folder, "File exists"), (full, "No space left on device")]
)
def test_a_cache_that_cannot_be_written_is_one_line(
    path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    why: str,
) -> None:
    spoil(folder, monkeypatch)
    expected = shown(read_index(path))
    with caplog.at_level(logging.WARNING):
        assert [shown(stored_index(path)) for _ in range(2)] == [expected] * 2
    (line,) = caplog.messages
    assert line.startswith(f"{folder}: can't be written ({why}); every process reads the data")
    assert not [*folder.parent.rglob("*.new")]


def test_another_process_that_never_ends_is_not_waited_for(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shown(stored_index(path))
    (file,) = kept(folder)
    file.unlink()
    monkeypatch.setattr(cache, "WAIT", 0.0)
    with file.with_suffix(".lock").open("a") as held:
        fcntl.flock(held.fileno(), fcntl.LOCK_EX)
        assert shown(stored_index(path)) == expected
    assert kept(folder) == [file]


def test_several_at_once_read_the_annotations_once(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, together = [], Barrier(4)

    def read(path: Path) -> Index:
        reads.append(path)
        return read_index(path)

    def one(_: int) -> Any:
        together.wait()
        return shown(stored_index(path))

    monkeypatch.setattr(coco_index, "read_index", read)
    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(one, range(4))] == [shown(read_index(path))] * 4
    assert len(reads) == 1
    assert not [*folder.glob("*.new")]


@pytest.mark.parametrize(
    ("given", "below"),
    [("GAPLAB_CACHE", "."), ("XDG_CACHE_HOME", "gaplab"), ("HOME", ".cache/gaplab")],
)
def test_where_the_cache_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, below: str
) -> None:
    for name in ("GAPLAB_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(given, str(tmp_path))
    assert cache.cache_folder() == tmp_path / below


def test_a_user_without_a_home_has_no_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GAPLAB_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert shown(stored_index(path)) == shown(read_index(path))


def test_a_file_has_the_permissions_that_the_user_wants(path: Path, folder: Path) -> None:
    """The folder may be shared by several users."""
    before = os.umask(0o027)
    try:
        stored_index(path)
    finally:
        os.umask(before)
    (file,) = kept(folder)
    assert file.stat().st_mode & 0o777 == 0o640


def test_what_is_not_used_any_more_is_removed(path: Path, folder: Path, tmp_path: Path) -> None:
    stored_index(path)
    (used,) = kept(folder)
    old = [used.with_name(f"{'0' * 32}-{'1' * 16}{end}") for end in (".arrow", ".lock", "-2.new")]
    others = [folder / "notes.json", folder / "headers.arrow", old[0].with_suffix(".txt")]
    for each in (*old, *others):
        each.write_text("")
    for each in (*old, *others, used):
        os.utime(each, (1, 1))
    stored_index(path)
    (other := tmp_path / "other.json").write_bytes(written(random_coco(6, 0.0), 5))
    stored_index(other)
    assert not any(each.exists() for each in old)
    assert all(each.exists() for each in (*others, used))


def test_copies_of_a_file_share_what_is_kept(
    tmp_path: Path, path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shown(stored_index(path))
    copy = Path(shutil.copy(path, tmp_path / "copy.json"))
    forbid(monkeypatch)
    assert shown(stored_index(copy)) == expected
    assert len(kept(folder)) == 1
