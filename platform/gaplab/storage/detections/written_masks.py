"""Masks of detections as COCO's results have them: a run-length encoding (RLE) per row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detectors.data.masks import check, extent
from detectors.rle import Rles, of_segmentation

Row = Mapping[str, Any]
Ints = NDArray[np.int64]

NO_MASK = "without a mask"
NO_RLE = "whose mask is polygons, not an RLE"
NOT_SOUND = "whose RLE is not sound: counts must be COCO's text and add up to size"
OTHER_SIZE = "whose RLE has another size than their image"
_FAULTS = ("", NO_MASK, NO_RLE, NOT_SOUND)
_KEY = "segmentation"
_NONE = [0.0, 0.0, 0.0, 0.0]


@dataclass(frozen=True, eq=False)
class Written:
    """The masks of M rows.

    Attributes:
        counts: [M] bytes: COCO's compressed counts; empty for a row with a fault.
        sizes: [M, 2] (height, width) of each mask; 0 for a row with a fault.
        faults: [M] index in `_FAULTS`. Counts are not checked yet.
    """

    counts: NDArray[np.object_]
    sizes: Ints
    faults: Ints

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Self | None:
        """Return the masks of COCO's results; None if no row has any."""
        if not any(_KEY in row for row in rows):
            return None
        counts, sizes, faults = zip(*(_read(row.get(_KEY)) for row in rows), strict=True)
        return cls(Rles.of(counts).counts, np.array(sizes), np.array(faults))

    @classmethod
    def none(cls, number: int) -> Self:
        """Return the masks of rows that have none."""
        fault = np.full(number, _FAULTS.index(NO_MASK))
        return cls(Rles.none(number).counts, np.zeros((number, 2), dtype=np.int64), fault)

    @classmethod
    def joined(cls, parts: Sequence[tuple[Self | None, int]]) -> Self | None:
        """Concatenate the masks of so many rows; None if no part has any."""
        if all(part is None for part, _ in parts):
            return None
        whole = [vars(part or cls.none(rows)).values() for part, rows in parts]
        return cls(*map(np.concatenate, zip(*whole, strict=True)))

    def __getitem__(self, index: NDArray[Any]) -> "Written":
        """Return the masks at positions or for a bool mask, in that order."""
        return Written(*(column[index] for column in vars(self).values()))

    def rles(self, sizes: NDArray[Any]) -> Rles:
        """Return the masks; none for rows with a fault or with a mask of another size.

        sizes: [M, 2] width and height of the image of each row.
        """
        fits = (self.sizes[:, ::-1] == sizes).all(axis=1) & (self.faults == 0)
        return Rles(np.where(fits, self.counts, b""))

    def wrong(self, sizes: NDArray[Any]) -> Iterator[tuple[int, str]]:
        """Yield the positions of rows whose masks can't be used, and why; arguments of `rles`."""
        columns = (self.counts, self.sizes.tolist(), sizes.tolist(), self.faults.tolist())
        for row, (counts, (height, width), size, fault) in enumerate(zip(*columns, strict=True)):
            if fault:
                yield row, _FAULTS[fault]
            elif not _is_sound(counts, height, width):
                yield row, NOT_SOUND
            elif [width, height] != size:
                yield row, OTHER_SIZE


def _read(segmentation: Any) -> tuple[bytes, tuple[int, int], int]:
    """Return counts, size and fault of one row. Uncompressed counts are compressed."""
    if segmentation is None or segmentation == []:
        return b"", (0, 0), _FAULTS.index(NO_MASK)
    if not isinstance(segmentation, Mapping):
        return b"", (0, 0), _FAULTS.index(NO_RLE)
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    try:
        height, width = (int(side) for side in size or ())
        if isinstance(counts, list):
            own = {"counts": counts, "size": [height, width]}
            check(own)
            return of_segmentation(own, (width, height)), (height, width), 0
        if not isinstance(counts, str) or not counts:
            raise ValueError("no counts")
        return counts.encode("ascii"), (height, width), 0
    except (TypeError, ValueError, OverflowError):
        return b"", (0, 0), _FAULTS.index(NOT_SOUND)


def _is_sound(counts: bytes, height: int, width: int) -> bool:
    """Return whether compressed counts add up to the size."""
    try:
        check({"counts": counts.decode("ascii"), "size": [height, width]})
    except ValueError:
        return False
    return True


def with_boxes(rows: Sequence[Any], *, corners: bool) -> tuple[Sequence[Any], int]:
    """Return rows, those without a box with the one around their mask, and the number of these.

    A row lacks a box if `bbox` is missing, or 0, 0, 0, 0, which models that predict masks alone
    write. Rows whose masks are not sound, or have no pixel, stay as they are.

    Args:
        rows: COCO's results; rows of another form stay as they are.
        corners: whether boxes are written as corners, else as a corner and sides.
    """
    found = dict(_around_masks(rows))
    if not found:
        return rows, 0
    filled = [*rows]
    for number, (x, y, width, height) in found.items():
        last = [x + width, y + height] if corners else [width, height]
        filled[number] = {**rows[number], "bbox": [x, y, *last]}
    return filled, len(found)


def _around_masks(rows: Sequence[Any]) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not isinstance(row.get(_KEY), Mapping):
            continue
        if row.get("bbox", _NONE) not in (_NONE, None):
            continue
        try:
            box = extent(_plain(row[_KEY]))
        except ValueError:
            continue
        if box != tuple(_NONE) or "bbox" not in row:
            yield number, box


def _plain(segmentation: Row) -> dict[str, Any]:
    """Return an RLE whose counts are text or a list."""
    counts = segmentation.get("counts")
    plain = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    return {"counts": plain, "size": segmentation.get("size")}
