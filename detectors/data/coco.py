"""Any detection data set in COCO's format: a JSON file for each split, and its folder of images."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator

from detectors.data import problems as kinds
from detectors.data.base import DataError, DataOptions, Dataset, Split
from detectors.data.coco_files import Files, check_images, fingerprint, read_indices
from detectors.data.coco_index import Entry
from detectors.data.images import ImageError, read_fitted
from detectors.options import NOT_IDENTITY
from detectors.structures import ImageTruth, Sample, Targets


class Coco(DataOptions):
    """Photographs with boxes, from COCO JSON files.

    Labels follow the order of category ids, samples that of image ids. Crowd regions are in the
    truth and not in the training targets. An EXIF orientation is not applied, as in COCO's tools.
    """

    name: Literal["coco"] = "coco"
    root: str = Field(min_length=1, json_schema_extra=NOT_IDENTITY)
    """The data set's folder. A relative path starts at the working directory and is made absolute
    at once, because workers have other working directories."""
    train_json: str = Field("train.json", json_schema_extra=NOT_IDENTITY)
    """The training split's file, relative to `root`."""
    val_json: str = Field("val.json", json_schema_extra=NOT_IDENTITY)
    """The validation split's file, relative to `root`."""
    train_images: str = Field("images", json_schema_extra=NOT_IDENTITY)
    """The folder that `file_name` starts from in the training split, relative to `root`."""
    val_images: str = Field("images", json_schema_extra=NOT_IDENTITY)
    """The same for the validation split."""
    title: str = Field("", json_schema_extra=NOT_IDENTITY)
    """What tables call the data set; if empty, the name of the root folder."""
    height: int = Field(480, ge=32, le=4096)
    """Pixels the detector sees: images are resized to fit inside, then padded to this size."""
    width: int = Field(640, ge=32, le=4096)
    """Pixels the detector sees; see `height`."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """What to do about images and annotations that can't be used: stop, or leave out and say so."""
    verify: Literal["decode", "header"] = "decode"
    """Loading decodes every image, or only reads its size (fast; damage shows in training)."""
    cache_mib: int = Field(512, ge=0, json_schema_extra=NOT_IDENTITY)
    """MiB of resized images that each split keeps in memory."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        return os.path.abspath(root)  # keeps links, so their names stay in messages

    @property
    def label(self) -> str:
        """What tables call this data set."""
        return self.title or self._files().root.name

    def load(self, split: Split) -> Dataset:
        """The split; shared by everything in this process that asks for it with equal options.

        Raises DataError with every problem of the split; with `on_bad: skip` only where a file or
        folder is missing, is not COCO, or holds no image that can be used.
        """
        return _load(self, self._files(), split)

    def fingerprint(self) -> str:
        """SHA-256 of both JSON files and of the names and sizes of their images, in hex.

        Read once in a process. Raises DataError where a file is missing; with `on_bad: skip` a
        missing image is part of the fingerprint instead.
        """
        return _fingerprint(self, self._files())

    def _files(self) -> Files:
        root = Path(self.root)
        places = (self.train_json, self.val_json, self.train_images, self.val_images)
        return Files(root, *(root / place for place in places))


class CocoDataset:
    """One split, ready to read."""

    def __init__(
        self,
        options: Coco,
        folder: Path,
        classes: tuple[str, ...],
        entries: Sequence[Entry],
        notes: tuple[str, ...],
    ) -> None:
        self.classes = classes
        self.notes = notes
        self._options = options
        self._folder = folder
        self._entries = entries
        self._kept: dict[int, Sample] = {}
        self._room = options.cache_mib * 2**20 // (3 * options.height * options.width)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int, /) -> Sample:
        """Sample `index`. Raises IndexError outside [0, len), DataError for a damaged image."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        if index in self._kept:
            return self._kept[index]
        sample = self._read(self._entries[index])
        if len(self._kept) < self._room:
            self._kept[index] = sample
        return sample

    def truth(self) -> list[ImageTruth]:
        """Ground truth in index order, boxes and areas float64 as in the JSON."""
        return [entry.truth for entry in self._entries]

    def _read(self, entry: Entry) -> Sample:
        path, truth = self._folder / entry.file_name, entry.truth
        try:
            image, scale = read_fitted(path, self._options.height, self._options.width)
        except ImageError as error:
            raise DataError([f"{path}: {error}; {kinds.UNREADABLE.remedy}"]) from error
        boxes = truth.boxes[~truth.crowd] * torch.tensor([*scale, *scale], dtype=torch.float64)
        return Sample(
            truth.image_id, image, Targets(boxes.float(), truth.labels[~truth.crowd]), scale
        )


@lru_cache(maxsize=4)
def _load(options: Coco, files: Files, split: Split) -> CocoDataset:
    index, where = read_indices(files)[split], str(files.json(split))
    folder = files.images(split)
    usable, found = check_images(index.entries, folder, decode=options.verify == "decode")
    problems = index.problems.merged(found)
    if problems and options.on_bad == "refuse":
        raise DataError(problems.refusals(where))
    kept = {entry.truth.image_id for entry in usable}
    lost = [entry for entry in index.entries if entry.truth.image_id not in kept]
    problems.add(kinds.WITH_IMAGE, [str(a) for entry in lost for a in entry.annotations])
    if not usable:
        raise DataError([f"{where}: no image is left to use", *problems.notes(where)])
    classes = tuple(name for _, name in index.categories)
    return CocoDataset(options, folder, classes, usable, problems.notes(where))


@lru_cache(maxsize=8)
def _fingerprint(options: Coco, files: Files) -> str:
    return fingerprint(files, skip_missing=options.on_bad == "skip")
