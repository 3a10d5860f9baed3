"""The base of data sets of photographs: common options, and samples read from image files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator

from detectors.data import problems as kinds
from detectors.data.base import DataError, DataOptions, Expected, Split
from detectors.data.checks import object_problems
from detectors.data.duplicates import repeats
from detectors.data.entries import Entries, Entry
from detectors.data.images import ImageError, read_fitted
from detectors.data.names import Finder
from detectors.data.orientation import Exif
from detectors.data.preparation import Preparation
from detectors.data.problems import Problems
from detectors.options import NOT_IDENTITY
from detectors.structures import ImageTruth, Sample, Targets


class Photos(DataOptions):
    """Options of all data sets of image files."""

    root: str = Field(min_length=1, json_schema_extra=NOT_IDENTITY)
    """Folder of the data set. A relative path starts at the working directory; it is made absolute
    immediately, because workers have other working directories."""
    title: str = Field("", json_schema_extra=NOT_IDENTITY)
    """Name shown in tables; if empty, the name of the root folder."""
    height: int = Field(480, ge=32, le=4096)
    """Height of the detector's input, in pixels. Images are resized to fit inside height x width,
    then padded to this size."""
    width: int = Field(640, ge=32, le=4096)
    """Width of the detector's input, in pixels; see `height`."""
    portrait: Literal["fit", "turn"] = "fit"
    """`fit`: every image is resized to fit inside `height` x `width` and padded to it. `turn`: the
    smaller of the two limits the shorter side of an image and the larger its longer side (the rule
    of Detectron: 800 and 1333), and each side is only padded to the next multiple of 32; images of
    a batch are then padded to the largest of them."""
    exif: Exif = "apply"
    """`apply`: images are turned as their EXIF orientation says, as browsers, annotation tools and
    OpenCV show them, unless only the stored pixels have the width and height of the annotations.
    `ignore`: the stored pixels are used, as in COCO's tools. `refuse`: images with an orientation
    can't be used. The notes count what was done."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """What to do with images and annotations that can't be used: raise an error, or leave them out
    and report it."""
    val_fraction: float = Field(0.0, ge=0, lt=1)
    """Part of the training images that is used for validation instead. The file of the validation
    split is then not read. 0: the data set has its own validation split. The images are those whose
    file names, without folders, have the smallest SHA-256; their number is rounded, but each split
    has at least one. Classes are not balanced."""
    verify: Literal["decode", "header"] = "decode"
    """Whether loading decodes every image, or only reads its size (fast, but damaged images are
    found in training only)."""
    cache_mib: int = Field(512, ge=0, json_schema_extra=NOT_IDENTITY)
    """Memory for resized images per split, in MiB."""
    planned_images: int = Field(0, ge=0, json_schema_extra=NOT_IDENTITY)
    """Number of training images, for plans without reading the data; 0: unknown."""
    planned_classes: int = Field(80, ge=1, json_schema_extra=NOT_IDENTITY)
    """Number of classes, for plans without reading the data."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        return os.path.abspath(root)  # does not resolve links, so messages have the user's names

    @property
    def label(self) -> str:
        """See `DataOptions.label`."""
        return self.title or Path(self.root).name

    def source(self, split: Split) -> str:
        """See `DataOptions.source`."""
        return f"{self.root} ({split})"

    def expected(self) -> Expected:
        """See `DataOptions.expected`."""
        return Expected(self.planned_images, self.planned_classes, self.height, self.width)

    def preparation(self) -> Preparation:
        """See `DataOptions.preparation`. With `exif: refuse`, new pictures are turned upright."""
        exif: Exif = "ignore" if self.exif == "ignore" else "apply"
        return Preparation(height=self.height, width=self.width, portrait=self.portrait, exif=exif)


class PhotoDataset:
    """One split."""

    def __init__(
        self,
        options: Photos,
        folder: Path,
        classes: tuple[str, ...],
        entries: Entries,
        notes: tuple[str, ...],
    ) -> None:
        self.classes = classes
        self.notes = notes
        self._options = options
        self._folder = folder
        self._finder = Finder(folder, Path(options.root))
        self._entries = entries
        self._cache: dict[int, Sample] = {}
        self._free_bytes = options.cache_mib * 2**20

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int, /) -> Sample:
        """Return a sample. Raises IndexError outside of [0, len), DataError for a damaged image."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        if index in self._cache:
            return self._cache[index]
        sample = self._read(self._entries[index])
        if sample.image.nbytes <= self._free_bytes:
            self._free_bytes -= sample.image.nbytes
            self._cache[index] = sample
        return sample

    def truth(self) -> list[ImageTruth]:
        """Return the ground truth in index order; boxes and areas are float64, as in the file."""
        return [entry.truth for entry in self._entries]

    def paths(self) -> list[Path]:
        """Return the path of each image, in index order."""
        return [self._path(name) for name in self._entries.names]

    def _path(self, name: str) -> Path:
        return self._finder.find(name) or self._folder / name

    def _read(self, entry: Entry) -> Sample:
        path, truth, options = self._path(entry.file_name), entry.truth, self._options
        size, turn = (truth.width, truth.height), options.portrait == "turn"
        limits, exif = (options.height, options.width), options.exif
        try:
            image, scale = read_fitted(path, *limits, exif=exif, size=size, turn=turn)
        except ImageError as error:
            raise DataError([f"{path}: {error}; {kinds.UNREADABLE.remedy}"]) from error
        boxes = truth.boxes[~truth.crowd] * torch.tensor([*scale, *scale], dtype=torch.float64)
        extent = (truth.width * scale[0], truth.height * scale[1])
        targets = Targets(boxes.float(), truth.labels[~truth.crowd], extent)
        return Sample(truth.image_id, image, targets, scale)


def check_split(
    options: Photos,
    where: str,
    split: Split,
    usable: Entries,
    problems: Problems,
    lost: Sequence[str],
) -> tuple[str, ...]:
    """Check a split that was read and return its notes.

    Args:
        options: what to do with problems.
        where: the annotation file, for messages.
        split: the split.
        usable: the valid images.
        problems: problems of images and annotations.
        lost: places of valid annotations whose image is not valid.

    Raises:
        DataError: there are problems and `options` refuse them, or a detector can't be trained or
            measured on what is left.
    """
    refused = refusals(options, where, split, None if lost else usable, problems)
    if problems and options.on_bad == "refuse":
        raise DataError(refused)
    problems.add(kinds.WITH_IMAGE, lost)
    if not usable:
        refused.append(f"{where}: no image is left to use")
    elif lost:
        refused += [f"{where}: {line}" for line in object_problems(usable, split)]
    if refused:
        raise DataError([*refused, *problems.notes(where)])
    return (*problems.notes(where), *repeats(usable).notes(where))


def refusals(
    options: Photos, where: str, split: Split, entries: Entries | None, problems: Problems
) -> list[str]:
    """Return why a split is refused, one line each.

    Args:
        options: whether problems are refused.
        where: the annotation file, for messages.
        split: the split.
        entries: the images with their valid annotations; None: objects aren't checked.
        problems: problems of images and annotations.
    """
    lines = list(problems.fatal)
    if entries and not lines:
        lines += object_problems(entries, split)
    found = [f"{where}: {line}" for line in lines]
    return found + (problems.refusals(where) if options.on_bad == "refuse" else [])
