"""CrowdHuman: images of crowds, from .odgt files and a folder of images."""

from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field

from detectors.data.base import Dataset, Listed, Split
from detectors.data.crowdhuman_index import Index, entries, is_held
from detectors.data.entries import Entries
from detectors.data.fraction import is_part
from detectors.data.index_file import stored_people
from detectors.data.orientation import UNKNOWN
from detectors.data.photo_files import (
    Files,
    SplitFiles,
    fingerprint,
    image_sizes,
    read_both,
    shared,
)
from detectors.data.photos import PhotoDataset, Photos, check_split, refusals
from detectors.options import NOT_IDENTITY


class CrowdHuman(Photos):
    """Photographs of people with full-body boxes (`fbox`), clipped to the image; one class.

    Samples are in the order of the lines of the file, and the id of an image is its line number,
    from 1. Ignored boxes (see `mask_is_person`) are crowd regions in the ground truth, and are not
    part of the training targets.
    """

    name: Literal["crowdhuman"] = "crowdhuman"
    planned_classes: int = Field(1, ge=1, json_schema_extra=NOT_IDENTITY)
    """See `Photos`."""
    train_odgt: str = Field("annotation_train.odgt", json_schema_extra=NOT_IDENTITY)
    """File of the training split, relative to `root`."""
    val_odgt: str = Field("annotation_val.odgt", json_schema_extra=NOT_IDENTITY)
    """File of the validation split, relative to `root`."""
    images: str = Field("Images", json_schema_extra=NOT_IDENTITY)
    """Folder of the images of both splits, named ID.jpg, relative to `root`."""
    train_images: str = Field("", json_schema_extra=NOT_IDENTITY)
    """Folder of the training images, relative to `root`; if empty, `images`."""
    val_images: str = Field("", json_schema_extra=NOT_IDENTITY)
    """Folder of the validation images, relative to `root`; if empty, `images`."""
    height: int = Field(800, ge=32, le=4096)
    """Height of the detector's input, in pixels. Images are resized to fit inside height x width,
    then padded to this size."""
    width: int = Field(1400, ge=32, le=4096)
    """Width of the detector's input, in pixels; see `height`."""
    mask_is_person: bool = False
    """False: a box is ignored if its tag is not `person` or `extra.ignore` is not 0 (the rule of
    CrowdHuman's evaluator and of DeFCN). True: boxes with any tag are persons, and are ignored only
    if `extra.ignore` is 1 (as OneNet, o2f and DATE convert the data to COCO's format)."""

    def load(self, split: Split) -> Dataset:
        """Return the split; calls with equal options return the same object.

        Raises:
            DataError: with every problem of the split. With `on_bad: skip`, only if a file or
                folder is missing, or there is no valid image.
        """
        return _load(self, self.files(), split)

    def listed(self, split: Split) -> Listed:
        """See `DataOptions.listed`."""
        files = self.files()
        index, where = read_both(files, stored_people)[split], files.of(split).annotations
        kept = is_part(index.people.names, split, self.val_fraction, where)
        problems = refusals(self, str(where), split, None, index.problems)
        most = int(np.diff(index.people.first)[kept].max(initial=0))
        return Listed(int(kept.sum()), 1, tuple(problems), most)

    def fingerprint(self) -> str:
        """Return the SHA-256 of both .odgt files and the names and sizes of their images, in hex.

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
        rows = (
            ("train", self.train_odgt, self.train_images),
            ("val", self.val_odgt, self.val_images),
        )
        train, val = (
            SplitFiles(
                root / odgt,
                root / (images or self.images),
                (f"{split}_odgt", f"{split}_images" if images else "images"),
            )
            for split, odgt, images in rows
        )
        return Files(root, train, train if self.val_fraction else val)


@lru_cache(maxsize=4)
def _load(options: CrowdHuman, files: Files, split: Split) -> PhotoDataset:
    indices, paths = read_both(files, stored_people), files.of(split)
    parts = {key: _part(each, key, options, paths) for key, each in indices.items()}
    index = replace(indices[split], people=parts[split])
    names = dict.fromkeys(index.people.names, UNKNOWN)
    decode = options.verify == "decode"
    sizes, bad_images = image_sizes(names, files, split, decode=decode, exif=options.exif)
    usable, bad_boxes = entries(index, sizes, mask_is_person=options.mask_is_person)
    lost = index.people.places_of(~is_held(index, sizes))
    problems = index.problems.merged(bad_images).merged(bad_boxes)
    notes = check_split(options, str(paths.annotations), split, usable, problems, lost)
    if split == "val":
        notes += shared(files, {key: [*part.names] for key, part in parts.items()})
    return PhotoDataset(options, paths.images, ("person",), usable, notes)


@lru_cache(maxsize=8)
def _fingerprint(options: CrowdHuman, files: Files) -> str:
    indices = read_both(files, stored_people)
    return fingerprint(
        files,
        {split: [*index.people.names] for split, index in indices.items()},
        skip_missing=options.on_bad == "skip",
        contents={split: index.content for split, index in indices.items()},
    )


def _part(index: Index, split: Split, options: CrowdHuman, paths: SplitFiles) -> Entries:
    """Return the images of one split."""
    kept = is_part(index.people.names, split, options.val_fraction, paths.annotations)
    return index.people.take(kept)
