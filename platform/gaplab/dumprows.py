"""Rows of a dump: what a row group of candidates holds, and what it may hold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.parquet import Category, Column, Layout

ROWS = 65_536
"""A row group ends with the image that fills so many rows."""
_BOX = ("x1", "y1", "x2", "y2")
_POINT = ("point_x", "point_y")
LAYOUT = Layout(
    "candidates",
    1,
    {
        "image_id": Column("int64"),
        "level": Column("int16"),
        "class": Column("category"),
        "score": Column("float32", varied=True),
        **{name: Column("float32", varied=True) for name in _BOX},
        **{name: Column("float32") for name in (*_POINT, "stride")},
    },
    "bring it back from a copy, or train the trial again in another --home",
)


def groups(
    candidates: Candidates, image_ids: NDArray[np.int64], classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The candidates as row groups, none of which ends within an image.

    image_ids: id of each image of the data set. Raises ValueError unless candidates are sorted by
    image, then by falling score.
    """
    image = candidates.image.numpy()
    if _unsorted(image, candidates.scores.numpy()) or (np.diff(image) < 0).any():
        raise ValueError("candidates are not sorted by image and falling score")
    columns = _columns(candidates, image_ids[image])
    labels, names = candidates.labels.numpy().astype(np.int32), tuple(classes)
    start = 0
    for stop in _stops(image):
        group = {name: column[start:stop] for name, column in columns.items()}
        yield {**group, "class": Category(labels[start:stop], names)}
        start = stop


@dataclass(frozen=True)
class Labels:
    """What ids and names in a part's rows stand for.

    ids: [I] int64, rising, the images of the part; places: [I] int64, index of each in the data
    set; classes: label of each name.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    classes: Mapping[str, int]

    @classmethod
    def of(cls, places: Mapping[int, int], classes: Sequence[str]) -> Self:
        """places: index in the data set of each id of the part."""
        pairs = np.array(sorted(places.items()), dtype=np.int64).reshape(-1, 2)
        return cls(pairs[:, 0], pairs[:, 1], {name: i for i, name in enumerate(classes)})


def read_group(group: Mapping[str, Any], labels: Labels, where: str) -> Candidates:
    """The candidates of one row group, sorted by index of image, then as stored.

    Raises UserError, naming `where`, for rows that `groups` can't have written.
    """
    image, known = _places(group["image_id"], labels)
    label = _label(group["class"], labels.classes)
    boxes, points = (np.stack([group[n] for n in names], axis=1) for names in (_BOX, _POINT))
    score = group["score"]
    checks = {
        "images of another part, or of none": not known,
        "unknown classes": (label < 0).any(),
        "boxes that are not finite": not np.isfinite(boxes).all(),
        "anchor points that are not finite": not np.isfinite(points).all(),
        "strides that are not positive": not (group["stride"] > 0).all(),
        "levels below 0": (group["level"] < 0).any(),
        "scores outside [0, 1]": not ((score >= 0) & (score <= 1)).all(),
        "images that aren't sorted by falling score": _unsorted(image, score),
    }
    if problems := [problem for problem, found in checks.items() if found]:
        raise UserError(f"{where}: {', '.join(problems)}; {LAYOUT.remedy}")
    order = np.argsort(image, kind="stable")
    columns = (image, boxes, score, label, group["level"].astype(np.int64), points, group["stride"])
    return Candidates(*(torch.from_numpy(column[order]) for column in columns))


def _columns(candidates: Candidates, image_id: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    boxes, points = candidates.boxes.float().numpy(), candidates.points.float().numpy()
    return {
        "image_id": image_id,
        "level": candidates.levels.numpy().astype(np.int16),
        "score": candidates.scores.float().numpy(),
        **{name: np.ascontiguousarray(boxes[:, i]) for i, name in enumerate(_BOX)},
        **{name: np.ascontiguousarray(points[:, i]) for i, name in enumerate(_POINT)},
        "stride": candidates.strides.float().numpy(),
    }


def _stops(image: NDArray[np.int64]) -> Iterator[int]:
    """Where row groups end: each at the first end of an image after `ROWS` rows or more."""
    ends = [*(np.flatnonzero(np.diff(image)) + 1).tolist(), len(image)]
    start = 0
    for end in ends:
        if end - start >= ROWS or start < end == len(image):
            yield end
            start = end


def _unsorted(image: NDArray[np.int64], score: NDArray[Any]) -> bool:
    """Whether an image's rows lie apart, or a score is above the one before it."""
    same = image[1:] == image[:-1]
    runs = len(image) - np.count_nonzero(same)
    rising = (same & (score[1:] > score[:-1])).any()
    return bool(rising or runs != len(np.unique(image)))


def _places(image_id: NDArray[np.int64], labels: Labels) -> tuple[NDArray[np.int64], bool]:
    """Index in the data set of each row's image, and whether all are of this part."""
    if not len(labels.ids):
        return np.zeros_like(image_id), not len(image_id)
    at = np.searchsorted(labels.ids, image_id).clip(max=len(labels.ids) - 1)
    return labels.places[at], bool((labels.ids[at] == image_id).all())


def _label(column: Category, classes: Mapping[str, int]) -> NDArray[np.int64]:
    """Label of each row's class, -1 where it isn't known."""
    table = np.array([classes.get(name, -1) for name in column.names], dtype=np.int64)
    return table[column.codes]
