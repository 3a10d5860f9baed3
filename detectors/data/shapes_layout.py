"""Place the objects of an image of the procedural data set, with NumPy and one generator.

Coordinates are rounded to 1/64 px before they are used, so results don't depend on the last bit of
a machine's sine. A pixel belongs to a polygon if its centre is inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.data.shapes_options import ShapesOptions

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]

NAMES = ("ellipse", "rectangle", "triangle", "cross")

GRID = 64  # coordinates are rounded to 1 / GRID pixels
TRIES = 40  # proposals for one object before it is left out
VISIBLE = 0.7  # minimum fraction of a box inside the image
COVERED = 0.7  # maximum fraction of an object's pixels hidden behind later objects
SAME_CLASS = 0.7  # fraction of crowded objects that have their neighbour's class
DISTANCE = (0.5, 1.1)  # of a crowded object's centre from its neighbour's, in short sides
ASPECT = 0.4  # maximum |log(width / height)| before rotation
ARM = 0.36  # half of the width of a cross's arms; 1 is half of the width of the cross

TURN = np.arange(24) * (2 * np.pi / 24)
OUTLINES: tuple[Floats, ...] = (
    np.stack([np.cos(TURN), np.sin(TURN)], axis=1),
    np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64),
    np.array([[-1, 0.75], [1, 0.75], [0, -1]], dtype=np.float64),
    np.array(
        [
            [-ARM, ARM, ARM, 1, 1, ARM, ARM, -ARM, -ARM, -1, -1, -ARM],
            [-1, -1, -ARM, -ARM, ARM, ARM, 1, 1, ARM, ARM, -ARM, -ARM],
        ]
    ).T,
)


@dataclass(frozen=True)
class Thing:
    """One object."""

    label: int
    mask: Mask
    """[S, S] bool, its pixels inside the image, including those that later objects hide."""
    box: Box
    """The tight box of these pixels, xyxy, integers."""


def layout(options: ShapesOptions, rng: np.random.Generator) -> list[Thing]:
    """Place the objects of one image, back to front.

    An object that can't be placed in 40 tries is left out, so an image may have fewer than
    `min_objects`.
    """
    things: list[Thing] = []
    for _ in range(int(rng.integers(options.min_objects, options.max_objects + 1))):
        crowded = bool(things) and rng.random() < options.crowding
        for _ in range(TRIES):
            thing = _propose(options, rng, things if crowded else [])
            if thing is not None and _fits(thing, things, options.max_overlap):
                things.append(thing)
                break
    return things


def fill(polygon: Floats, size: int) -> Mask:
    """Return the pixels [S, S] whose centre is inside a polygon [V, 2] xy (even-odd rule)."""
    x0, y0 = polygon.T
    x1, y1 = np.concatenate([polygon[1:], polygon[:1]]).T
    top, bottom = np.clip([np.floor(y0.min()), np.ceil(y0.max())], 0, size).astype(np.int64)
    rows = np.arange(top, bottom)[:, None]
    crossed = (y0 <= rows + 0.5) != (y1 <= rows + 0.5)
    rise = np.where(y1 == y0, 1.0, y1 - y0)
    at = x0 + (rows + 0.5 - y0) * (x1 - x0) / rise
    column = np.clip(np.ceil(at - 0.5), 0, size).astype(np.int64)
    flat = (rows * (size + 1) + column)[crossed]
    toggles = np.bincount(flat, minlength=size * (size + 1)).reshape(size, size + 1)
    return (np.cumsum(toggles[:, :size], axis=1) & 1).astype(np.bool_)


def snap(values: Floats) -> Floats:
    """Round to multiples of 1/64."""
    return np.rint(values * GRID) / GRID


def _propose(
    options: ShapesOptions, rng: np.random.Generator, neighbours: Sequence[Thing]
) -> Thing | None:
    """Propose a random object, near one of `neighbours` if any; None if too little is visible."""
    near = neighbours[int(rng.integers(len(neighbours)))] if neighbours else None
    label = int(rng.integers(options.classes))
    if near is not None and rng.random() < SAME_CLASS:
        label = near.label
    outline = _outline(label, options, rng)
    extent = np.ptp(outline, axis=0)
    if near is None:
        corner = rng.uniform(-(1 - VISIBLE) * extent, options.size - VISIBLE * extent)
    else:
        corner = _beside(near, rng) - extent / 2
    polygon = snap(outline - outline.min(axis=0) + corner)
    mask = fill(polygon, options.size)
    box = _tight(mask)
    if box is None or _area(box) < VISIBLE * np.prod(np.ptp(polygon, axis=0)):
        return None
    return Thing(label, mask, box)


def _outline(label: int, options: ShapesOptions, rng: np.random.Generator) -> Floats:
    """Return a polygon with random aspect, rotation and size (long side of its box)."""
    stretch = np.exp(rng.uniform(-ASPECT, ASPECT) / 2)
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = (OUTLINES[label] * [stretch, 1 / stretch]).T
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
    side = np.exp(rng.uniform(np.log(options.min_side), np.log(options.max_side)))
    scaled: Floats = turned * (side / np.ptp(turned, axis=0).max())
    return scaled


def _beside(near: Thing, rng: np.random.Generator) -> Floats:
    """Return a centre at a distance of 0.5 to 1.1 short sides of `near` from its centre."""
    x1, y1, x2, y2 = near.box
    angle = rng.uniform(0, 2 * np.pi)
    step = rng.uniform(*DISTANCE) * min(x2 - x1, y2 - y1)
    return np.array([x1 + x2, y1 + y2]) / 2 + step * np.array([np.cos(angle), np.sin(angle)])


def _tight(mask: Mask) -> Box | None:
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(xs):
        return None
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / (_area(a) + _area(b) - shared)


def _fits(thing: Thing, things: Sequence[Thing], max_overlap: float) -> bool:
    """Return whether the boxes overlap little enough and earlier objects stay visible."""
    if any(_iou(thing.box, other.box) > max_overlap for other in things):
        return False
    cover = thing.mask.copy()
    for other in reversed(things):
        if np.sum(other.mask & cover) > COVERED * np.sum(other.mask):
            return False
        cover |= other.mask
    return True
