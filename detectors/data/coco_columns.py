"""The annotations of a COCO file in columns, which are checked without an object for each.

Annotations that do not have the keys and types of `StrictAnnotation`, or that are not sound, are
left to the code that finds out what is wrong with them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import SchemaValidator, core_schema

from detectors.data.coco_schema import Image, StrictAnnotation
from detectors.data.entries import THINNEST, TOLERANCE, Flags, Floats, Ints
from detectors.data.json_blocks import Block, Divided, Rows, elements

LARGEST = 2.0**53
"""Larger numbers are read as they are written, because not all have an exact float."""


def _field(schema: Any, required: bool = True) -> core_schema.TypedDictField:
    return core_schema.typed_dict_field(schema, required=required)


def _integer(**limits: int) -> core_schema.IntSchema:
    return core_schema.int_schema(strict=True, **limits)  # type: ignore[arg-type]


_NUMBER = core_schema.float_schema(strict=True)
PLAIN = SchemaValidator(
    core_schema.list_schema(
        core_schema.typed_dict_schema(
            {
                "id": _field(_integer()),
                "image_id": _field(_integer()),
                "category_id": _field(_integer()),
                "bbox": _field(core_schema.list_schema(_NUMBER, min_length=4, max_length=4)),
                "area": _field(core_schema.nullable_schema(_NUMBER), required=False),
                "iscrowd": _field(_integer(ge=0, le=1), required=False),
                "ignore": _field(_integer(ge=0, le=0), required=False),
            }
        )
    )
)
"""Accepts lists of annotations that are also valid as `StrictAnnotation`, without segmentations."""


class Columns(NamedTuple):
    """N annotations."""

    ids: Ints
    images: Ints
    """[N], the ids of the images."""
    categories: Ints
    numbers: Floats
    """[N, 4], x, y, width and height."""
    areas: Floats
    has_area: Flags
    crowd: Flags

    def annotation(self, row: int) -> StrictAnnotation:
        """Return one annotation."""
        return StrictAnnotation.model_construct(
            id=int(self.ids[row]),
            image_id=int(self.images[row]),
            category_id=int(self.categories[row]),
            bbox=self.numbers[row].tolist(),
            area=float(self.areas[row]) if self.has_area[row] else None,
            iscrowd=int(self.crowd[row]),
        )


class Part(NamedTuple):
    """Consecutive annotations of a file."""

    columns: Columns | None
    """None: not all of them are plain."""
    raw: Callable[[], list[Any]]
    """Returns them as they are written."""


def parts_of(place: Divided) -> tuple[list[Part], dict[str, Any]]:
    """Parse the annotations, and the rest of the file. Raises ValueError if they can't be divided.

    Args:
        place: the list of annotations.
    """
    parts, end = list[Part](), place.start
    for block in place.blocks(PLAIN):
        where = Block(block.start, block.end, None)
        parts.append(Part(columns_of(block.rows or []), partial(elements, place.text, where)))
        end = block.end
    return parts, place.rest(end)


def columns_of(rows: Rows) -> Columns | None:
    """Return rows that `PLAIN` accepted as columns; None if there is none, or a huge number."""
    try:
        ids, images, categories = (
            np.array([row[key] for row in rows], dtype=np.int64)
            for key in ("id", "image_id", "category_id")
        )
    except OverflowError:
        return None
    written = chain.from_iterable(row["bbox"] for row in rows)
    numbers = np.fromiter(written, dtype=np.float64, count=4 * len(rows)).reshape(-1, 4)
    areas = np.array([row.get("area") for row in rows], dtype=np.float64)
    crowd = np.array([row.get("iscrowd", 0) for row in rows], dtype=np.bool_)
    if not rows or (np.abs(areas) > LARGEST).any() or (np.abs(numbers) > LARGEST).any():
        return None
    has_area = ~np.isnan(areas)
    for row in np.flatnonzero(~has_area).tolist():
        has_area[row] = rows[row].get("area") is not None
    return Columns(ids, images, categories, numbers, areas, has_area, crowd)


class Known:
    """The images and categories of a file to which annotations may belong."""

    def __init__(self, images: Mapping[int, Image], labels: Mapping[int, int]) -> None:
        """Create the tables; images without a size and huge ones are not known.

        Args:
            images: images by id.
            labels: labels by id of the category.
        """
        rows = sorted((id_, i.width, i.height) for id_, i in images.items() if _is_usual(i))
        self._images = np.array(rows, dtype=np.int64).reshape(-1, 3)
        usual = sorted((id_, label) for id_, label in labels.items() if abs(id_) < LARGEST)
        self._labels = np.array(usual, dtype=np.int64).reshape(-1, 2)

    def sound(self, columns: Columns) -> "Sound":
        """Return the annotations without any problem."""
        image, known_image = _found(self._images[:, 0], columns.images)
        label, known_label = _found(self._labels[:, 0], columns.categories)
        kept = np.flatnonzero(known_image & known_label)
        sizes = self._images[image[kept], 1:].astype(np.float64)
        x_y, w_h = columns.numbers[kept, :2], columns.numbers[kept, 2:]
        corners = np.concatenate([x_y, x_y + w_h], axis=1)
        areas = np.where(columns.has_area[kept], columns.areas[kept], w_h[:, 0] * w_h[:, 1])
        good = np.isfinite(columns.numbers[kept]).all(axis=1) & (areas >= 0)
        good &= w_h.min(axis=1, initial=np.inf) >= THINNEST
        good &= np.minimum(corners[:, 2:], sizes - x_y).min(axis=1, initial=np.inf) >= THINNEST
        beyond = np.maximum(-x_y, corners[:, 2:] - sizes).max(axis=1, initial=-np.inf)
        good &= beyond <= TOLERANCE
        rows = kept[good]
        written = np.concatenate([columns.numbers[rows], sizes[good]], axis=1)
        labels = self._labels[label[rows], 1]
        return Sound(rows, corners[good], areas[good], labels, written)


class Sound(NamedTuple):
    """The annotations of some columns that have no problem."""

    rows: Ints
    """Their positions in the columns."""
    corners: Floats
    """[N, 4] xyxy."""
    areas: Floats
    labels: Ints
    written: Floats
    """[N, 6], x, y, width and height of the box, and width and height of the image."""


def _is_usual(image: Image) -> bool:
    return max(image.width or LARGEST, image.height or LARGEST) < LARGEST


def _found(table: Ints, ids: Ints) -> tuple[Ints, Flags]:
    """Return the position of ids in a sorted table, and whether it has them."""
    if not len(table):
        return np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=np.bool_)
    position = np.minimum(np.searchsorted(table, ids), len(table) - 1)
    return position, table[position] == ids


def categories_of(parts: Iterable[Part]) -> Iterator[Any]:
    """Yield the category ids of all annotations, as they are written."""
    for part in parts:
        if part.columns is not None:
            yield from np.unique(part.columns.categories).tolist()
        else:
            yield from (each.get("category_id") for each in part.raw() if isinstance(each, dict))


def as_part(annotations: Sequence[Any]) -> Part:
    """Return annotations that are in memory."""
    return Part(None, lambda: [*annotations])
