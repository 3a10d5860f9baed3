"""Remote data sets, in a local folder that stands for a store."""

import fcntl
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import torch

from detectors.data import DATASETS, remote
from detectors.data.base import DataError
from detectors.data.photos import PhotoDataset, Photos
from detectors.data.views import View
from tests.photographs import WRITERS, image_of, written

ROOT = "mock://bucket/pets"


class Store:
    """Counts what is read of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.read = folder, list[str]()
        self.failing: Callable[[str], None] = lambda name: None
        self.local = pyarrow.fs.SubTreeFileSystem(str(folder), pyarrow.fs.LocalFileSystem())

    def get_file_info(self, selector: Any) -> Any:
        return self.local.get_file_info(selector)

    def open_input_stream(self, name: str) -> Any:
        self.failing(name)
        self.read.append(name)
        return self.local.open_input_stream(name)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GAPLAB_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "remote"
    forget()


def forget() -> None:
    """Behave like a new process."""
    remote._copy_of.cache_clear()
    for lock in remote._held.values():
        os.close(lock)
    remote._held.clear()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path / "store")
    monkeypatch.setattr(remote, "open_address", lambda root: (made, root.partition("//")[2]))
    return made


def section(store: Store, name: str = "coco", root: str = ROOT) -> Photos:
    """Write a data set into the store and return its options with a remote root."""
    local = written(name, store.folder / root.partition("//")[2])
    options = DATASETS[name].model_validate(local.model_dump() | {"root": root})
    assert isinstance(options, Photos)
    return options


def copies(cache: Path) -> list[str]:
    return sorted(each.parent.name for each in cache.glob("*/.complete"))


def refused(options: Photos) -> str:
    with pytest.raises(DataError) as caught:
        options.load("train")
    (line,) = caught.value.problems
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", [*WRITERS, "crowdhuman"])
def test_a_remote_data_set_is_the_local_one(store: Store, name: str) -> None:
    options = section(store, name)
    local = options.model_copy(update={"root": str(store.folder / "bucket/pets")})
    assert options.root == ROOT
    assert options.label == "pets"
    assert options.fingerprint() == local.fingerprint()
    for split in ("train", "val"):
        there, here = options.load(split), local.load(split)
        assert len(there) == len(here)
        for index in range(len(there)):
            assert torch.equal(there[index].image, here[index].image)
            assert torch.equal(there[index].targets.boxes, here[index].targets.boxes)


def test_files_are_copied_once(store: Store, cache: Path) -> None:
    options = section(store)
    data = options.load("train")
    assert sorted(store.read) == sorted(set(store.read))
    count = len(store.read)
    forget()
    options.load("val")
    assert len(store.read) == count
    assert len(copies(cache)) == 1
    assert not list(cache.rglob("*.part"))
    store.folder.rename(store.folder.with_name("gone"))
    assert isinstance(data, PhotoDataset)
    again = pickle.loads(pickle.dumps(data)).view(0, View.whole((40, 30), (40, 30)))
    assert again.image.shape == (3, 30, 40), "other processes read the copy, not the store"


def test_changed_data_is_another_copy(store: Store, cache: Path) -> None:
    options = section(store)
    options.load("train")
    image_of(store.folder, "a2").touch()
    os.utime(image_of(store.folder, "a2"), (1, 1))
    forget()
    options.load("train")
    assert len(copies(cache)) == 2


def test_an_interrupted_copy_is_continued(store: Store, cache: Path) -> None:
    options = section(store)
    files = sum(each.is_file() for each in store.folder.rglob("*"))

    def broken(name: str) -> None:
        if name.endswith("b4.jpg"):
            raise OSError(5, "Connection reset")

    store.failing = broken
    line = refused(options)
    assert line.startswith(f"{ROOT}: can't be copied to {cache}: Connection reset; ")
    assert copies(cache) == []
    store.failing = lambda name: None
    options.load("train")
    assert len(store.read) == files, "each file once"


def test_processes_that_come_together_copy_once(store: Store, cache: Path) -> None:
    """Threads hold locks of descriptors of their own, as processes do."""
    options, found = section(store), list[Path]()
    listed = remote._listed(ROOT)

    def fill() -> None:
        path = cache / listed.name
        path.parent.mkdir(parents=True, exist_ok=True)
        remote._fill(listed, path)
        found.append(path)

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 4
    assert len(store.read) == len(set(store.read)) == len(listed.files)
    assert options.folder == found[0]


# Room ---------------------------------------------------------------------------------------------


def test_unused_copies_make_room_and_used_ones_do_not(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (section(store, root=f"mock://bucket/{n}") for n in "abc")
    first.load("train")
    second.load("train")
    one, two = first.folder, second.folder
    size = sum(each.stat().st_size for each in one.rglob("*") if each.is_file())
    monkeypatch.setenv(remote.LIMIT, f"{2.5 * size / remote.GIB:.12f}")
    line = refused(third)
    assert line.startswith("mock://bucket/c: 0.0 GiB are more than the limit of 0.0 GiB for all")
    assert remote.LIMIT in line
    assert len(copies(cache)) == 2
    os.close(remote._held.pop(one))  # as if its process had ended
    third.load("train")
    assert copies(cache) == sorted([two.name, third.folder.name])
    assert not one.exists()


def test_a_data_set_larger_than_the_disk_is_refused_before_it_is_copied(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = section(store)
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "are more than the 0.0 GiB that are free in " in refused(options)
    assert store.read == []


@pytest.mark.parametrize("limit", ["0", "-1", "many", "nan", "inf"])
def test_a_wrong_limit(store: Store, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv(remote.LIMIT, limit)
    assert refused(section(store)) == f"{remote.LIMIT}: must be a number above 0, got {limit!r}"


def test_a_full_disk_is_one_line(store: Store) -> None:
    options = section(store)

    def full(name: str) -> None:
        raise OSError(28, "No space left on device")

    store.failing = full
    assert "No space left on device; free space, or set GAPLAB_CACHE" in refused(options)


def test_the_lock_is_held_while_the_data_is_used(store: Store) -> None:
    options = section(store)
    lock = os.open(options.folder.with_suffix(".lock"), os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    forget()
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


# Addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("s3://bucket/pets/", "s3://bucket/pets"),
        ("gs://bucket/pets", "gs://bucket/pets"),
        ("file:///data/my%20pets", "/data/my pets"),
        ("file://localhost/data", "/data"),
        ("/data/../pets", "/pets"),
    ],
)
def test_roots(root: str, expected: str) -> None:
    assert remote.plain_root(root) == expected


@pytest.mark.parametrize("root", ["nowhere://bucket/pets", "s3://", "x://'; DROP TABLE trials"])
def test_wrong_addresses_are_refused(root: str) -> None:
    options = DATASETS["coco"].model_validate({"root": root})
    assert isinstance(options, Photos)
    line = refused(options)
    assert line.startswith(f"{remote.plain_root(root)}: can't be read: ")
    assert line.endswith("; correct `root`, or the access to it")


def test_an_empty_folder_is_refused(store: Store) -> None:
    (store.folder / "bucket/pets").mkdir(parents=True)
    options = DATASETS["coco"].model_validate({"root": ROOT})
    assert isinstance(options, Photos)
    assert refused(options) == f"{ROOT}: no files there; set `root` to the data set's folder"


def test_names_that_lead_out_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    options = section(store)

    class Info:
        path, size, mtime_ns, is_file = "bucket/pets/../../x.jpg", 1, 1, True

    monkeypatch.setattr(store, "get_file_info", lambda _: [Info])
    assert "x.jpg: leads out of the folder" in refused(options)
    assert store.read == []


def test_without_a_cache_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "cache_folder", lambda: None)
    assert refused(section(store)) == f"{ROOT}: no folder for a copy; set GAPLAB_CACHE to one"
