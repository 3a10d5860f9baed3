"""Load training batches in other processes, while the caller trains on earlier ones.

The processes are forked from a server that has no threads (`forkserver`): a process that has used
PyTorch or Ray has threads, and a fork of it could wait forever for a lock that one of them held.
"""

import multiprocessing
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from detectors.data.base import DataError
from detectors.data.loader import Batch, Shares
from detectors.data.sizes import rounded_up

AHEAD = 2
"""Batches that each process loads in advance."""
SHARED_MEMORY = Path("/dev/shm")


class LoaderError(RuntimeError):
    """The processes that load images can't go on. The message gives the reason and the remedy."""


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
        self.shares, self.processes, self._pinned = shares, processes, pinned
        self.notes: tuple[str, ...] = ()
        cores = len(os.sched_getaffinity(0))
        if processes > cores:
            self.notes = (
                f"data.workers: {processes} processes load images on {cores} cores; more than "
                f"{cores} only cost memory",
            )
        self._stream: Iterator[Any] = iter(())
        self._next = -1

    def rest_of(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch after the first `done`, whose images are not loaded.

        Raises:
            DataError: an image is damaged, or shared memory is too small.
            LoaderError: a process that loads images died.
        """
        steps = self.shares.steps
        for number in range(epoch * steps + done, (epoch + 1) * steps):
            yield self._load(number) if self.processes else self.shares[number]

    def close(self) -> None:
        """End the processes. The loader can be used again."""
        self._stream, self._next = iter(()), -1

    def _load(self, number: int) -> Batch:
        """Return a batch from the processes. They load those that follow, also of later epochs."""
        try:
            if number != self._next:
                self.close()
                self._stream = self._start(number)
            found = next(self._stream)
        except (RuntimeError, OSError, EOFError) as error:
            self.close()
            raise _explained(error) from error
        self._next = number + 1
        if isinstance(found, Failure):
            self.close()
            raise DataError([*found.problems])
        batch: Batch = found
        return batch

    def _start(self, number: int) -> Iterator[Any]:
        """Start processes that load from batch `number` on."""
        if problem := memory_problem(self.shares, self.processes):
            raise DataError([problem])
        multiprocessing.set_forkserver_preload(["__main__", __name__])
        with warnings.catch_warnings(action="ignore"):  # more processes than cores: see `notes`
            loader = DataLoader(
                _Caught(self.shares),
                batch_size=None,
                sampler=range(number, len(self.shares)),
                num_workers=self.processes,
                prefetch_factor=AHEAD,
                pin_memory=self._pinned,
                multiprocessing_context="forkserver",
                generator=torch.Generator(),  # else it would draw a number from the global one
            )
            return iter(loader)


class Failure:
    """What a process returns instead of a batch, because DataLoader changes raised errors."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)


class _Caught(Dataset[Batch | Failure]):
    """Shares whose DataError is returned."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares

    def __getitem__(self, number: int) -> Batch | Failure:
        try:
            return self._shares[number]
        except DataError as error:
            return Failure(error.problems)


def memory_problem(shares: Shares, processes: int, folder: Path = SHARED_MEMORY) -> str:
    """Return why shared memory is too small for batches on their way; empty if it is not.

    Args:
        shares: the batches.
        processes: number of processes that load.
        folder: where shared memory is mounted.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"shared memory: {folder}: {error.strerror}; mount a tmpfs there, or {_REMEDY}"
    needed = _bytes(shares) * (AHEAD * processes + 1)
    if free >= needed:
        return ""
    return (
        f"shared memory: {folder} has {free / 2**20:.0f} MiB free, and {processes} processes that "
        f"load batches need {needed / 2**20:.0f} MiB; make it larger (in a container: "
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
    reason = " ".join(str(error).split())
    if isinstance(error, (EOFError, ConnectionError)):  # its end of the pipe is closed
        reason = "a process exited unexpectedly"
    return LoaderError(
        f"processes that load images failed: {reason}; if memory was short, lower data.cache_mib "
        "or data.workers (0: load in the process that trains)"
    )
