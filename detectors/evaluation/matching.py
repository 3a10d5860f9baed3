"""COCO's greedy matching of detections to objects, for all images and IoU thresholds at once.

Shape letters: D detections, G objects and crowd regions, T IoU thresholds, P pairs of a detection
and an object of its image and class that overlap enough to match.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.evaluation.matches import Matches
from detectors.evaluation.truth import GroundTruth
from detectors.rle import Rles, overlap
from detectors.structures import Candidates

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
_IouOf = Callable[[Ints, Ints], Floats]
"""Computes the IoU of detections and objects at positions [P] and [P], one to one."""

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds. A pair matches from an IoU equal to the threshold."""
_PAIRS = 1 << 20
"""Maximum number of pairs whose IoU is computed at once; limits the memory."""


@dataclass(frozen=True)
class Matching:
    """Which detection is matched to which object.

    Attributes:
        matches: the result at all thresholds.
        detection: [D] int64, position of each row of `matches` among the detections given.
        object: [D] int64, position in the ground truth of the object (or crowd region) that the row
            is matched to at the lowest threshold; -1 for none.
    """

    matches: Matches
    detection: Ints
    object: Ints


@dataclass(frozen=True)
class _Pairs:
    """Pairs in the order in which the greedy matching tries them.

    Sorted by rank of the detection in its image and class, then by detection, then by preference:
    objects before crowd regions, higher IoU first, of equal IoUs the last object first.
    """

    detection: Ints
    object: Ints
    iou: Floats
    rank: Ints


def match(
    detections: Candidates, truth: GroundTruth, max_dets: int, *, masks: bool = False
) -> Matching:
    """Match detections as COCO does, for all object sizes together.

    In each image and class, by descending score, a detection is matched to the free object with the
    highest IoU that reaches the threshold; without one, to a crowd region, which stays free. The
    IoU with a crowd region is the part of the detection's area inside of it.

    Args:
        detections: sorted by image and descending score.
        truth: the ground truth.
        max_dets: maximum number of detections per class and image, the best ones.
        masks: whether the IoU is that of masks instead of boxes.

    Raises:
        ValueError: there is no object (crowd regions don't count), or a mask is missing.
    """
    truth.require_objects()
    order, rank = _order(detections, truth, max_dets)
    image, label = detections.image.numpy()[order], detections.labels.numpy()[order]
    crowd = truth.crowd.numpy()
    iou_of = _of_masks(detections, order, truth) if masks else _of_boxes(detections, order, truth)
    pairs = _pairs(iou_of, image, label, rank, truth)
    matched = _greedy(pairs, len(order), crowd)
    ignored = (matched >= 0) & crowd[matched]
    matches = Matches(
        images=len(truth),
        classes=len(truth.classes),
        image=image,
        label=label,
        score=detections.scores.double().numpy()[order],
        hit=(matched >= 0) & ~ignored,
        ignored=ignored,
        object_image=truth.image.numpy()[~crowd],
        object_label=truth.labels.numpy()[~crowd],
    )
    return Matching(matches, order, matched[0].astype(np.int64))


def _order(detections: Candidates, truth: GroundTruth, max_dets: int) -> tuple[Ints, Ints]:
    """Return the best detections in the order of `Matches`, and their rank in image and class."""
    image, label = detections.image.numpy(), detections.labels.numpy()
    score = detections.scores.double().numpy()
    order = np.lexsort((-score, truth.positions()[image], label))
    group = label[order] * len(truth) + image[order]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    best = rank < max_dets
    return order[best], rank[best]


def _pairs(iou_of: _IouOf, image: Ints, label: Ints, rank: Ints, truth: GroundTruth) -> _Pairs:
    """Return the pairs that match at the lowest threshold or above.

    Args:
        iou_of: computes the IoU of pairs.
        image: [D].
        label: [D].
        rank: [D], rank of each detection in its image and class.
        truth: the ground truth.
    """
    crowd = truth.crowd.numpy()
    none = np.zeros(0, dtype=np.int64)
    parts = [(none, none, none.astype(np.float64))]
    for detection, target in _same_image_and_class(image, label, truth):
        iou = iou_of(detection, target)
        enough = iou >= THRESHOLDS[0]
        parts.append((detection[enough], target[enough], iou[enough]))
    detection, target, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((-target, -iou, crowd[target], detection, rank[detection]))
    return _Pairs(detection[order], target[order], iou[order], rank[detection[order]])


def _same_image_and_class(
    image: Ints, label: Ints, truth: GroundTruth
) -> Iterator[tuple[Ints, Ints]]:
    """Yield all pairs of a detection and an object of one image and class, some at a time: [P]."""
    group = label * len(truth) + image
    own = truth.labels.numpy() * len(truth) + truth.image.numpy()
    by_group = np.argsort(own, kind="stable")
    own = own[by_group]
    first = np.searchsorted(own, group)
    counts = np.searchsorted(own, group, side="right") - first
    ends = counts.cumsum()
    starts = np.searchsorted(ends, np.arange(0, ends[-1] if len(ends) else 0, _PAIRS), "right")
    for start, stop in pairwise([*np.unique(starts), len(group)]):
        some = counts[start:stop]
        column = np.arange(some.sum()) - np.repeat(some.cumsum() - some, some)
        yield (
            np.repeat(np.arange(start, stop), some),
            by_group[np.repeat(first[start:stop], some) + column],
        )


def _of_boxes(detections: Candidates, order: Ints, truth: GroundTruth) -> _IouOf:
    boxes, targets, crowd = xywh(detections.boxes)[order], xywh(truth.boxes), truth.crowd.numpy()
    return lambda detection, target: _overlap(boxes[detection], targets[target], crowd[target])


def _of_masks(detections: Candidates, order: Ints, truth: GroundTruth) -> _IouOf:
    """Return a function that takes the pairs of `_same_image_and_class`. Raises ValueError."""
    require_masks([detections], truth)
    column = detections.masks or Rles.none(0)  # there may be no detection
    return partial(_mask_overlap, column[torch.from_numpy(order)], truth)


def _mask_overlap(masks: Rles, truth: GroundTruth, detection: Ints, target: Ints) -> Floats:
    """Compute the IoU of pairs, those of each image and class together."""
    assert truth.masks is not None
    image, label = truth.image.numpy()[target], truth.labels.numpy()[target]
    changes = (np.diff(image, prepend=-1) != 0) | (np.diff(label, prepend=-1) != 0)
    iou = np.zeros(len(detection))
    for start, stop in pairwise([*np.flatnonzero(changes), len(detection)]):
        (rows, row), (columns, column) = (
            np.unique(each[start:stop], return_inverse=True) for each in (detection, target)
        )
        mine, theirs = (torch.from_numpy(each) for each in (rows, columns))
        crowd, size = truth.crowd.numpy()[columns], truth.sizes[image[start]]
        iou[start:stop] = overlap(masks[mine], truth.masks[theirs], crowd, size)[row, column]
    return iou


def _overlap(boxes: Floats, targets: Floats, crowd: Flags) -> Floats:
    """Compute the IoU of boxes and targets [P, 4] xywh one to one, in the order of pycocotools.

    For a crowd region the common area is divided by that of the box.
    """
    (x, y, w, h), (u, v, width, height) = boxes.T, targets.T
    across = np.minimum(x + w, u + width) - np.maximum(x, u)
    down = np.minimum(y + h, v + height) - np.maximum(y, v)
    common = np.where((across > 0) & (down > 0), across * down, 0)
    union = np.where(crowd, w * h, w * h + width * height - common)
    iou: Floats = np.divide(common, union, out=np.zeros_like(common), where=common > 0)
    return iou


def _greedy(pairs: _Pairs, detections: int, crowd: Flags) -> NDArray[np.int32]:
    """Return the object that each detection is matched to at each threshold: [T, D]; -1 for none.

    All images and classes are matched together: first the best detection of each, then the second.
    """
    matched = np.full((len(THRESHOLDS), detections), -1, dtype=np.int32)
    free = np.ones((len(THRESHOLDS), len(crowd)), dtype=bool)
    rounds = np.flatnonzero(np.diff(pairs.rank, prepend=-1))
    for start, stop in pairwise([*rounds, len(pairs.rank)]):
        own, target = pairs.detection[start:stop], pairs.object[start:stop]
        possible = free[:, target] & (pairs.iou[start:stop] >= THRESHOLDS[:, None])
        first = np.flatnonzero(np.diff(own, prepend=-1))
        position = np.where(possible, np.arange(stop - start), stop - start)
        best = np.minimum.reduceat(position, first, axis=1)
        row, column = np.nonzero(best < stop - start)
        taken = target[best[row, column]]
        matched[row, own[first[column]]] = taken
        free[row, taken] = crowd[taken]
    return matched


def xywh(boxes: Tensor) -> Floats:
    """Convert boxes xyxy [M, 4] to float64 xywh; negative widths and heights become 0.

    COCO would ignore a degenerate box otherwise, because a negative area is in no area range.
    """
    corners = boxes.double().numpy()
    return np.hstack([corners[:, :2], np.maximum(corners[:, 2:] - corners[:, :2], 0)])


def require_masks(columns: Sequence[Candidates], truth: GroundTruth) -> None:
    """Raise ValueError unless all objects and detections have masks."""
    for each, number in ((truth.masks, len(truth.labels)), *((c.masks, len(c)) for c in columns)):
        if number and (each is None or not bool(each.held.all())):
            raise ValueError("the AP of masks needs masks of all objects and detections")


def coco_matches(
    detections: Candidates, truth: GroundTruth, max_dets: int, *, masks: bool = False
) -> Matches:
    """Return the matches alone, see `match`."""
    return match(detections, truth, max_dets, masks=masks).matches
