"""Data sets in COCO's format: one JSON file and one folder of images per split."""

from dataclasses import replace
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from detectors.data import problems as kinds
from detectors.data.base import DataError, Dataset, Listed, Split
from detectors.data.coco_index import Index, with_sizes
from detectors.data.entries import Entries
from detectors.data.fraction import is_part
from detectors.data.index_file import stored_index
from detectors.data.orientation import PartialSize
from detectors.data.photo_files import (
    Files,
    SplitFiles,
    fingerprint,
    image_sizes,
    read_both,
    shared,
)
from detectors.data.photos import Photos, check_split, refusals
from detectors.data.problems import Problems
from detectors.data.segmented import SegmentedPhotos
from detectors.options import NOT_IDENTITY


class CocoFiles(Photos):
    """Options of formats with one JSON file of COCO and one folder of images per split."""

    segmented: ClassVar[bool] = True
    train_json: str = Field("train.json", json_schema_extra=NOT_IDENTITY)
    """File of the training split, relative to `root`."""
    val_json: str = Field("val.json", json_schema_extra=NOT_IDENTITY)
    """File of the validation split, relative to `root`."""
    train_images: str = Field("images", json_schema_extra=NOT_IDENTITY)
    """Folder of the training images, relative to `root`; `file_name` is relative to it."""
    val_images: str = Field("images", json_schema_extra=NOT_IDENTITY)
    """Folder of the validation images, relative to `root`."""
    val_note: ClassVar[str] = ""
    """A note on the validation split."""

    def load(self, split: Split) -> Dataset:
        """Return the split; calls with equal options return the same object.

        Raises:
            DataError: with every problem of the split. With `on_bad: skip`, only if a file or
                folder is missing, a file is not COCO, or there is no valid image.
        """
        return _load(self, self.files(), split)

    def listed(self, split: Split) -> Listed:
        """See `DataOptions.listed`."""
        files = self.files()
        index, where = _indices(files)[split], files.of(split).annotations
        index = with_sizes(index, {})
        kept = is_part(index.entries.names, split, self.val_fraction, where)
        entries = index.entries.take(kept)
        problems = refusals(self, str(where), split, entries, index.problems)
        most = int(np.diff(entries.first).max(initial=0))
        return Listed(len(entries), len(index.categories), tuple(problems), most)

    def fingerprint(self) -> str:
        """Return the SHA-256 of both JSON files and the names and sizes of their images, in hex.

        It is computed again only after an annotation file has changed.

        Raises:
            DataError: a file is missing. With `on_bad: skip`, images may be missing.
        """
        return _fingerprint(self, self.files())

    def source(self, split: Split) -> str:
        """See `DataOptions.source`."""
        return str(self.files().of(split).annotations)

    def files(self) -> Files:
        """Return the paths of both splits."""
        root = self.folder
        train = SplitFiles(
            root / self.train_json, root / self.train_images, ("train_json", "train_images")
        )
        val = SplitFiles(root / self.val_json, root / self.val_images, ("val_json", "val_images"))
        return Files(root, train, train if self.val_fraction else val)


class Coco(CocoFiles):
    """Photographs with boxes, from COCO JSON files.

    Labels are in the order of category ids, samples in the order of image ids. Crowd regions are
    part of the ground truth, but not of the training targets. An image without `width` and `height`
    in the file has the size of its picture, and one without `file_name` is named by the last folder
    and name of its `coco_url`.

    An annotation without `id` is named by its position, and one without `bbox` has the box around
    its `segmentation` (polygons or RLE). `ignore: 1` makes it a crowd region; pycocotools
    overwrites `ignore` by `iscrowd`, so it evaluates such annotations as objects.
    """

    name: Literal["coco"] = "coco"


@lru_cache(maxsize=4)
def _load(options: CocoFiles, files: Files, split: Split) -> SegmentedPhotos:
    indices, paths = _indices(files), files.of(split)
    parts = {key: _part(each, key, options, paths) for key, each in indices.items()}
    index = replace(indices[split], entries=parts[split])
    decode = options.verify == "decode"
    sizes, found = image_sizes(_sizes(parts[split]), files, split, decode=decode, exif=options.exif)
    index = with_sizes(index, sizes)
    expected = zip(index.entries.names, index.entries.sizes.tolist(), strict=True)
    kept = np.array([sizes.get(name) == tuple(size) for name, size in expected], dtype=np.bool_)
    usable = index.entries.take(kept)
    lost = [*index.lost, *index.entries.places_of(~kept)]
    problems = index.problems.merged(found).merged(_other_sizes(index, sizes))
    where = str(paths.annotations)
    notes = (*index.notes, *check_split(options, where, split, usable, problems, lost))
    if split == "val":
        notes += (f"{where}: {options.val_note}",) if options.val_note else ()
        notes += shared(files, {key: [*part.names] for key, part in parts.items()})
    classes = tuple(name for _, name in index.categories)
    return SegmentedPhotos(options, paths.images, classes, usable, notes, paths.annotations)


@lru_cache(maxsize=8)
def _fingerprint(options: CocoFiles, files: Files) -> str:
    indices = read_both(files, stored_index)
    return fingerprint(
        files,
        {split: [*index.entries.names] for split, index in indices.items()},
        skip_missing=options.on_bad == "skip",
        contents={split: index.content for split, index in indices.items()},
        rules={split: index.rules for split, index in indices.items()},
    )


def _indices(files: Files) -> dict[Split, Index]:
    """Read both splits. Raises DataError if one is missing, not COCO, or has other categories."""
    indices = read_both(files, stored_index)
    train, val = indices["train"], indices["val"]
    if train.categories != val.categories:
        raise DataError(
            [
                f"{files.val.annotations}: categories {_shown(val)} differ from {_shown(train)} in "
                f"{files.train.annotations}; give both files the same ids and names"
            ]
        )
    return indices


def _part(index: Index, split: Split, options: CocoFiles, paths: SplitFiles) -> Entries:
    """Return the images of one split."""
    kept = is_part(index.entries.names, split, options.val_fraction, paths.annotations)
    return index.entries.take(kept)


def _sizes(entries: Entries) -> dict[str, PartialSize]:
    """Return the width and height of each image, as far as they are known, by name."""
    sizes = entries.sizes.tolist()
    return {name: (w or None, h or None) for name, (w, h) in zip(entries.names, sizes, strict=True)}


def _other_sizes(index: Index, sizes: dict[str, tuple[int, int]]) -> Problems:
    """Return a problem for each image whose size differs from that in the JSON file."""
    problems = Problems()
    for name, written in zip(index.entries.names, index.entries.sizes.tolist(), strict=True):
        expected = tuple(written)
        size = sizes.get(name, expected)
        if size != expected:
            difference = f"{name}: {size[0]}x{size[1]}, not {expected[0]}x{expected[1]}"
            problems.add(kinds.OTHER_SIZE, [difference])
    return problems


def _shown(index: Index) -> str:
    return ", ".join(f"{id_} {name}" for id_, name in index.categories)
