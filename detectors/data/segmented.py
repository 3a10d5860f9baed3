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
        self._annotations = annotations

    def __getstate__(self) -> dict[str, object]:
        state = super().__getstate__()
        state.pop("_found", None)  # other processes map the file themselves
        return state

    @cached_property
    def _found(self) -> _Found:
        table = stored_segmentations(self._annotations)
        return _Found(table, *table.rows_of(self._entries.places))

    def segmented(self, index: int, /) -> ImageTruth:
        """See `Segmented.segmented`."""
        truth, first = self._entries[index].truth, int(self._entries.first[index])
        size = (truth.width, truth.height)
        found = [self._segmentation(first + number) for number in range(len(truth.labels))]
        if any(each is None or not _fits(each, *size) for each in found):
            raise DataError(self.mask_problems())
        return replace(truth, masks=Rles.of(of_segmentation(each, size) for each in found))

    def mask_problems(self) -> list[str]:
        """See `Segmented.mask_problems`."""
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
            f"{self._annotations}: {len(found)} annotations {what} ({_first(found)}); {_REMEDY}"
            for what, found in lines.items()
            if found
        ]

    def _text(self, number: int) -> str:
        row = int(self._found.rows[number])
        return self._found.table.texts[row] if row >= 0 else ""

    def _segmentation(self, number: int) -> Any:
        text = self._text(number)
        return json.loads(text) if text else None


_REMEDY = "correct them, or train without masks (detector.masks: null)"


def _fits(segmentation: Any, width: int, height: int) -> bool:
    """Return whether an RLE is as large as its image; True for polygons."""
    return not isinstance(segmentation, dict) or segmentation["size"] == [height, width]


def _first(places: list[str]) -> str:
    return ", ".join([*places[:_SHOWN], *(["..."] if len(places) > _SHOWN else [])])
