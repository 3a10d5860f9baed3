"""Formats with one annotation file per image: from listed files to a data set."""

import hashlib
import json
import math
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np

from detectors.data import problems as kinds
from detectors.data.base import Dataset, Listed, Split
from detectors.data.checks import corners_for_centres
from detectors.data.entries import THINNEST, Box, Entries, Image, Xyxy, clipped, out_of_image
from detectors.data.fraction import part_of, parts_of
from detectors.data.orientation import UNKNOWN
from detectors.data.photo_files import (
    SPLITS,
    Files,
    SplitFiles,
    fingerprint,
    image_sizes,
    shared,
)
from detectors.data.photos import PhotoDataset, Photos, check_split, refusals
from detectors.data.problems import Kind, Problems


@dataclass(frozen=True)
class Listing:
    """The files of one split, before they are read."""

    where: Path
    """The file that lists the images, for messages."""
    images: tuple[str, ...]
    """Names of the image files relative to the data set's root, in the order of image ids."""
    annotations: tuple[Path | None, ...]
    """The annotation file of each image, which need not exist; None for an image outside of the
    root."""
    notes: tuple[str, ...] = ()
    """Remarks about the files, one line each."""
    repeated: tuple[str, ...] = ()
    """Names that are listed again."""


Listings = Mapping[Split, Listing]


class Drawn(NamedTuple):
    """An annotation as it is written."""

    place: str
    """Its position, for messages."""
    xyxy: Xyxy
    """Pixels, or fractions of the image's width and height (see `Index.relative`)."""
    label: int
    crowd: bool = False


@dataclass(frozen=True)
class Record:
    """One image with its annotations."""

    image_id: int
    file_name: str
    boxes: tuple[Drawn, ...]
    size: tuple[int, int] | None = None
    """(width, height) that the annotation file says; None if it says nothing."""


@dataclass(frozen=True)
class Index:
    """The annotations of one split."""

    classes: tuple[str, ...]
    records: tuple[Record, ...]
    problems: Problems
    notes: tuple[str, ...] = ()
    relative: bool = False
    """Whether boxes are fractions of the image's width and height."""


class Recorded(Photos):
    """Options of a format with one annotation file per image."""

    @abstractmethod
    def find(self, splits: Sequence[Split]) -> dict[Split, Listing]:
        """Find the files of splits. Raises DataError with all problems."""

    @abstractmethod
    def read(self, listings: Listings) -> dict[Split, Index]:
        """Read both splits. Raises DataError if they can't be used with any `on_bad`."""

    def load(self, split: Split) -> Dataset:
        """Return the split; the same object while options and annotations are equal.

        Raises:
            DataError: with every problem of the split. With `on_bad: skip`, only if files or
                folders of a whole split are missing, or there is no valid image.
        """
        return _load(self, _found(self), split)

    def listed(self, split: Split) -> Listed:
        """See `DataOptions.listed`."""
        found = _found(self)
        index, where = _indices(self, found)[split], found.listings[split].where
        records = part_of(index.records, split, self.val_fraction, where)
        problems = refusals(self, str(where), split, None, index.problems)
        most = max((len(each.boxes) for each in records), default=0)
        return Listed(len(records), len(index.classes), tuple(problems), most)

    def fingerprint(self) -> str:
        """Return the SHA-256 of classes, annotations, names and sizes of images, in hex.

        It is computed again only after an annotation file has changed.

        Raises:
            DataError: a file is missing. With `on_bad: skip`, images may be missing.
        """
        return _fingerprint(self, _found(self))


@dataclass(frozen=True)
class _Found:
    """The files of both splits; equal if they have the same names, times and sizes."""

    stamp: str
    listings: dict[Split, Listing] = field(compare=False)


@lru_cache(maxsize=4)
def _load(options: Recorded, found: _Found, split: Split) -> PhotoDataset:
    indices, listings = _indices(options, found), found.listings
    where = listings[split].where
    images = {key: each.records for key, each in indices.items()}
    parts = parts_of(images, options.val_fraction, where)
    index = replace(indices[split], records=parts[split])
    names = {record.file_name: record.size or UNKNOWN for record in index.records}
    files, decode = _files(options, listings), options.verify == "decode"
    sizes, bad_images = image_sizes(names, files, split, decode=decode, exif=options.exif)
    usable, bad_boxes = entries(index, sizes)
    kept = set(usable.image_ids.tolist())
    lost = [b.place for r in index.records if r.image_id not in kept for b in r.boxes]
    problems = index.problems.merged(bad_images).merged(bad_boxes)
    notes = check_split(options, str(where), split, usable, problems, lost)
    notes = (*listings[split].notes, *index.notes, *notes)
    if split == "val":
        notes += shared(files, {key: [r.file_name for r in part] for key, part in parts.items()})
    return PhotoDataset(options, options.folder, index.classes, usable, notes)


@lru_cache(maxsize=8)
def _fingerprint(options: Recorded, found: _Found) -> str:
    indices, listings = _indices(options, found), found.listings
    names = {split: [r.file_name for r in indices[split].records] for split in SPLITS}
    contents = {split: _digest(indices[split], listings[split]) for split in SPLITS}
    skip = options.on_bad == "skip"
    return fingerprint(_files(options, listings), names, skip_missing=skip, contents=contents)


def _found(options: Recorded) -> _Found:
    """Find the files of both splits; with `val_fraction`, both are those of the training split."""
    if options.val_fraction:
        (listing,) = options.find(("train",)).values()
        listings = dict.fromkeys(SPLITS, listing)
    else:
        listings = options.find(SPLITS)
    return _Found(_stamp(listings), listings)


def _stamp(listings: Listings) -> str:
    """Return a digest of the names of images and the times and sizes of annotation files."""
    whole = hashlib.sha256()
    for listing in listings.values():
        whole.update("\0".join(listing.images).encode("utf-8", "surrogateescape"))
        for path in (listing.where, *listing.annotations):
            found = path.stat() if exists(path) else None
            whole.update(repr(found and (found.st_mtime_ns, found.st_size)).encode())
    return whole.hexdigest()


@lru_cache(maxsize=2)
def _indices(options: Recorded, found: _Found) -> dict[Split, Index]:
    return options.read(found.listings)


def _digest(index: Index, listing: Listing) -> str:
    """Return the SHA-256 of the classes and of all annotation files, in hex."""
    files = [
        (name, _content(path))
        for name, path in zip(listing.images, listing.annotations, strict=True)
    ]
    return hashlib.sha256(json.dumps([index.classes, files]).encode()).hexdigest()


def _content(path: Path | None) -> str | None:
    """Return the SHA-256 of a file; None if there is none, or it can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if exists(path) else None
    except OSError:  # a problem of `Recorded.read`
        return None


def _files(options: Recorded, listings: Listings) -> Files:
    """Return the places of both splits; names of images are relative to the root."""
    root, none = options.folder, ("root", "root")
    train, val = (SplitFiles(listings[split].where, root, none) for split in SPLITS)
    return Files(root, train, val)


def exists(path: Path | None) -> TypeGuard[Path]:
    """Return whether an annotation file exists; False for a name that is not valid."""
    return path is not None and os.path.isfile(path)


def entries(index: Index, sizes: Mapping[str, tuple[int, int]]) -> tuple[Entries, Problems]:
    """Return the images in `sizes` with their valid boxes, and the problems of the others.

    `area` is that of the box.

    Args:
        index: the annotations.
        sizes: (width, height) of the valid images by file name.
    """
    found, problems = list[Image](), Problems()
    for record in index.records:
        size = sizes.get(record.file_name)
        if size is None:
            continue
        if record.size not in (None, size):
            problems.add(kinds.OTHER_SIZE, [_difference(record, size)])
            continue
        scale = size if index.relative else (1, 1)
        boxes = [_box(drawn, scale, size, problems) for drawn in record.boxes]
        held = [box for box in boxes if box is not None]
        found.append(Image(record.file_name, record.image_id, size, held))
    if form := _other_form(index, sizes):
        problems = problems.without(kinds.OUTSIDE, kinds.PARTLY_OUTSIDE)
        problems.fatal = (form,)
    return Entries.of(found), problems


def _other_form(index: Index, sizes: Mapping[str, tuple[int, int]]) -> str | None:
    """Return what boxes look like if they should be centres and sides, and aren't."""
    if not index.relative:
        return None
    rows = [
        ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, *sizes[record.file_name])
        for record in index.records
        if record.file_name in sizes
        for x1, y1, x2, y2 in (drawn.xyxy for drawn in record.boxes)
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return corners_for_centres(table[:, :4] * np.tile(table[:, 4:], 2), table[:, 4:])


def _difference(record: Record, size: tuple[int, int]) -> str:
    width, height = record.size or size
    return f"{record.file_name}: {size[0]}x{size[1]}, not {width}x{height}"


def _box(
    drawn: Drawn, scale: tuple[int, int], size: tuple[int, int], problems: Problems
) -> Box | None:
    """Return an annotation in pixels, clipped if necessary; None if it is not valid."""
    x1, y1, x2, y2 = drawn.xyxy
    xyxy = (x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1])
    wrong = _box_problem(xyxy, size)
    if wrong is not None:
        problems.add(wrong, [drawn.place])
        if wrong is not kinds.PARTLY_OUTSIDE:
            return None
        xyxy = clipped(xyxy, *size)
    area = (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
    return Box(drawn.place, xyxy, area, drawn.label, drawn.crowd)


def _box_problem(xyxy: Xyxy, size: tuple[int, int]) -> Kind | None:
    x1, y1, x2, y2 = xyxy
    if not all(map(math.isfinite, xyxy)):
        return kinds.BAD_NUMBER
    if min(x2 - x1, y2 - y1) < THINNEST:
        return kinds.DEGENERATE
    return out_of_image(xyxy, *size)
