"""The checkpoints of a trial: written whole, known by their content, read without trust.

`trials/<trial>/checkpoints/epoch=0003-step=0000120-<digest>.pt` was written after 3 whole epochs
and 120 steps; the digest is that of its bytes. A file that doesn't fit its name is damaged.
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
class File:
    """A checkpoint by its name: whole epochs, optimiser steps, digest of the content."""

    epoch: int
    step: int
    digest: str

    @classmethod
    def named(cls, name: str) -> Self | None:
        """The file that has this name; None for a name of something else."""
        match = _NAME.fullmatch(name)
        return cls(int(match[1]), int(match[2]), match[3]) if match else None

    @property
    def name(self) -> str:
        """Its name in the folder of the trial's checkpoints."""
        return f"epoch={self.epoch:04d}-step={self.step:07d}-{self.digest}.pt"


@dataclass(frozen=True)
class Found:
    """The newest whole checkpoint of a trial, or none.

    state: what was saved, tensors on the CPU; None if there is no whole one. notes: one line for
    each damaged file that was passed over, and one for what is done instead. damaged: their names
    in the storage.
    """

    uri: str = ""
    state: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


class DamagedError(Exception):
    """A file that isn't what was saved; the message says how one can tell."""


def newest(storage: Storage, trial: str) -> Found:
    """The newest whole checkpoint of `trial`; nothing in it is executed. Raises UserError."""
    notes, damaged = list[str](), list[str]()
    for name, digest in _names(storage, trial):
        uri = f"{storage.uri}/{name}"
        try:
            state = _decode(_whole(storage, name, digest))
        except DamagedError as error:
            notes.append(f"{uri}: damaged checkpoint ({error}), passed over")
            damaged.append(name)
        except FileNotFoundError:
            continue  # its writer has replaced it since it was listed
        else:
            instead = (f"going on from {uri}",) if notes else ()
            return Found(uri, state, (*notes, *instead), tuple(damaged))
    instead = ("no whole checkpoint is left: starting from zero",) if notes else ()
    return Found("", None, (*notes, *instead), tuple(damaged))


def superfluous(
    files: Iterable[File], new: File, options: CheckpointOptions, steps: int, best: int
) -> list[File]:
    """Those of `files` that may go now that `new` is complete, oldest first.

    steps: of one epoch; best: the epoch of the best evaluation, 0 for none.
    """
    ordered = sorted({*files, new})
    keep = {new, *ordered[-options.last :]}
    return [
        file for file in ordered if file not in keep and not _marked(file, options, steps, best)
    ]


def _marked(file: File, options: CheckpointOptions, steps: int, best: int) -> bool:
    """Whether the options keep a file for the epoch at whose end it was written."""
    if not file.epoch or file.step != file.epoch * steps:
        return False
    every = options.every is not None and file.epoch % options.every == 0
    return every or (options.best and file.epoch == best)


class Keeper:
    """Writes the checkpoints of one trial and deletes those that are not needed any more.

    steps: of one epoch; damaged: what `newest` has passed over, to be deleted after the next one.
    """

    def __init__(
        self, storage: Storage, trial: str, options: CheckpointOptions, steps: int
    ) -> None:
        self._storage, self._trial, self._options, self._steps = storage, trial, options, steps
        self.damaged: tuple[str, ...] = ()
        self._fresh = True

    def save(self, state: dict[str, Any], epoch: int, step: int, best: int) -> str:
        """Write `state` (tensors and plain values) and then delete what it replaces; its URI.

        epoch, step: whole epochs and optimiser steps done. Raises StorageError.
        """
        if self._fresh:  # what a killed attempt left half-written; later ones may be another's
            self._fresh = False
            self._delete_parts()
        data = _encode(state)
        file = File(epoch, step, _digest(data))
        uri = self._storage.save_bytes(f"{_folder(self._trial)}/{file.name}", data)
        self._tidy(file, best)
        return uri

    def _delete_parts(self) -> None:
        folder = _folder(self._trial)
        for name in self._storage.names(folder):
            if name.endswith(".part"):
                self._storage.delete(f"{folder}/{name}")

    def _tidy(self, new: File, best: int) -> None:
        folder = _folder(self._trial)
        for name in self.damaged:
            if name != f"{folder}/{new.name}":  # trained again it may have been mended in its place
                self._storage.delete(name)
        self.damaged = ()
        names = self._storage.names(folder)
        files = [file for name in names if (file := File.named(name))]
        old = [file.name for file in superfluous(files, new, self._options, self._steps, best)]
        for name in old:
            self._storage.delete(f"{folder}/{name}")
        if len(files) >= self._options.last:
            self._storage.delete(_single(self._trial))


def _folder(trial: str) -> str:
    return f"trials/{trial}/checkpoints"


def _single(trial: str) -> str:
    """The one checkpoint of a trial in homes of an earlier version; read, but never written."""
    return f"trials/{trial}/checkpoint.pt"


def _names(storage: Storage, trial: str) -> list[tuple[str, str]]:
    """All checkpoints, newest first: name in the storage, and digest ("" where it is unknown)."""
    folder = _folder(trial)
    files = sorted(file for name in storage.names(folder) if (file := File.named(name)))
    found = [(f"{folder}/{file.name}", file.digest) for file in reversed(files)]
    single = _single(trial).rpartition("/")
    return found + [(_single(trial), "")] * (single[2] in storage.names(single[0]))


def _whole(storage: Storage, name: str, digest: str) -> bytes:
    """The bytes of a file. Raises DamagedError, and FileNotFoundError where it is gone."""
    try:
        data = storage.read(name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedError(f"it can't be read: {reason(error)}") from error
    if digest and _digest(data) != digest:
        raise DamagedError("its content doesn't fit the digest in its name")
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
    except Exception as error:  # from broken bytes PyTorch raises nearly anything
        raise DamagedError(f"PyTorch can't read it: {type(error).__name__}") from error
    if not isinstance(state, dict):
        raise DamagedError("it holds something else")
    return state


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
