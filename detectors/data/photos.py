"""What data sets of photographs share: their options, and samples read from image files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator

from detectors.data import problems as kinds
from detectors.data.base import DataError, DataOptions, Expected
from detectors.data.entries import Entry
from detectors.data.images import ImageError, read_fitted
from detectors.data.problems import Problems
from detectors.options import NOT_IDENTITY
from detectors.structures import ImageTruth, Sample, Targets


class Photos(DataOptions):
    """Options of every data set of image files; an EXIF orientation is never applied."""

    root: str = Field(min_length=1, json_schema_extra=NOT_IDENTITY)
    """The data set's folder. A relative path starts at the working directory and is made absolute
    at once, because workers have other working directories."""
    title: str = Field("", json_schema_extra=NOT_IDENTITY)
    """What tables call the data set; if empty, the name of the root folder."""
    height: int = Field(480, ge=32, le=4096)
    """Pixels the detector sees: images are resized to fit inside, then padded to this size."""
    width: int = Field(640, ge=32, le=4096)
    """Pixels the detector sees; see `height`."""
    portrait: Literal["fit", "turn"] = "fit"
    """`fit`: every image is fitted into `height` x `width` and padded to it. `turn`: the smaller of
    the two limits the image's shorter side and the larger its longer side, whichever way it stands
    (detectron's rule: 800 and 1333), and each side is padded to the next multiple of 32 only;
    images of a batch are then padded to the largest of them."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """What to do about images and annotations that can't be used: stop, or leave out and say so."""
    verify: Literal["decode", "header"] = "decode"
    """Loading decodes every image, or only reads its size (fast; damage shows in training)."""
    cache_mib: int = Field(512, ge=0, json_schema_extra=NOT_IDENTITY)
    """MiB of resized images that each split keeps in memory."""
    planned_images: int = Field(0, ge=0, json_schema_extra=NOT_IDENTITY)
    """Training images, for plans made before the data was read; 0: unknown."""
    planned_classes: int = Field(80, ge=1, json_schema_extra=NOT_IDENTITY)
    """Classes, for the same."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        return os.path.abspath(root)  # keeps links, so their names stay in messages

    @property
    def label(self) -> str:
        """What tables call this data set."""
        return self.title or Path(self.root).name

    def expected(self) -> Expected:
        """See `DataOptions.expected`."""
        return Expected(self.planned_images, self.planned_classes, self.height, self.width)


class PhotoDataset:
    """One split, ready to read."""

    def __init__(
        self,
        options: Photos,
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
        self._room = options.cache_mib * 2**20

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int, /) -> Sample:
        """Sample `index`. Raises IndexError outside [0, len), DataError for a damaged image."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        if index in self._kept:
            return self._kept[index]
        sample = self._read(self._entries[index])
        if sample.image.nbytes <= self._room:
            self._room -= sample.image.nbytes
            self._kept[index] = sample
        return sample

    def truth(self) -> list[ImageTruth]:
        """Ground truth in index order, boxes and areas float64 as in the annotation file."""
        return [entry.truth for entry in self._entries]

    def _read(self, entry: Entry) -> Sample:
        path, truth, options = self._folder / entry.file_name, entry.truth, self._options
        turn = options.portrait == "turn"
        try:
            image, scale = read_fitted(path, options.height, options.width, turn=turn)
        except ImageError as error:
            raise DataError([f"{path}: {error}; {kinds.UNREADABLE.remedy}"]) from error
        boxes = truth.boxes[~truth.crowd] * torch.tensor([*scale, *scale], dtype=torch.float64)
        extent = (truth.width * scale[0], truth.height * scale[1])
        targets = Targets(boxes.float(), truth.labels[~truth.crowd], extent)
        return Sample(truth.image_id, image, targets, scale)


def admitted(
    options: Photos, where: str, usable: Sequence[Entry], problems: Problems, lost: Sequence[str]
) -> tuple[str, ...]:
    """The notes of a split that may be used, `problems` and `lost` left out.

    lost: the places of good annotations whose image is not usable. Raises DataError where there are
    problems and the options refuse them, or where no image is usable.
    """
    if problems and options.on_bad == "refuse":
        raise DataError(problems.refusals(where))
    problems.add(kinds.WITH_IMAGE, lost)
    if not usable:
        raise DataError([f"{where}: no image is left to use", *problems.notes(where)])
    return problems.notes(where)
