"""An image of an annotation file with its valid boxes, independent of the file's format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from detectors.data import problems as kinds
from detectors.data.problems import Kind
from detectors.structures import ImageTruth

THINNEST = 1e-3  # pixels; a smaller width may be 0 in float32
TOLERANCE = 1.0  # pixels by which a box may extend beyond its image

Xyxy = tuple[float, float, float, float]


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


def entry(file_name: str, image_id: int, size: tuple[int, int], boxes: Sequence[Box]) -> Entry:
    """Create an image of `size` (width, height) with its boxes in float64, as in the file."""
    truth = ImageTruth(
        image_id=image_id,
        width=size[0],
        height=size[1],
        boxes=torch.tensor([b.xyxy for b in boxes], dtype=torch.float64).reshape(-1, 4),
        labels=torch.tensor([b.label for b in boxes], dtype=torch.int64),
        crowd=torch.tensor([b.crowd for b in boxes], dtype=torch.bool),
        area=torch.tensor([b.area for b in boxes], dtype=torch.float64),
    )
    return Entry(file_name, truth, tuple(b.place for b in boxes))


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
