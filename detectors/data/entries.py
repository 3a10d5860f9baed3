"""The images of a split with their valid boxes, independent of the format of the annotations."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, pairwise
from typing import NamedTuple, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.data import problems as kinds
from detectors.data.problems import Kind
from detectors.structures import ImageTruth

THINNEST = 1e-3  # pixels; a smaller width may be 0 in float32
TOLERANCE = 1.0  # pixels by which a box may extend beyond its image

Xyxy = tuple[float, float, float, float]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Box(NamedTuple):
    """A valid annotation."""

    place: str
    """Its position in the file, for messages."""
    xyxy: Xyxy
    """Pixels of the original image."""
    area: float
    label: int
    crowd: bool


@dataclass(frozen=True)
class Entry:
    """One image of the file."""

    file_name: str
    truth: ImageTruth
    places: tuple[str, ...]
    """Position in the file of each object of `truth`, for messages."""


class Image(NamedTuple):
    """One image of the file with its boxes."""

    file_name: str
    image_id: int
    size: tuple[int, int]
    """Width and height; 0 where unknown."""
    boxes: Sequence[Box] = ()


class Texts(Sequence[str]):
    """N strings in one buffer of UTF-8, without N objects."""

    def __init__(self, ends: Ints, data: NDArray[np.uint8]) -> None:
        """Create the strings.

        Args:
            ends: [N + 1], where each string ends in `data`; the first number is 0.
            data: all strings one after the other.
        """
        self.ends, self.data = ends, data

    @classmethod
    def of(cls, strings: Iterable[str]) -> Self:
        """Copy strings."""
        encoded = [each.encode("utf-8", "surrogatepass") for each in strings]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(ends, np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        part = self.data[self.ends[index] : self.ends[index + 1]]
        return part.tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        whole, ends = self.data.tobytes(), self.ends.tolist()
        return (whole[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(ends))


@dataclass(frozen=True, eq=False)
class Entries(Sequence[Entry]):
    """I images with G boxes in columns; an entry is only created when it is read.

    Attributes:
        names: I file names.
        image_ids: [I].
        sizes: [I, 2], width and height; 0 where unknown.
        first: [I + 1], the first box of each image; the last number is G.
        boxes: [G, 4] xyxy in pixels of the original image, as in the file.
        areas: [G].
        labels: [G].
        crowd: [G].
        places: G positions in the file, for messages.
    """

    names: Sequence[str]
    image_ids: Ints
    sizes: Ints
    first: Ints
    boxes: Floats
    areas: Floats
    labels: Ints
    crowd: Flags
    places: Sequence[str]

    @classmethod
    def of(cls, images: Iterable[Image]) -> Self:
        """Create the columns from single images."""
        images = [*images]
        boxes = [box for image in images for box in image.boxes]
        return cls(
            [image.file_name for image in images],
            np.array([image.image_id for image in images], dtype=np.int64),
            whole_numbers([image.size for image in images]).reshape(-1, 2),
            np.cumsum([0, *(len(image.boxes) for image in images)], dtype=np.int64),
            np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4),
            np.array([box.area for box in boxes], dtype=np.float64),
            np.array([box.label for box in boxes], dtype=np.int64),
            np.array([box.crowd for box in boxes], dtype=np.bool_),
            [box.place for box in boxes],
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        held = slice(*self.first[index : index + 2].tolist())
        width, height = self.sizes[index].tolist()
        truth = ImageTruth(
            image_id=int(self.image_ids[index]),
            width=width,
            height=height,
            boxes=torch.tensor(self.boxes[held]),
            labels=torch.tensor(self.labels[held]),
            crowd=torch.tensor(self.crowd[held]),
            area=torch.tensor(self.areas[held]),
        )
        return Entry(self.names[index], truth, tuple(self.places[held]))

    def objects(self, index: int) -> tuple[Floats, Ints]:
        """Return boxes [G, 4] and labels [G] of an image, without crowd regions, as copies."""
        held = slice(*self.first[index : index + 2].tolist())
        single = ~self.crowd[held]
        return self.boxes[held][single], self.labels[held][single]

    def take(self, kept: Flags) -> "Entries":
        """Return the images that `kept` [I] selects, in the same order."""
        if kept.all():
            return self
        rows = np.repeat(kept, np.diff(self.first))
        counts = np.diff(self.first)[kept]
        return Entries(
            [*_selected(self.names, kept)],
            self.image_ids[kept],
            self.sizes[kept],
            np.cumsum([0, *counts], dtype=np.int64),
            self.boxes[rows],
            self.areas[rows],
            self.labels[rows],
            self.crowd[rows],
            [*_selected(self.places, rows)],
        )

    def with_boxes(self, kept: Flags) -> "Entries":
        """Return all images with the boxes that `kept` [G] selects."""
        if kept.all():
            return self
        return replace(
            self,
            first=np.concatenate([[0], np.cumsum(kept)])[self.first],
            boxes=self.boxes[kept],
            areas=self.areas[kept],
            labels=self.labels[kept],
            crowd=self.crowd[kept],
            places=[*_selected(self.places, kept)],
        )

    def updated(self, other: "Entries") -> "Entries":
        """Return the images, where those whose id `other` has are replaced by its own.

        It creates an object for each box.
        """
        own, late = ({i.image_id: i for i in each.images()} for each in (self, other))
        return Entries.of(late.get(id_, image) for id_, image in own.items())

    def images(self) -> Iterator[Image]:
        """Yield every image with its boxes."""
        for index, id_ in enumerate(self.image_ids.tolist()):
            held = slice(*self.first[index : index + 2].tolist())
            columns = (self.areas[held], self.labels[held], self.crowd[held])
            rows = zip(self.places[held], self.boxes[held], *columns, strict=True)
            boxes = [
                Box(place, tuple(xyxy.tolist()), float(area), int(label), bool(crowd))
                for place, xyxy, area, label, crowd in rows
            ]
            width, height = self.sizes[index].tolist()
            yield Image(self.names[index], id_, (width, height), boxes)

    def places_of(self, images: Flags) -> list[str]:
        """Return the places of all boxes of the images that `images` [I] selects."""
        return [*_selected(self.places, np.repeat(images, np.diff(self.first)))]

    def image_of_box(self) -> Ints:
        """Return the position of the image of each box: [G]."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))


def whole_numbers(values: Sequence[object]) -> Ints:
    """Return integers as an array; one of objects if they are larger than 64 bits allow."""
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        return np.array(values, dtype=object)


def _selected(texts: Sequence[str], kept: Flags) -> Iterator[str]:
    return compress(texts, kept.tolist()) if kept.any() else iter(())


def clipped(xyxy: Xyxy, width: float, height: float) -> Xyxy:
    """Return the part of a box inside its image; x2 <= x1 or y2 <= y1 if there is none."""
    x1, y1, x2, y2 = xyxy
    return max(0.0, x1), max(0.0, y1), min(x2, width), min(y2, height)


def outside(xyxy: Xyxy, width: float, height: float) -> bool:
    """Return whether no part of a box is inside its image."""
    x1, y1, x2, y2 = xyxy
    return min(x2, y2, width - x1, height - y1) < THINNEST


def out_of_image(xyxy: Xyxy, width: float, height: float) -> Kind | None:
    """Return the problem of a box that is wholly or partly outside its image; None: it is not."""
    if outside(xyxy, width, height):
        return kinds.OUTSIDE
    x1, y1, x2, y2 = xyxy
    beyond = max(-x1, -y1, x2 - width, y2 - height)
    return kinds.PARTLY_OUTSIDE if beyond > TOLERANCE else None
