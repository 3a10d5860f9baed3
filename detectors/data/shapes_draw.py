"""Draw an image of the procedural data set from its layout, with NumPy and one generator."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.data.shapes_layout import Floats, Mask, Thing, fill, snap
from detectors.data.shapes_options import ShapesOptions

SHADE = 0.55  # brightness of the darker stripes and checks
OCTAVES = ((4, 0.15), (8, 0.105))  # background: cells per side, amplitude

Image = NDArray[np.uint8]


def render(options: ShapesOptions, things: Sequence[Thing], rng: np.random.Generator) -> Image:
    """Draw the background, the distractors, the objects and the noise: [3, S, S] uint8 RGB."""
    pixels = _background(options.size, rng)
    for _ in range(int(rng.integers(0, options.clutter + 1))):
        line = _line(options.size, rng)
        pixels[:, line] = 0.5 + options.contrast * rng.uniform(-1, 1, (3, 1))
    for thing in things:
        hue = (thing.label + options.hue_jitter * rng.standard_normal()) / options.classes
        wheel = np.cos(2 * np.pi * (hue + np.arange(3) / 3))
        dark = _pattern(thing.mask, rng)
        pixels[:, thing.mask] = (0.5 + options.contrast * wheel)[:, None] * np.where(dark, SHADE, 1)
    pixels += options.noise * rng.standard_normal(pixels.shape)
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _background(size: int, rng: np.random.Generator) -> Floats:
    """Return smooth random colours around mid-grey: [3, S, S]."""
    pixels = np.full((3, size, size), 0.5)
    for cells, amplitude in OCTAVES:
        knots = rng.uniform(-amplitude, amplitude, (3, cells + 1, cells + 1))
        at = (np.arange(size) + 0.5) * cells / size
        low = at.astype(np.int64)
        share = at - low
        rows = knots[:, low] + (knots[:, low + 1] - knots[:, low]) * share[:, None]
        pixels += rows[:, :, low] + (rows[:, :, low + 1] - rows[:, :, low]) * share
    return pixels


def _line(size: int, rng: np.random.Generator) -> Mask:
    """Return the pixels of a line of width 1 to 2.5 px between two random points."""
    ends = rng.uniform(0, size, (2, 2))
    dx, dy = ends[1] - ends[0]
    half = np.array([-dy, dx]) / max(np.hypot(dx, dy), 1e-9) * rng.uniform(0.5, 1.25)
    corners = np.concatenate([ends + half, ends[::-1] - half])
    return fill(snap(corners), size)


def _pattern(mask: Mask, rng: np.random.Generator) -> Mask:
    """Return which pixels of `mask` (in row order) are dark: none, stripes or checks."""
    kind = int(rng.integers(3))
    angle, period = rng.uniform(0, np.pi), snap(rng.uniform(3, 8, 1))[0]
    cos, sin = snap(np.array([np.cos(angle), np.sin(angle)]))
    ys, xs = np.nonzero(mask)
    along = np.floor((xs * cos + ys * sin) / period)
    across = np.floor((ys * cos - xs * sin) / period)
    bands: Floats = [np.zeros_like(along), along, along + across][kind]
    dark: Mask = bands % 2 == 1
    return dark
