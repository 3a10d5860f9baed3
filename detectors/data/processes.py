"""Load images in other processes, while the caller trains or predicts on earlier ones.

The processes are forked from a server that has no threads (`forkserver`): a process that has used
PyTorch or Ray has threads, and a fork of it could wait forever for a lock that one of them held.
"""

import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from detectors.data.base import DataError
from detectors.data.base import Dataset as Images
from detectors.data.images import pass_pixels_at_once
from detectors.data.loader import Batch, Shares, by_size, val_batches
from detectors.data.memory import keep_freed_memory
from detectors.data.sizes import rounded_up
from detectors.world import World

AHEAD = 2
"""Items that each process loads in advance."""
SHARED_MEMORY = Path("/dev/shm")


class LoaderError(RuntimeError):
    """The processes that load images can't go on. The message gives the reason and the remedy."""


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Items(Protocol[T_co]):
    """What processes load: a value for each of some numbers."""

    def __getitem__(self, index: int, /) -> T_co:
        """Load an item. Raises DataError if an image is damaged."""
        ...


class Loading(Generic[T]):
    """Items that other processes load in a given order, ahead of their use.

    Args:
        items: the items.
        order: the numbers of the items, in their order.
        processes: number of processes, at least 1.
        nbytes: returns about the bytes of the largest item.
        pinned: whether items are put into pinned memory, for a GPU.
    """

    def __init__(
        self,
        items: Items[T],
        order: Sequence[int],
        processes: int,
        nbytes: Callable[[], int],
        *,
        pinned: bool,
    ) -> None:
        self._items, self._order, self._processes = items, order, processes
        self._nbytes, self._pinned = nbytes, pinned
        self._stream: Iterator[Any] = iter(())
        self._next = -1

    def load(self, position: int) -> T:
        """Return the item at a position of the order. The processes go on with those that follow.

        Raises:
            DataError: an image is damaged, or shared memory is too small.
            LoaderError: a process died.
        """
        try:
            if position != self._next:
                self.close()
                self._stream = self._start(position)
            found = next(self._stream)
        except (RuntimeError, OSError, EOFError) as error:
            self.close()
            raise _explained(error) from error
        self._next = position + 1
        if isinstance(found, Failure):
            self.close()
            raise DataError([*found.problems])
        item: T = found
        return item

    def close(self) -> None:
        """End the processes. The next `load` starts others."""
        self._stream, self._next = iter(()), -1

    def _start(self, position: int) -> Iterator[Any]:
        """Start processes that load from a position of the order on."""
        if problem := memory_problem(self._nbytes(), self._processes):
            raise DataError([problem])
        multiprocessing.set_forkserver_preload(["__main__", __name__])
        with warnings.catch_warnings(action="ignore"):  # more processes than cores: see `notes`
            loader = DataLoader(
                _Caught(self._items),
                batch_size=None,
                sampler=self._order[position:],
                num_workers=self._processes,
                prefetch_factor=AHEAD,
                pin_memory=self._pinned,
                multiprocessing_context="forkserver",
                worker_init_fn=_prepare,
                generator=torch.Generator(),  # else it would draw a number from the global one
            )
            return iter(loader)


def _prepare(number: int) -> None:
    """Prepare process `number` for loading."""
    del number
    _prepare_process()


def _prepare_process() -> None:
    """Prepare this process for loading many images."""
    keep_freed_memory()
    pass_pixels_at_once()


class TrainLoader:
    """The batches of one worker, loaded in order from any point of the training.

    Args:
        shares: the batches.
        processes: number of processes that load them; 0: they are loaded in the calling process,
            when they are needed.
        pinned: whether batches of other processes are put into pinned memory, for a GPU.

    Attributes:
        notes: what a user should know about the processes, one line each.
    """

    def __init__(self, shares: Shares, processes: int = 0, *, pinned: bool = False) -> None:
        self.shares, self.processes = shares, processes
        self.notes: tuple[str, ...] = ()
        cores = len(os.sched_getaffinity(0))
        if processes > cores:
            self.notes = (
                f"data.workers: {processes} processes load images on {cores} cores; more than "
                f"{cores} only cost memory",
            )
        if not processes:
            _prepare_process()
        every = range(len(shares))
        self._loading = Loading(shares, every, processes, lambda: _bytes(shares), pinned=pinned)

    def rest_of(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch after the first `done`, whose images are not loaded.

        Raises:
            DataError: an image is damaged, or shared memory is too small.
            LoaderError: a process that loads images died.
        """
        steps = self.shares.steps
        for number in range(epoch * steps + done, (epoch + 1) * steps):
            yield self._loading.load(number) if self.processes else self.shares[number]

    def close(self) -> None:
        """End the processes. The loader can be used again."""
        self._loading.close()


def val_loader(
    images: Images, batch: int, world: World, processes: int = 0, *, pinned: bool = False
) -> Generator[tuple[list[int], Batch]]:
    """Yield what `val_batches` yields for a rank, with images that other processes load.

    Close it to end the processes before its end.

    Args:
        images: the images.
        batch: maximum number of images of a batch.
        world: the rank, and the number of ranks.
        processes: number of processes that load images; 0: the calling process does.
        pinned: whether batches are put into pinned memory, for a GPU.

    Raises:
        DataError, LoaderError: see `TrainLoader.rest_of`.
    """
    batches = val_batches(images, batch, world.rank, world.size)
    order = range(world.rank, len(images), world.size)
    loading = Loading(images, order, processes, lambda: images[0].image.nbytes, pinned=False)
    if processes:
        batches = by_size(((i, loading.load(at)) for at, i in enumerate(order)), batch)
    with closing(loading):
        for indices, found in batches:
            yield indices, found.pin_memory() if pinned else found


class Failure:
    """What a process returns instead of an item, because DataLoader changes raised errors."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)


class _Caught(Dataset[Any]):
    """Items whose DataError is returned."""

    def __init__(self, items: Items[Any]) -> None:
        self._items = items

    def __getitem__(self, number: int) -> Any:
        try:
            return self._items[number]
        except DataError as error:
            return Failure(error.problems)


def memory_problem(nbytes: int, processes: int, folder: Path = SHARED_MEMORY) -> str:
    """Return why shared memory is too small for items on their way; empty if it is not.

    Args:
        nbytes: the bytes of the largest item.
        processes: number of processes that load.
        folder: where shared memory is mounted.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"shared memory: {folder}: {error.strerror}; mount a tmpfs there, or {_REMEDY}"
    needed = nbytes * (AHEAD * processes + 1)
    if free >= needed:
        return ""
    return (
        f"shared memory: {folder} has {free / 2**20:.0f} MiB free, and {processes} processes that "
        f"load images need {needed / 2**20:.0f} MiB; make it larger (in a container: "
        f"--shm-size), or {_REMEDY}"
    )


_REMEDY = "lower data.workers (0: load in the process that trains)"


def _bytes(shares: Shares) -> int:
    """Return the bytes of the largest batch of a worker, if all its images are landscape."""
    training = shares.training
    images = -(-training.batch // shares.size)
    if not training.train_sides:
        return images * shares.dataset[0].image.nbytes
    shorter, longer = max(training.train_sides), training.train_max_side
    return images * 3 * rounded_up(shorter) * rounded_up(max(shorter, longer))


def _explained(error: Exception) -> LoaderError:
    """Return an error of one line for one of DataLoader, such as that a process died."""
    text, remedy = str(error), f"if memory was short, lower data.cache_mib, or {_REMEDY}"
    if "Original Traceback" in text:  # of an error in a process, with its message at the end
        text = text.strip().splitlines()[-1]
    if isinstance(error, (EOFError, ConnectionError)):  # its end of the pipe is closed
        text = "a process exited unexpectedly"
    if "shared memory" in text:
        remedy = f"make {SHARED_MEMORY} larger (in a container: --shm-size), or {_REMEDY}"
    return LoaderError(f"processes that load images failed: {' '.join(text.split())}; {remedy}")
