"""Detections as a file has them: ids or names of images and categories, boxes and scores."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gaplab.storage.detections.written_masks import Written

Key = int | str
"""The id or the name of an image or a category."""
BoxForm = Literal["xywh", "xyxy", "yolo"]
"""How a box is written. `xywh`: left, top, width, height in pixels, as in COCO. `xyxy`: left, top,
right, bottom in pixels. `yolo`: centre x, centre y, width, height as fractions of the image."""
Ints = NDArray[np.int64]
Floats = NDArray[np.floating]


class KeyTable(dict[Key, int]):
    """Numbers distinct keys in the order in which they come."""

    def __missing__(self, key: Key) -> int:
        """Number a new key."""
        number = self[key] = len(self)
        return number

    def codes(self, keys: Iterable[Key]) -> Ints:
        """Return the number of each key."""
        return np.fromiter(map(self.__getitem__, keys), dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """Detections of whole images, in the order of the file.

    Attributes:
        image: [M] position of each image in `Source.images`.
        category: [M] position of each category in `Source.categories`.
        boxes: [M, 4] as written, see `Source.form`.
        scores: [M].
        masks: [M]; None: no row has any.
    """

    image: Ints
    category: Ints
    boxes: Floats
    scores: Floats
    masks: Written | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.bool_]) -> "Rows":
        """Return the rows for which `index` is True."""
        masks = None if self.masks is None else self.masks[index]
        ids = (self.image[index], self.category[index])
        return Rows(*ids, self.boxes[index], self.scores[index], masks)


def key_of(value: Any) -> Key | None:
    """Return an id or a name; None if it is neither."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    plain = isinstance(value, (int, str)) and not isinstance(value, bool)
    return value if plain else None


def joined(parts: Sequence[Rows]) -> Rows:
    """Concatenate rows (at least one part)."""
    rows = [(part.image, part.category, part.boxes, part.scores) for part in parts]
    masks = Written.joined([(part.masks, len(part)) for part in parts])
    image, category, boxes, scores = map(np.concatenate, zip(*rows, strict=True))
    return Rows(image, category, boxes, scores, masks)


class Source(ABC):
    """A file, a folder or arrays with detections."""

    where: str
    """The path, for messages."""
    form: BoxForm
    """How boxes are written."""
    images: tuple[Key, ...]
    """The distinct keys of images."""
    categories: tuple[Key, ...]
    """The distinct keys of categories."""
    notes: tuple[str, ...]
    """Remarks on the file, one line each."""
    indexed: bool = False
    """Whether categories are numbers from 0 in the order of the annotations' categories."""

    @abstractmethod
    def parts(self) -> Iterator[Rows]:
        """Yield the rows in parts of whole images; each image is in one part."""


@dataclass
class HeldSource(Source):
    """Detections that are in memory. See `Source`."""

    where: str
    form: BoxForm
    images: tuple[Key, ...]
    categories: tuple[Key, ...]
    rows: Rows
    notes: tuple[str, ...] = ()
    indexed: bool = False

    def parts(self) -> Iterator[Rows]:
        """See `Source.parts`."""
        yield self.rows


def corners(boxes: Floats, form: BoxForm, sizes: Floats) -> Floats:
    """Convert boxes [M, 4] to xyxy in pixels.

    Args:
        boxes: as written.
        form: how they are written.
        sizes: [M, 2] width and height of the image of each box.
    """
    if form == "xyxy":
        return boxes
    first, sides = boxes[:, :2], boxes[:, 2:]
    if form == "xywh":
        return np.hstack([first, first + sides])
    scale = sizes.astype(boxes.dtype)
    return np.hstack([(first - sides / 2) * scale, (first + sides / 2) * scale])
