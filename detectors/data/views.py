"""Which part of an image is shown, and at what size."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.data.entries import THINNEST, Ints
from detectors.data.orientation import Size
from detectors.structures import Sample, Targets

Window = tuple[int, int, int, int]
"""xyxy in pixels, inside an image."""

Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class View:
    """A part of an image, at a size. The image is resized, cropped and resized again.

    Attributes:
        original: (width, height) of the image.
        enlarged: (width, height) after the first resizing.
        window: the part of the enlarged image that is kept.
        size: (width, height) to which the window is resized.
    """

    original: Size
    enlarged: Size
    window: Window
    size: Size

    @classmethod
    def whole(cls, original: Size, size: Size) -> "View":
        """Return the view of a whole image at a size."""
        return cls(original, original, (0, 0, *original), size)

    @property
    def crops(self) -> bool:
        """Whether the window is a part of the image only."""
        return self.window != (0, 0, *self.enlarged)

    @property
    def source(self) -> tuple[float, float, float, float]:
        """The window in pixels of the original."""
        x, y = self._enlarging
        x1, y1, x2, y2 = self.window
        width, height = self.original
        return x1 / x, y1 / y, min(x2 / x, width), min(y2 / y, height)

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) factors from pixels of the original to pixels of the view."""
        (a, b), (x, y) = self._enlarging, self._resizing
        return a * x, b * y

    def targets(self, boxes: Reals, labels: Ints) -> Targets:
        """Return the objects in pixels of the view.

        A crop clips boxes, and removes those without area (a side below 1e-3 px), as in DETR.

        Args:
            boxes: [G, 4] xyxy in pixels of the original.
            labels: [G].
        """
        boxes = boxes * np.array(self._enlarging * 2, boxes.dtype)
        if self.crops:
            boxes, labels = _clipped(boxes, labels, self.window)
        boxes = boxes * np.array(self._resizing * 2, boxes.dtype)
        shown = torch.from_numpy(boxes.astype(np.float32, copy=False))
        return Targets(shown, torch.from_numpy(labels), self.size)

    @property
    def _enlarging(self) -> tuple[float, float]:
        (width, height), (wide, high) = self.original, self.enlarged
        return wide / width, high / height

    @property
    def _resizing(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.window
        return self.size[0] / (x2 - x1), self.size[1] / (y2 - y1)


@runtime_checkable
class Viewable(Protocol):
    """A data set that reads a view of an image directly, with one resizing."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each image: [n, 2]."""
        ...

    def view(self, index: int, view: View, /) -> Sample:
        """Return a view of image `index`. Raises DataError for a damaged image."""
        ...


def _clipped(boxes: Reals, labels: Ints, window: Window) -> tuple[Reals, Ints]:
    """Return the parts of boxes inside a window, in its pixels, and their labels."""
    x1, y1, x2, y2 = window
    corner, far = np.array([[x1, y1], [x2 - x1, y2 - y1]], boxes.dtype)
    corners = np.minimum((boxes.reshape(-1, 2, 2) - corner).clip(0), far)
    inside = (corners[:, 1] - corners[:, 0] >= THINNEST).all(axis=1)
    return corners.reshape(-1, 4)[inside], labels[inside]
