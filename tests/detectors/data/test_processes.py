"""Batches of other processes. They are started a few times only, because each start takes time."""

import multiprocessing
import os
import pickle
import signal
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import dataloader

from detectors.data.base import DataError, Dataset
from detectors.data.loader import Batch, Shares, train_batches
from detectors.data.processes import (
    LoaderError,
    TrainLoader,
    _bytes,
    _explained,
    memory_problem,
    val_loader,
)
from detectors.data.shapes import Shapes
from detectors.training import Training
from detectors.world import LocalWorld
from tests.photographs import Photograph, image_of, written

TRAINING = Training(batch=3, epochs=3, train_sides=(32, 48), augment="hflip")
NAMES = [f"image{i}" for i in range(10)]
MIB = 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


@pytest.fixture
def data(root: Path) -> Dataset:
    pictures = [
        Photograph(name, (40 + i, 50 - 2 * i), (("cat", (1, 2, 20 + i, 30)),))
        for i, name in enumerate(NAMES)
    ]
    options = written("coco", root, {"train": pictures, "val": pictures[:1]}, verify="header")
    return options.load("train")


def content(batches: Iterator[Batch]) -> list[object]:
    return [
        (
            batch.image_ids,
            batch.scales,
            batch.images.stride(),
            batch.images.tolist(),
            [(t.boxes.tolist(), t.labels.tolist(), t.extent) for t in batch.targets],
        )
        for batch in batches
    ]


def ids(batches: Iterator[Batch]) -> list[tuple[int, ...]]:
    return [batch.image_ids for batch in batches]


def check_order(loader: TrainLoader, data: Dataset) -> None:
    """Epochs one after the other, then from a middle, then again from the start."""
    expected = [content(train_batches(data, TRAINING, 7, epoch, 0, 1)) for epoch in range(3)]
    for epoch in (0, 1):
        assert content(loader.rest_of(epoch)) == expected[epoch]
    assert content(loader.rest_of(2, 1)) == expected[2][1:]
    assert content(loader.rest_of(0, 2)) == expected[0][2:]


@pytest.mark.parametrize("processes", [0, 2])
def test_batches_and_errors_do_not_depend_on_processes(
    data: Dataset, root: Path, processes: int
) -> None:
    """Damaged images are named in one line each, when their batch is due."""
    loader = TrainLoader(Shares(data, TRAINING, 7, 0, 1), processes)
    before = torch.get_rng_state()
    check_order(loader, data)
    assert torch.equal(torch.get_rng_state(), before)
    loader.close()
    for name in NAMES[:5]:
        image_of(root, name).write_bytes(b"")
    for name in NAMES[5:]:
        path = image_of(root, name)
        path.write_bytes(path.read_bytes()[:-40])
    fresh = TrainLoader(Shares(_again(data), TRAINING, 7, 0, 1), processes)
    with pytest.raises(DataError) as caught:
        next(fresh.rest_of(1))
    (line,) = caught.value.problems
    assert str(caught.value) == line
    assert line.startswith(f"{root}/images/image")
    assert line.endswith("; replace them with whole images of 8 or 16 bits")
    assert "\n" not in line


def test_validation_does_not_depend_on_processes(data: Dataset, root: Path) -> None:
    """Batches of one size, their order, and the error of a damaged image."""
    image_of(root, NAMES[9]).write_bytes(b"")
    found: list[list[object]] = [[], []]
    errors: list[str] = []
    for processes in (0, 2):
        batches, seen = val_loader(data, 2, LocalWorld(), processes), found[processes // 2]
        with pytest.raises(DataError) as caught:
            seen.extend((indices, content(iter([batch]))) for indices, batch in batches)
        errors.append(str(caught.value))
    assert found[0] == found[1] != []
    assert errors[0] == errors[1]
    assert "image9" in errors[0]


def test_processes_end_when_validation_is_broken_off(data: Dataset) -> None:
    batches = val_loader(data, 1, LocalWorld(), 1)
    (index,), _ = next(batches)
    assert index == 0
    children = multiprocessing.active_children()
    batches.close()
    for child in children:
        child.join()
    assert children


def _again(data: Dataset) -> Dataset:
    """Return the data set without images in its memory."""
    again: Dataset = pickle.loads(pickle.dumps(data))
    return again


class Deadly:
    """A data set that ends the process which loads image 4."""

    classes: tuple[str, ...] = ("thing",)
    notes: tuple[str, ...] = ()

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int, /) -> object:
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._data[index]


def test_a_process_that_dies_is_an_error_of_one_line(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(wait, "__defaults__", (0.1,))  # seconds between looks at the processes
    training = Training(batch=3, epochs=3, augment="none")
    loader = TrainLoader(Shares(Deadly(data), training, 7, 0, 1), 1)  # type: ignore[arg-type]
    with pytest.raises(LoaderError, match=r"exited unexpectedly; if memory .* data\.workers") as e:
        list(loader.rest_of(0))
    assert "\n" not in str(e.value)


def test_an_error_in_a_process_is_its_message_without_the_traceback() -> None:
    def explained(message: str) -> str:
        where = (
            'Traceback (most recent call last):\n  File "worker.py", line 3, in work\n    go()\n'
        )
        caught = f"Caught RuntimeError in DataLoader worker process 0.\nOriginal {where}"
        return str(_explained(RuntimeError(f"{caught}RuntimeError: {message}\n")))

    start, none = (
        "processes that load images failed: RuntimeError: ",
        "lower data.workers (0: load in",
    )
    full = "unable to allocate shared memory(shm) for file <a>: No space left on device (28)"
    assert explained(full).startswith(f"{start}{full}; make /dev/shm larger (in a container: --shm")
    other = explained("out of luck")
    assert other.startswith(f"{start}out of luck; if memory was short, lower data.cache_mib, or ")
    assert all(none in line and "worker.py" not in line for line in (explained(full), other))


def test_more_processes_than_cores_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    shares = Shares(Shapes(train_images=8).load("train"), Training(batch=4), 0, 0, 1)
    assert TrainLoader(shares, 3).notes == ()
    (note,) = TrainLoader(shares, 4).notes
    assert note.startswith("data.workers: 4 processes load images on 3 cores; ")


# Shared memory ------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "free")


@pytest.mark.parametrize(
    ("training", "size", "processes", "mib"),
    [
        (Training(batch=4), 1, 2, 5 * 4 * 3 * 64**2 / MIB),
        (Training(batch=4), 2, 1, 3 * 2 * 3 * 64**2 / MIB),
        (Training(batch=8, train_sides=(640, 800)), 1, 2, 5 * 8 * 3 * 800 * 1344 / MIB),
        (Training(batch=8, train_sides=(800,), train_max_side=700), 2, 2, 5 * 4 * 3 * 800**2 / MIB),
    ],
)
def test_too_little_shared_memory_is_found_before_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, training: Training, size: int, processes: int, mib: float
) -> None:
    data = Shapes(size=64, train_images=16, max_side=40.0).load("train")
    shares = Shares(data, training, 0, 0, size)
    free = Usage(round(mib * MIB))
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    assert memory_problem(_bytes(shares), processes) == ""
    free = Usage(round(mib * MIB) - 1)
    loader = TrainLoader(shares, processes)
    with pytest.raises(DataError) as caught:
        next(loader.rest_of(0))
    (line,) = caught.value.problems
    assert line.startswith("shared memory: /dev/shm has ")
    assert f"{processes} processes that load images need {mib:.0f} MiB" in line
    assert line.endswith("lower data.workers (0: load in the process that trains)")


def test_no_shared_memory(tmp_path: Path) -> None:
    shares = Shares(Shapes(train_images=8).load("train"), Training(batch=4), 0, 0, 1)
    line = memory_problem(_bytes(shares), 1, tmp_path / "none")
    assert line.startswith(f"shared memory: {tmp_path}/none: No such file or directory; ")
