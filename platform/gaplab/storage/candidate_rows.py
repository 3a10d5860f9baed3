"""The rows of a dump of candidates: written in row groups of whole images, and read again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.rle import Rles
from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.storage.parquet import Category, Column, Layout, Reader

ROWS = 65_536
"""A row group ends with the image that fills this many rows."""
_BOX = ("x1", "y1", "x2", "y2")
_POINT = ("point_x", "point_y")
LAYOUT = Layout(
    "candidates",
    4,
    {
        "image_id": Column("int64"),
        "level": Column("int16"),
        "class": Column("category"),
        "label": Column("int32", since=2),
        "score": Column("float32", varied=True),
        **{name: Column("float32", varied=True) for name in _BOX},
        **{name: Column("float32") for name in (*_POINT, "stride")},
        "level_points": Column("int32", since=3),
        "mask": Column("category", since=4),
    },
    "restore it from a backup, or name the --home that the trial was trained in",
)


def row_groups(
    candidates: Candidates, image_ids: NDArray[np.int64], classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the candidates as row groups of whole images.

    Args:
        candidates: sorted by image, then by falling score; otherwise ValueError is raised.
        image_ids: [I] id of each image of the data set.
        classes: name of each label.
    """
    image = candidates.image.numpy()
    if _is_unsorted(image, candidates.scores.numpy()) or (np.diff(image) < 0).any():
        raise ValueError("candidates are not sorted by image and falling score")
    columns = _columns(candidates, image_ids[image])
    labels, names = candidates.labels.numpy().astype(np.int32), tuple(classes)
    start = 0
    for stop in _group_ends(image):
        group = {name: column[start:stop] for name, column in columns.items()}
        label = labels[start:stop]
        masks = None if candidates.masks is None else candidates.masks.counts[start:stop]
        mask = _mask_column(masks, stop - start)
        yield {**group, "class": Category(label, names), "label": label, "mask": mask}
        start = stop


def _columns(candidates: Candidates, image_id: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return all columns but `class` and `label`."""
    boxes, points = candidates.boxes.float().numpy(), candidates.points.float().numpy()
    return {
        "image_id": image_id,
        "level": candidates.levels.numpy().astype(np.int16),
        "score": candidates.scores.float().numpy(),
        **{name: np.ascontiguousarray(boxes[:, i]) for i, name in enumerate(_BOX)},
        **{name: np.ascontiguousarray(points[:, i]) for i, name in enumerate(_POINT)},
        "stride": candidates.strides.float().numpy(),
        "level_points": candidates.level_points.numpy().astype(np.int32),
    }


def _mask_column(counts: NDArray[np.object_] | None, rows: int) -> Category:
    """Return COCO's compressed counts as text, each different mask once; "" for no mask."""
    if counts is None:
        return Category(np.zeros(rows, dtype=np.int32), ("",))
    at = {each: code for code, each in enumerate(dict.fromkeys(counts))}
    codes = np.fromiter((at[each] for each in counts), dtype=np.int32, count=rows)
    return Category(codes, tuple(each.decode("ascii") for each in at))


def _read_masks(column: Category | None) -> Rles | None:
    """Return the masks of a row group; None if no candidate has one."""
    if column is None or not any(column.names):
        return None
    names = np.empty(len(column.names), dtype=np.object_)
    names[:] = [each.encode() for each in column.names]
    return Rles(names[column.codes])


def _group_ends(image: NDArray[np.int64]) -> Iterator[int]:
    """Yield where row groups end: after `ROWS` rows or more, at the next end of an image."""
    ends = [*(np.flatnonzero(np.diff(image)) + 1).tolist(), len(image)]
    start = 0
    for end in ends:
        if end - start >= ROWS or start < end == len(image):
            yield end
            start = end


def _is_unsorted(image: NDArray[np.int64], score: NDArray[Any]) -> bool:
    """Return whether the rows of an image are apart, or a score is above the one before it."""
    same = image[1:] == image[:-1]
    runs = len(image) - np.count_nonzero(same)
    rising = (same & (score[1:] > score[:-1])).any()
    return bool(rising or runs != len(np.unique(image)))


def most_per_level(group: Mapping[str, Any]) -> int:
    """Return the largest number of candidates of one level of one image in a row group."""
    keys = np.stack([group["image_id"], group["level"].astype(np.int64)])
    return int(np.unique(keys, axis=1, return_counts=True)[1].max())


@dataclass(frozen=True)
class Lookup:
    """Converts ids, labels and names in the rows of one part to indices of the data set.

    Attributes:
        ids: [I] ids of the part's images, rising.
        indices: [I] index of each of these images in the data set.
        classes: K names of the dump's classes, in label order.
        labels: [K] label of each of these classes in the data set.
    """

    ids: NDArray[np.int64]
    indices: NDArray[np.int64]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, indices: Mapping[int, int], held: tuple[str, ...], given: Sequence[str]) -> Self:
        """Return the lookup for a part.

        Args:
            indices: index of each image id in the data set.
            held: names of the dump's classes, in label order.
            given: names of the data set's classes, which are the same or in another order.
        """
        pairs = np.array(sorted(indices.items()), dtype=np.int64).reshape(-1, 2)
        same = held == tuple(given)
        labels = range(len(held)) if same else [list(given).index(name) for name in held]
        return cls(pairs[:, 0], pairs[:, 1], held, np.array(labels, dtype=np.int64))

    def images(self, image_id: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
        """Return the image index of each row, and whether all rows are of this part's images."""
        if not len(self.ids):
            return np.zeros_like(image_id), not len(image_id)
        at = np.searchsorted(self.ids, image_id).clip(max=len(self.ids) - 1)
        return self.indices[at], bool((self.ids[at] == image_id).all())

    def read_labels(self, group: Mapping[str, Any]) -> tuple[NDArray[np.int64], bool, bool]:
        """Return the label of each row in the data set.

        Also whether all classes are known, and whether all labels fit the names. Classes of equal
        names are compared as one.
        """
        first = {name: i for i, name in reversed([*enumerate(self.classes)])}
        column: Category = group["class"]
        by_name = np.array([first.get(name, -1) for name in column.names], dtype=np.int64)
        named = by_name[column.codes]
        label = group.get("label", named).astype(np.int64)
        known = bool(((label >= 0) & (label < len(self.classes)) & (named >= 0)).all())
        if not known:
            return label, False, True
        alike = np.array([first[name] for name in self.classes], dtype=np.int64)
        return self.labels[label], True, bool((alike[label] == named).all())


def chunks(file: Reader, lookup: Lookup, uri: str) -> Iterator[Candidates]:
    """Yield the candidates of each row group of a part. Raises UserError."""
    seen = set[int]()
    for index in range(len(file)):
        where = f"{uri}: row group {index}"
        chunk = _read_group(file.group(index), lookup, where)
        images = set(np.unique(chunk.image.numpy()).tolist())
        if images & seen:
            raise UserError(f"{where}: continues an image of an earlier one; {LAYOUT.remedy}")
        seen |= images
        yield chunk


def _read_group(group: Mapping[str, Any], lookup: Lookup, where: str) -> Candidates:
    """Return the candidates of one row group, sorted by index of image, then as stored.

    Raises:
        UserError: starting with `where`, for rows that `row_groups` can't have written.
    """
    image, known = lookup.images(group["image_id"])
    label, named, fitting = lookup.read_labels(group)
    boxes, points = (np.stack([group[n] for n in names], axis=1) for names in (_BOX, _POINT))
    score, stride = group["score"], group["stride"]
    level_points = group.get("level_points", np.ones_like(image)).astype(np.int64)
    checks = {
        "images that are not in this part": not known,
        "unknown classes": not named,
        "names of classes that differ from their labels": not fitting,
        "boxes that are not finite": not np.isfinite(boxes).all(),
        "anchor points that are not finite": not np.isfinite(points).all(),
        "strides that are not positive": not (stride > 0).all(),
        "levels without points": (level_points < 1).any(),
        "levels below 0": (group["level"] < 0).any(),
        "scores outside [0, 1]": not ((score >= 0) & (score <= 1)).all(),
        "images that are not sorted by falling score": _is_unsorted(image, score),
    }
    if problems := [problem for problem, found in checks.items() if found]:
        raise UserError(f"{where}: {', '.join(problems)}; {LAYOUT.remedy}")
    order = np.argsort(image, kind="stable")
    level = group["level"].astype(np.int64)
    columns = (image, boxes, score, label, level, points, stride, level_points)
    masks = _read_masks(group.get("mask"))
    found = Candidates(*(torch.from_numpy(column[order]) for column in columns))
    return replace(found, masks=masks and masks[torch.from_numpy(order)])
