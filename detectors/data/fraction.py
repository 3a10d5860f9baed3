"""Divide one split into training and validation images, the same way on every machine."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from detectors.data.base import DataError, Split


class Named(Protocol):
    """An image of an annotation file."""

    @property
    def file_name(self) -> str:
        """Return its name, relative to the folder of images."""
        ...


Image = TypeVar("Image", bound=Named)


def part_of(
    images: Sequence[Image], split: Split, fraction: float, where: Path
) -> tuple[Image, ...]:
    """Return the images of one split, in the same order; all if the fraction is 0.

    Images are ranked by the SHA-256 of their file names without folders. The first
    `round(fraction * n)` of n, but at least 1 and at most n - 1, are for validation. So the choice
    does not depend on the order in a file, the format or the machine. Images of one name, such as
    an image with two ids, stay together.

    Args:
        images: the images of the file.
        split: the split to return.
        fraction: part of the images for validation, at least 0 and below 1.
        where: the annotation file, for messages.

    Raises:
        DataError: there are fewer than two names.
    """
    if not fraction:
        return tuple(images)
    ranked = _ranked({each.file_name for each in images})
    if len(ranked) < 2:
        line = f"{where}: val_fraction can't divide {len(ranked)} image; add images"
        raise DataError([line])
    chosen = ranked[: min(max(1, round(fraction * len(ranked))), len(ranked) - 1)]
    wanted = set(chosen if split == "val" else ranked[len(chosen) :])
    return tuple(each for each in images if each.file_name in wanted)


def parts_of(
    images: Mapping[Split, Sequence[Image]], fraction: float, where: Path
) -> dict[Split, tuple[Image, ...]]:
    """Return the images of both splits; see `part_of`."""
    return {split: part_of(each, split, fraction, where) for split, each in images.items()}


def _ranked(names: Iterable[str]) -> list[str]:
    """Return names in the order of the digests of their last parts."""
    return sorted(names, key=lambda name: (_digest(name), name))


def _digest(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    return hashlib.sha256(last.encode("utf-8", "surrogatepass")).hexdigest()
