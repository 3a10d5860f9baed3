"""Photographs whose objects have masks: COCO's segmentations, read when they are first needed."""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from detectors.data.base import DataError
from detectors.data.entries import Entries, Ints
from detectors.data.photos import PhotoDataset, Photos
from detectors.data.segmentations import Segmentations, stored_segmentations
from detectors.rle import Rles, of_segmentation
from detectors.structures import ImageTruth

_SHOWN = 3


class _Found(NamedTuple):
    """The segmentations of a file, and which of them each object has."""

    table: Segmentations
    rows: Ints
    repeated: list[str]


class ObjectMasks:
    """The masks of the objects of a COCO file, read when they are first needed.

    Args:
        entries: the images of the file with their objects.
        annotations: the file.
        remedy: what to do if they can't be used.
    """

    def __init__(self, entries: Entries, annotations: Path, remedy: str) -> None:
        self._entries, self._annotations, self._remedy = entries, annotations, remedy

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_found"}

    @cached_property
    def _found(self) -> _Found:
        table = stored_segmentations(self._annotations)
        return _Found(table, *table.rows_of(self._entries.places))

    def of(self, index: int) -> Rles:
        """Return the masks of the objects of an image. Raises DataError if they can't be used."""
        first, last = self._entries.first[index : index + 2].tolist()
        width, height = self._entries.sizes[index].tolist()
        found = [self._segmentation(number) for number in range(first, last)]
        if any(each is None or not _fits(each, width, height) for each in found):
            raise DataError(self.problems())
        return Rles.of(of_segmentation(each, (width, height)) for each in found)

    def all(self) -> Rles:
        """Return the masks of all objects. Raises DataError if they can't be used."""
        return Rles.join(self.of(index) for index in range(len(self._entries)))

    def problems(self) -> list[str]:
        """Return why masks of objects can't be used, one line each."""
        places, repeated = self._entries.places, set(self._found.repeated)
        sizes = self._entries.sizes[self._entries.image_of_box()].tolist()
        missing, other, again = list[str](), list[str](), list[str]()
        for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
            text = self._text(number)
            if not text:
                missing.append(place)
            elif text.startswith("{") and not _fits(json.loads(text), *size):
                other.append(place)
            if place in repeated:
                again.append(place)
        lines = {
            "without segmentation, or with one that is not sound": missing,
            "whose RLE has another size than their image": other,
            "with the id of another one": again,
        }
        return [
            f"{self._annotations}: {len(found)} annotations {what} ({_first(found)}); "
            f"{self._remedy}"
            for what, found in lines.items()
            if found
        ]

    def _text(self, number: int) -> str:
        row = int(self._found.rows[number])
        return self._found.table.texts[row] if row >= 0 else ""

    def _segmentation(self, number: int) -> Any:
        text = self._text(number)
        return json.loads(text) if text else None


class SegmentedPhotos(PhotoDataset):
    """One split of a COCO file; see `Segmented`."""

    def __init__(
        self,
        options: Photos,
        folder: Path,
        classes: tuple[str, ...],
        entries: Entries,
        notes: tuple[str, ...],
        annotations: Path,
    ) -> None:
        super().__init__(options, folder, classes, entries, notes)
        self._masks = ObjectMasks(entries, annotations, _REMEDY)

    def segmented(self, index: int, /) -> ImageTruth:
        """See `Segmented.segmented`."""
        return replace(self._entries[index].truth, masks=self._masks.of(index))

    def mask_problems(self) -> list[str]:
        """See `Segmented.mask_problems`."""
        return self._masks.problems()


_REMEDY = "correct them, or train without masks (detector.masks: null)"


def _fits(segmentation: Any, width: int, height: int) -> bool:
    """Return whether an RLE is as large as its image; True for polygons."""
    return not isinstance(segmentation, dict) or segmentation["size"] == [height, width]


def _first(places: list[str]) -> str:
    return ", ".join([*places[:_SHOWN], *(["..."] if len(places) > _SHOWN else [])])
