"""Write the first spec of a photographic data set: an input size, a schedule and a small grid."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Literal

import numpy as np

from gaplab.formatting import one_line
from gaplab.spec.yaml_text import dump_yaml, parse_yaml

ASSIGNMENTS: tuple[dict[str, Any], ...] = (
    {"name": "dual"},
    {"name": "o2f", "alpha": 0.8, "k": 7, "t_max": 0.6, "t_min": 0.2},
    {"name": "poto", "alpha": 0.8},
    {"name": "fcos"},
)
"""The grid, as in the quickstart: with the options of the papers, the longest training first."""
EPOCHS = ((500, 12), (200, 24), (0, 48))
"""Number of training images -> epochs; the first row with at least as many images counts."""
BATCH, WARMUP = 8, 100
"""The usual batch, and steps of warm-up; small data sets have less."""
SHORTEST, LONGEST, STEP = 160, 640, 32
"""Limits of the longer side of an input, in pixels, and its step."""
TINY, LEAST = 64, 32
"""Longer side to which smaller pictures are enlarged, and the shortest side of an input."""
SEEN = 8.0
"""Side that a small object should have in the input, in pixels: two strides of the finest level."""
SMALL = 0.1
"""Part of the objects that are small in this sense."""
MIXED = 0.1
"""Part of the pictures that must be upright, and wide, for a data set of both."""
WIDTH = 98
"""Columns of a comment."""


@dataclass(frozen=True)
class InputSize:
    """The input of a detector for a data set."""

    width: int
    height: int
    """Pixels."""
    portrait: Literal["fit", "turn"]
    """`data.portrait`: `turn` for a data set of upright and wide pictures."""
    small_side: float
    """Side of the objects in the input, in pixels, that a tenth of the objects does not reach."""


def input_size(
    sizes: Sequence[tuple[int, int]], areas: Sequence[float], side: int | None = None
) -> InputSize:
    """Choose an input size with the aspect ratio of the pictures.

    Args:
        sizes: (width, height) of the pictures in pixels; not empty.
        areas: areas of the objects in square pixels of the pictures; not empty.
        side: the longer side in pixels; None: the shortest multiple of 32 from 160 to 640 in which
            nine of ten objects have a side of 8 pixels, but not longer than that of the pictures.
    """
    shape = np.array(sizes, dtype=np.float64)
    upright = float((shape[:, 1] > shape[:, 0]).mean())
    turn = MIXED < upright < 1 - MIXED
    if turn:
        shape = np.sort(shape, axis=1)[:, ::-1]
    aspect = float(np.median(shape[:, 0] / shape[:, 1]))
    original = float(np.median(shape.max(axis=1)))
    small = float(np.sqrt(np.quantile(np.array(areas), SMALL)))
    longer = side or _longer_side(original, small)
    width, height = (longer, longer / aspect) if aspect >= 1 else (longer * aspect, longer)
    sides = (max(LEAST, round(width)), max(LEAST, round(height)))
    return InputSize(*sides, "turn" if turn else "fit", small * longer / original)


def _longer_side(original: float, small: float) -> int:
    """Return the longer side of the input.

    Args:
        original: the longer side of the pictures.
        small: the side of small objects in the pictures.
    """
    needed = STEP * np.ceil(original * SEEN / small / STEP)
    return int(min(max(SHORTEST, min(LONGEST, needed)), max(TINY, original)))


def sweep_name(folder: str) -> str:
    """Return a name of a folder as the name of a sweep.

    Examples:
        >>> [sweep_name(each) for each in ("My Pets (2024)", "Äpfel", "照片")]
        ['my-pets-2024', 'apfel', 'photos']
    """
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:64].strip("-_") or "photos"


def starter_spec(
    name: str, title: str, data: Mapping[str, Any], images: int, size: InputSize
) -> dict[str, Any]:
    """Return a spec of four trials.

    Args:
        name: the name of the sweep.
        title: the data set, for the question.
        data: the section `data` without the size of the input.
        images: number of training images.
        size: the input size.
    """
    turn = {"portrait": size.portrait} if size.portrait != "fit" else {}
    epochs = next(epochs for least, epochs in EPOCHS if images >= least)
    return {
        "name": name,
        "question": f"How much does a small detector need NMS on {one_line(title)}?",
        "data": {**data, "height": size.height, "width": size.width, **turn},
        "detector": {"name": "fcos", "tower_convs": 4},
        "training": _training(images, epochs),
        "evaluation": {"every": epochs // 4},
        "grid": {"assignment": [dict(each) for each in ASSIGNMENTS], "seed": [0]},
    }


def spec_text(spec: Mapping[str, Any], remarks: Sequence[str]) -> str:
    """Return a spec as YAML, with remarks in comments above it, each a paragraph.

    Raises:
        YamlError: a text can't be written so that it can be read again.
    """
    lines = [line for each in remarks for line in wrap(one_line(each), WIDTH) or [""]]
    comments = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    text = comments + dump_yaml(dict(spec))
    parse_yaml(text)
    return text


def _training(images: int, epochs: int) -> dict[str, Any]:
    """Return the section `training`: a small data set has a smaller batch and a shorter warm-up."""
    batch = min(BATCH, images)
    warmup = max(1, epochs * (images // batch) // 4)
    return {
        "epochs": epochs,
        **({"batch": batch} if batch < BATCH else {}),
        **({"warmup_steps": warmup} if warmup < WARMUP else {}),
        "augment": "hflip",
    }
