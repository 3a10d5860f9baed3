"""Check a COCO segmentation, polygons or a run-length encoding (RLE), and compute its box."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Xywh = tuple[float, float, float, float]

FARTHEST = 1 << 16
"""Largest coordinate of a polygon, in pixels: to draw it takes memory in proportion."""
FORMS = "must be polygons with at least 3 points, or an RLE with size and counts"


def extent(segmentation: Any) -> Xywh:
    """Return x, y, width and height of the smallest box around a segmentation, in pixels.

    Args:
        segmentation: a list of polygons [x1, y1, x2, y2, ...], or an RLE as a mapping with `size`
            (height, width) and `counts`, compressed (text) or not (a list).

    Returns:
        The box; all zeros if no pixel of an RLE is set.

    Raises:
        ValueError: it is neither, or the counts don't add up to the size.
    """
    if isinstance(segmentation, list) and segmentation:
        return _of_polygons(segmentation)
    if isinstance(segmentation, dict):
        return _of_rle(segmentation.get("size"), segmentation.get("counts"))
    raise ValueError(FORMS)


def check(segmentation: Any) -> None:
    """Raise ValueError for a segmentation that `detectors.rle` can't encode; see `extent`.

    The coordinates of polygons must be finite and at most `FARTHEST`.
    """
    numbers = extent(segmentation)
    polygons = segmentation if isinstance(segmentation, list) else []
    if not all(map(math.isfinite, numbers)) or any(
        abs(number) > FARTHEST for polygon in polygons for number in polygon
    ):
        raise ValueError(FORMS)


def _of_polygons(polygons: list[Any]) -> Xywh:
    if not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in polygons):
        raise ValueError(FORMS)
    numbers = [number for polygon in polygons for number in polygon]
    if not all(type(number) in (int, float) for number in numbers):
        raise ValueError(FORMS)
    xs, ys = numbers[0::2], numbers[1::2]
    return float(min(xs)), float(min(ys)), float(max(xs) - min(xs)), float(max(ys) - min(ys))


def _of_rle(size: Any, counts: Any) -> Xywh:
    whole = isinstance(size, list) and len(size) == 2 and all(map(_is_side, size))
    if isinstance(counts, str):
        counts = _decompressed(counts)
    listed = isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)
    if not whole or not listed or sum(counts) != size[0] * size[1]:
        raise ValueError(FORMS)
    ends = np.cumsum(np.array(counts, dtype=np.int64))
    first, last = ends[0:-1:2], ends[1::2] - 1  # of each run of ones, column after column
    return _of_runs(first[last >= first], last[last >= first], size[0])


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _of_runs(first: NDArray[np.int64], last: NDArray[np.int64], height: int) -> Xywh:
    """Return the box of runs of pixels, numbered column after column."""
    if not len(first):
        return 0.0, 0.0, 0.0, 0.0
    left, right = first // height, last // height
    several = left < right  # a run of several columns covers the last row of one, the first of next
    top = np.where(several, 0, first % height).min()
    bottom = np.where(several, height - 1, last % height).max()
    x, y = float(left.min()), float(top)
    return x, y, float(right.max()) + 1 - x, float(bottom) + 1 - y


def _decompressed(text: str) -> list[int]:
    """Decode COCO's compressed counts: 5 bits a character, differences from the third count on.

    Raises:
        ValueError: the text ends within a number, or has other characters.
    """
    counts: list[int] = []
    value = bits = 0
    for char in text:
        code = ord(char) - 48
        if not 0 <= code < 64 or bits > 60:
            raise ValueError(FORMS)
        value |= (code & 0x1F) << bits
        bits += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << bits
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = bits = 0
    if bits:
        raise ValueError(FORMS)
    return counts
