"""Divide one split into training and validation images, the same way on every machine."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from detectors.data.base import DataError, Split
from detectors.data.entries import Flags


class Named(Protocol):
    """An image of an annotation file."""

    @property
    def file_name(self) -> str:
        """Return its name, relative to the folder of images."""
        ...


Image = TypeVar("Image", bound=Named)


def is_part(names: Sequence[str], split: Split, fraction: float, where: Path) -> Flags:
    """Return which images belong to one split: [len(names)]; all if the fraction is 0.

    Images are ranked by the SHA-256 of their file names without folders. The first
    `round(fraction * n)` of n, but at least 1 and at most n - 1, are for validation. So the choice
    does not depend on the order in a file, the format or the machine. Images of one name, such as
    an image with two ids, stay together.

    Args:
        names: file names of the images of the file.
        split: the split.
        fraction: part of the images for validation, at least 0 and below 1.
        where: the annotation file, for messages.

    Raises:
        DataError: there are fewer than two names.
    """
    if not fraction:
        return np.ones(len(names), dtype=np.bool_)
    ranked = _ranked(set(names))
    if len(ranked) < 2:
        line = f"{where}: val_fraction can't divide {len(ranked)} image; add images"
        raise DataError([line])
    chosen = ranked[: min(max(1, round(fraction * len(ranked))), len(ranked) - 1)]
    wanted = set(chosen if split == "val" else ranked[len(chosen) :])
    return np.array([name in wanted for name in names], dtype=np.bool_)


def part_of(
    images: Sequence[Image], split: Split, fraction: float, where: Path
) -> tuple[Image, ...]:
    """Return the images of one split, in the same order; see `is_part`."""
    kept = is_part([each.file_name for each in images], split, fraction, where)
    return tuple(compress(images, kept.tolist()))


def parts_of(
    images: Mapping[Split, Sequence[Image]], fraction: float, where: Path
) -> dict[Split, tuple[Image, ...]]:
    """Return the images of both splits; see `is_part`."""
    return {split: part_of(each, split, fraction, where) for split, each in images.items()}


def _ranked(names: Iterable[str]) -> list[str]:
    """Return names in the order of the digests of their last parts."""
    return sorted(names, key=lambda name: (_digest(name), name))


def _digest(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    return hashlib.sha256(last.encode("utf-8", "surrogatepass")).hexdigest()
