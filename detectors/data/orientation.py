"""The EXIF orientation of an image: how its stored pixels have to be turned to be upright.

Browsers, annotation tools and OpenCV show the upright image; Pillow and COCO's tools read the
stored pixels.
"""

from dataclasses import dataclass
from typing import Literal

Exif = Literal["apply", "ignore", "refuse"]
Size = tuple[int, int]
"""Width and height in pixels."""
PartialSize = tuple[int | None, int | None]
"""Width and height in pixels; None where unknown."""
UNKNOWN: PartialSize = (None, None)

_SWAPPING = {5, 6, 7, 8}
"""Orientations that exchange width and height."""


@dataclass(frozen=True)
class Orientation:
    """The orientation of an image, and its size."""

    stored: Size
    """Size of the stored pixels."""
    value: int = 1
    """1 to 8, as in EXIF; 1: the stored pixels are upright, or nothing is known."""
    damaged: bool = False
    """Whether the EXIF data can't be read, or has another value than 1 to 8."""
    read_upright: bool = False
    """Whether Pillow returns the upright image, as it does for TIFF."""

    @property
    def upright(self) -> Size:
        """Size of the upright image."""
        return self.stored[::-1] if self.value in _SWAPPING else self.stored

    def is_applied(self, exif: Exif, expected: PartialSize = UNKNOWN) -> bool:
        """Return whether the image is turned.

        With `apply` it is, unless only the stored pixels have the expected size.
        """
        only_stored = fits(self.stored, expected) and not fits(self.upright, expected)
        return exif == "apply" and self.value != 1 and not only_stored

    def size(self, exif: Exif, expected: PartialSize = UNKNOWN) -> Size:
        """Return the size of the image as it is used."""
        return self.upright if self.is_applied(exif, expected) else self.stored


def fits(size: Size, expected: PartialSize) -> bool:
    """Return whether a size is the expected one as far as that is known."""
    return all(want in (None, have) for have, want in zip(size, expected, strict=True))
