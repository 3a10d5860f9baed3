"""The base of data sets of photographs: common options, and samples read from image files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator
from torch.utils.data import get_worker_info

from detectors.data import problems as kinds
from detectors.data.base import DataError, DataOptions, Expected, Split
from detectors.data.checks import object_problems
from detectors.data.duplicates import repeats
from detectors.data.entries import Entries, Entry
from detectors.data.images import ImageError, Picture, read_fitted, read_rgb, shown_pixels
from detectors.data.names import Finder
from detectors.data.orientation import Exif
from detectors.data.preparation import Preparation
from detectors.data.problems import Problems
from detectors.data.remote import local_root, plain_root
from detectors.data.views import View
from detectors.options import NOT_IDENTITY
from detectors.structures import ImageTruth, Sample, Targets

MOST_WORKERS = 256
"""Largest number of processes that load images for one rank."""


def _check_workers(workers: object) -> object:
    number = workers if isinstance(workers, int) and not isinstance(workers, bool) else -1
    if workers != "auto" and not 0 <= number <= MOST_WORKERS:
        raise ValueError(f"must be auto or an integer from 0 to {MOST_WORKERS}, got {workers!r}")
    return workers


class Photos(DataOptions):
    """Options of all data sets of image files."""

    root: str = Field(min_length=1, json_schema_extra=NOT_IDENTITY)
    """Folder of the data set. A relative path starts at the working directory; it is made absolute
    immediately, because workers have other working directories. An address such as
    s3://bucket/folder is copied once to each machine that uses it."""
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
    found in training only, which then fails, also with `on_bad: skip`)."""
    cache_mib: int = Field(512, ge=0, json_schema_extra=NOT_IDENTITY)
    """Memory for decoded images per split, in MiB: resized ones, or originals if each epoch resizes
    them to another size (`training.train_sides`)."""
    workers: Annotated[int | Literal["auto"], BeforeValidator(_check_workers)] = Field(
        "auto", json_schema_extra=NOT_IDENTITY
    )
    """Processes that decode and augment images for each worker of a trial (its rank), while it
    trains; 0: the worker does so itself. `auto`: with a GPU as many as
    `resources.cpus_per_worker`; without one 0, because training already uses these cores. Results
    do not depend on it."""
    planned_images: int = Field(0, ge=0, json_schema_extra=NOT_IDENTITY)
    """Number of training images for plans where the data can't be read; 0: unknown."""
    planned_classes: int = Field(80, ge=1, json_schema_extra=NOT_IDENTITY)
    """Number of classes for plans where the data can't be read."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        return plain_root(root)  # does not resolve links, so messages have the user's names

    @property
    def folder(self) -> Path:
        """The root on this machine. Raises DataError if a remote one can't be copied."""
        return local_root(self.root)

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

    def loaders(self, cores: int, *, gpu: bool) -> int:
        """See `DataOptions.loaders`."""
        return (cores if gpu else 0) if self.workers == "auto" else self.workers

    def preparation(self) -> Preparation:
        """See `DataOptions.preparation`. With `exif: refuse`, new pictures are turned upright."""
        exif: Exif = "ignore" if self.exif == "ignore" else "apply"
        return Preparation(height=self.height, width=self.width, portrait=self.portrait, exif=exif)


class PhotoDataset:
    """One split. Copies in other processes start with an empty cache, and share its size."""

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
        self._finder = Finder(folder, options.folder)
        self._entries = entries
        self._cache = Cache(options.cache_mib)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_cache": Cache(self._options.cache_mib)}

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int, /) -> Sample:
        """Return a sample. Raises IndexError outside of [0, len), DataError for a damaged image."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        kept: Sample | None = self._cache.get("fitted", index)
        if kept is not None:
            return kept
        with self._naming(index):
            sample = self._fitted(self._entries[index])
        self._cache.put("fitted", index, sample, sample.image.nbytes)
        return sample

    @property
    def sizes(self) -> NDArray[np.int64]:
        """See `detectors.data.views.Viewable.sizes`."""
        return self._entries.sizes

    def view(self, index: int, view: View, /) -> Sample:
        """See `detectors.data.views.Viewable.view`."""
        with self._naming(index):
            image = shown_pixels(self._original(index), view)
        targets = view.targets(*self._entries.objects(index))
        return Sample(int(self._entries.image_ids[index]), image, targets, view.scale)

    def truth(self) -> list[ImageTruth]:
        """Return the ground truth in index order; boxes and areas are float64, as in the file."""
        return [entry.truth for entry in self._entries]

    def paths(self) -> list[Path]:
        """Return the path of each image, in index order."""
        return [self._path(name) for name in self._entries.names]

    def _path(self, name: str) -> Path:
        return self._finder.find(name) or self._folder / name

    def _original(self, index: int) -> Picture:
        """Return an image before it is resized."""
        kept: Picture | None = self._cache.get("original", index)
        if kept is not None:
            return kept
        width, height = self._entries.sizes[index].tolist()
        path = self._path(self._entries.names[index])
        image = read_rgb(path, self._options.exif, (width, height))
        self._cache.put("original", index, image, 4 * width * height)  # as Pillow stores RGB
        return image

    def _fitted(self, entry: Entry) -> Sample:
        path, truth, options = self._path(entry.file_name), entry.truth, self._options
        size, turn = (truth.width, truth.height), options.portrait == "turn"
        limits, exif = (options.height, options.width), options.exif
        image, scale = read_fitted(path, *limits, exif=exif, size=size, turn=turn)
        boxes = truth.boxes[~truth.crowd] * torch.tensor([*scale, *scale], dtype=torch.float64)
        extent = (truth.width * scale[0], truth.height * scale[1])
        targets = Targets(boxes.float(), truth.labels[~truth.crowd], extent)
        return Sample(truth.image_id, image, targets, scale)

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Turn an ImageError into a DataError that names the file of image `index`."""
        try:
            yield
        except ImageError as error:
            path, remedy = self._path(self._entries.names[index]), kinds.UNREADABLE.remedy
            if self._options.on_bad == "skip" and self._options.verify == "header":
                remedy = "set verify to decode, which finds such images before and leaves them out"
            raise DataError([f"{path}: {error}; {remedy}"]) from error


class Cache:
    """Decoded images of one process, up to a size in all processes that load together.

    Args:
        mib: the size in MiB.
    """

    def __init__(self, mib: int) -> None:
        self._bytes = mib * 2**20
        self._used = 0
        self._kept: dict[tuple[str, int], Any] = {}

    def get(self, kind: str, index: int) -> Any:
        """Return what is kept, or None."""
        return self._kept.get((kind, index))

    def put(self, kind: str, index: int, value: object, size: int) -> None:
        """Keep a value of `size` bytes if there is room."""
        together = getattr(get_worker_info(), "num_workers", 1)
        if self._used + size <= self._bytes // together:
            self._used += size
            self._kept[kind, index] = value


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
