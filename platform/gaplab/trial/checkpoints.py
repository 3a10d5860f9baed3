"""The checkpoints of a trial: written whole, verified by a digest, loaded without executing code.

`trials/<trial>/checkpoints/epoch=0003-step=0000120-<digest>.pt` was written after 3 whole epochs
and 120 optimiser steps; the digest is that of its bytes. A file that doesn't match its name is
damaged.
"""

import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch

from gaplab.spec.models import CheckpointOptions
from gaplab.storage.filesystem import Storage, reason

_NAME = re.compile(r"epoch=(\d{4,})-step=(\d{7,})-([0-9a-f]{16})\.pt")


@dataclass(frozen=True, order=True)
class CheckpointFile:
    """A checkpoint as its name describes it.

    Attributes:
        epoch: number of whole epochs done.
        step: number of optimiser steps done.
        digest: SHA-256 of the content, 16 hex digits.
    """

    epoch: int
    step: int
    digest: str

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return the file that has this name, or None if it isn't the name of a checkpoint."""
        match = _NAME.fullmatch(name)
        return cls(int(match[1]), int(match[2]), match[3]) if match else None

    @property
    def name(self) -> str:
        """Its name in the folder of the trial's checkpoints."""
        return f"epoch={self.epoch:04d}-step={self.step:07d}-{self.digest}.pt"


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The newest undamaged checkpoint of a trial, or none.

    Attributes:
        uri: where it is.
        state: what was saved, tensors on the CPU; None if there is no undamaged checkpoint.
        notes: one line for each damaged file that was skipped, and one for what is done instead.
        damaged: names of the damaged files in the storage.
    """

    uri: str = ""
    state: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


class DamagedError(Exception):
    """A file doesn't hold what was saved; the message says how that was found."""


def load_newest(storage: Storage, trial: str, epoch: int | None = None) -> LoadedCheckpoint:
    """Load the newest undamaged checkpoint of `trial`; no code in it is executed.

    Args:
        storage: where the checkpoints are.
        trial: id of the trial.
        epoch: number of whole epochs done: only the checkpoint written at the end of this epoch is
            loaded; None: any.

    Raises:
        UserError: if the folder can't be read.
    """
    notes, damaged = list[str](), list[str]()
    names = _names(storage, trial)
    if epoch is not None:
        names = _names_at(names, epoch)
    for name, digest in names:
        uri = f"{storage.uri}/{name}"
        try:
            state = _decode(_read_whole(storage, name, digest))
        except DamagedError as error:
            notes.append(f"{name}: damaged checkpoint ({error}), skipped")
            damaged.append(name)
        except FileNotFoundError:
            continue  # its writer has replaced it since it was listed
        else:
            instead = (f"continuing from {name}",) if notes else ()
            return LoadedCheckpoint(uri, state, (*notes, *instead), tuple(damaged))
    instead = ("no undamaged checkpoint is left: starting from epoch 0",) if notes else ()
    return LoadedCheckpoint("", None, (*notes, *instead), tuple(damaged))


def files_to_delete(
    files: Iterable[CheckpointFile],
    new: CheckpointFile,
    options: CheckpointOptions,
    steps: int,
    best: int,
) -> list[CheckpointFile]:
    """Return those of `files` that the options don't keep once `new` is complete, oldest first.

    Args:
        files: the files that exist.
        new: the file that was just written.
        options: which files to keep.
        steps: number of steps per epoch.
        best: epoch of the best evaluation, 0 for none.
    """
    ordered = sorted({*files, new})
    keep = {new, *ordered[-options.last :]}
    return [
        file
        for file in ordered
        if file not in keep and not _keeps_epoch(file, options, steps, best)
    ]


def _keeps_epoch(file: CheckpointFile, options: CheckpointOptions, steps: int, best: int) -> bool:
    """Return whether the options keep a file because of the epoch at whose end it was written."""
    if not file.epoch or file.step != file.epoch * steps:
        return False
    every = options.every is not None and file.epoch % options.every == 0
    return every or (options.best and file.epoch == best)


class CheckpointWriter:
    """Writes the checkpoints of one trial and deletes those that are not kept.

    Args:
        storage: where they go.
        trial: id of the trial.
        options: which files to keep.
        steps: number of steps per epoch.
    """

    def __init__(
        self, storage: Storage, trial: str, options: CheckpointOptions, steps: int
    ) -> None:
        self._storage, self._trial, self._options, self._steps = storage, trial, options, steps
        self._first = True
        self.damaged: tuple[str, ...] = ()
        """Damaged files found by `load_newest`, which the next `save` deletes."""

    def save(self, state: dict[str, Any], epoch: int, step: int, best: int) -> str:
        """Write a checkpoint, then delete what it replaces.

        Args:
            state: tensors and plain values.
            epoch: number of whole epochs done.
            step: number of optimiser steps done.
            best: epoch of the best evaluation, 0 for none.

        Returns:
            The URI of the file.

        Raises:
            StorageError: if it can't be written.
        """
        if self._first:  # partial files of a killed attempt; later ones may be another driver's
            self._first = False
            self._delete_partial_files()
        data = _encode(state)
        file = CheckpointFile(epoch, step, _digest(data))
        uri = self._storage.save_bytes(f"{_folder(self._trial)}/{file.name}", data)
        self._delete_replaced(file, best)
        return uri

    def _delete_partial_files(self) -> None:
        folder = _folder(self._trial)
        for name in self._storage.names(folder):
            if name.endswith(".part"):
                self._storage.delete(f"{folder}/{name}")

    def _delete_replaced(self, new: CheckpointFile, best: int) -> None:
        folder = _folder(self._trial)
        for name in self.damaged:
            if name != f"{folder}/{new.name}":  # the same steps may have written it anew
                self._storage.delete(name)
        self.damaged = ()
        names = self._storage.names(folder)
        files = [file for name in names if (file := CheckpointFile.parse(name))]
        for file in files_to_delete(files, new, self._options, self._steps, best):
            self._storage.delete(f"{folder}/{file.name}")
        if len(files) >= self._options.last:
            self._storage.delete(_legacy_name(self._trial))


def _folder(trial: str) -> str:
    return f"trials/{trial}/checkpoints"


def _legacy_name(trial: str) -> str:
    """Return the name of the only checkpoint of a trial in old homes; read, but never written."""
    return f"trials/{trial}/checkpoint.pt"


def _names(storage: Storage, trial: str) -> list[tuple[str, str]]:
    """Return all checkpoints, newest first: name in the storage and digest ("" if unknown)."""
    folder = _folder(trial)
    files = sorted(file for name in storage.names(folder) if (file := CheckpointFile.parse(name)))
    found = [(f"{folder}/{file.name}", file.digest) for file in reversed(files)]
    home, _, name = _legacy_name(trial).rpartition("/")
    return found + [(_legacy_name(trial), "")] * (name in storage.names(home))


def _names_at(names: Iterable[tuple[str, str]], epoch: int) -> list[tuple[str, str]]:
    """Return those of `names` that were written at the end of `epoch`: the fewest steps."""
    files = [(CheckpointFile.parse(name.rpartition("/")[2]), name) for name, _ in names]
    found = sorted((file, name) for file, name in files if file and file.epoch == epoch)
    return [(name, file.digest) for file, name in found if file.step == found[0][0].step]


def _read_whole(storage: Storage, name: str, digest: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        DamagedError: if they can't be read or don't match the digest.
        FileNotFoundError: if there is no such file any more.
    """
    try:
        data = storage.read(name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedError(f"it can't be read: {reason(error)}") from error
    if digest and _digest(data) != digest:
        raise DamagedError("its content doesn't match the digest in its name")
    return data


def _encode(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _decode(data: bytes) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # PyTorch raises nearly any error for damaged bytes
        raise DamagedError(f"PyTorch can't read it: {type(error).__name__}") from error
    if not isinstance(state, dict):
        raise DamagedError("it doesn't hold a state")
    return state


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
