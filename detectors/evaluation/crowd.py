"""CrowdHuman's metrics: AP, log-average miss rate and recall, with its greedy matching.

Shape letters of a chunk: B images; W and G, the largest number of detections and of objects (or
regions) of one image.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.boxes import area
from detectors.evaluation.metrics import Metrics
from detectors.evaluation.overlaps import overlaps
from detectors.evaluation.padding import rank_in_group
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import select
from detectors.evaluation.truth import GroundTruth, as_candidates
from detectors.structures import Candidates

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_FALSE_PER_IMAGE = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)
"""False positives per image at which the miss rate is read."""


def crowd_metrics(
    columns: Sequence[Candidates], truth: GroundTruth, max_dets: int
) -> list[Metrics]:
    """Compute CrowdHuman's metrics, as means over the classes that have objects.

    - ap: area under the curve of precision over recall, from the first detection on, by the
      trapezoid rule and without interpolation.
    - mmr: log-average miss rate (lower is better): the geometric mean of the miss rates at nine
      rates of false positives per image from 0.01 to 1, each at the first rank that reaches the
      rate, or else at the last rank.
    - recall: recall of all detections.

    Boxes are clipped to their image as in CrowdDet's code: x1 to [0, width - 1], x2 to [0, width].
    By descending score, a detection is matched to the free object of its class with the highest
    IoU above 0.5. A detection without a match is ignored if more than half of it lies in a crowd
    region of its class, otherwise it is a false positive.

    Args:
        columns: sets of detections.
        truth: the ground truth.
        max_dets: maximum number of detections per image, the best ones.

    Returns:
        The metrics of each set.

    Raises:
        ValueError: there is no object; crowd regions don't count.
    """
    truth.require_objects()
    clipped = replace(truth, boxes=_clipped(truth.boxes, truth.image, truth))
    return [_metrics(_best(each, truth, max_dets), clipped) for each in columns]


def recall_ceiling(truth: GroundTruth, protocol: Protocol) -> float:
    """Compute the recall, in [0, 1], of a detector that predicts exactly the objects, after NMS.

    The objects themselves, with score 1, are the candidates. NMS removes those that overlap others
    too much. (Table 8 of POTO: "Ground-truth (w/ NMS)".) `pre_nms_topk` is not applied, because
    objects have no pyramid level.

    Raises:
        ValueError: the protocol has a field that needs pyramid levels or anchor points
            (max_filter, level_range, spatial_range), or there is no object.
    """
    _check_has_ceiling(protocol)
    objects = as_candidates(truth)
    limits = {"pre_nms_topk": max(len(objects), 1), "cap_at_points": False}
    kept = select(objects, protocol.model_copy(update=limits), truth.sizes, suppress=True)
    recall = crowd_metrics([kept], truth, protocol.max_dets)[0].values["recall"]
    assert recall is not None  # there are objects, or crowd_metrics had raised
    return recall


def _check_has_ceiling(protocol: Protocol) -> None:
    """Raise ValueError if the protocol has fields that can't be applied to objects."""
    fields = [name for name in ("level_range", "spatial_range") if vars(protocol)[name] is not None]
    if protocol.suppression == "max_filter":
        fields.insert(0, "suppression: max_filter")
    if fields:
        raise ValueError(
            f"protocol {protocol.preset!r} has no recall ceiling because of {', '.join(fields)}: "
            "objects have no pyramid level and no anchor point; use a protocol without these fields"
        )


def _clipped(boxes: Tensor, image: Tensor, truth: GroundTruth) -> Tensor:
    """Clip boxes as CrowdDet does: a box beyond the right or bottom edge keeps 1 px there."""
    sizes = torch.tensor(truth.sizes, dtype=boxes.dtype)
    corners = torch.cat([sizes - 1, sizes], dim=1)
    return boxes.clamp(min=0).minimum(corners[image])


def _best(detections: Candidates, truth: GroundTruth, max_dets: int) -> Candidates:
    """Return the `max_dets` best detections of each image, clipped to it."""
    best = detections.take(rank_in_group(detections.image) < max_dets)
    return replace(best, boxes=_clipped(best.boxes, best.image, truth))


def _hits(detections: Candidates, truth: GroundTruth) -> Flags:
    """Return which detections are matched to an object: [M] bool."""
    hit = np.zeros(len(detections), dtype=bool)
    for rows, _, iou in overlaps(detections, truth, ~truth.crowd):
        valid = (rows >= 0).numpy()
        hit[rows.numpy()[valid]] = _greedy((iou * (iou > 0.5)).numpy())[valid]
    return hit


def _greedy(iou: NDArray[np.float32]) -> Flags:
    """Match detections to free objects, best detection first: [B, W] bool.

    Among objects with the same IoU, the first one is taken.

    Args:
        iou: [B, W, G]; 0 if the pair can't be matched.
    """
    images, detections, objects = iou.shape
    hit, free = np.zeros((images, detections), dtype=bool), np.ones((images, objects), np.float32)
    image = np.arange(images)
    for rank in range(detections):
        open_ = iou[:, rank] * free
        most = open_.argmax(axis=1)
        hit[:, rank] = open_[image, most] > 0
        free[image, most] -= hit[:, rank]
    return hit


def _absorbed(detections: Candidates, truth: GroundTruth) -> Flags:
    """Return which detections have more than half of their area in a crowd region: [M] bool."""
    absorbed = torch.zeros(len(detections), dtype=torch.bool)
    if bool(truth.crowd.any()):
        for rows, _, inside in overlaps(detections, truth, truth.crowd, _share_inside):
            absorbed[rows[(inside > 0.5).any(dim=2)]] = True
    return np.asarray(absorbed.numpy())


def _share_inside(a: Tensor, b: Tensor) -> Tensor:
    """Return the fraction of each box in a [B, W, 4] inside of b [B, G, 4]: [B, W, G] in [0, 1]."""
    a, b = a[:, :, None], b[:, None]
    common = torch.cat([a[..., :2].maximum(b[..., :2]), a[..., 2:].minimum(b[..., 2:])], dim=-1)
    return area(common) / area(a).clamp(min=torch.finfo(a.dtype).tiny)  # 0 if `a` has no area


def _metrics(detections: Candidates, truth: GroundTruth) -> Metrics:
    """Compute the metrics of one set of detections."""
    hit = _hits(detections, truth)
    counted = hit | ~_absorbed(detections, truth)
    order = np.argsort(-detections.scores.numpy()[counted], kind="stable")
    hit, labels = hit[counted][order], detections.labels.numpy()[counted][order]
    objects = truth.labels[~truth.crowd].bincount(minlength=len(truth.classes)).tolist()
    each = [
        _class_metrics(hit[labels == label], count, len(truth)) if count else None
        for label, count in enumerate(objects)
    ]
    present = [values for values in each if values is not None]
    means = {name: float(np.mean([values[name] for values in present])) for name in present[0]}
    return Metrics(dict(means), tuple(values["ap"] if values else None for values in each))


def _class_metrics(hit: Flags, objects: int, images: int) -> dict[str, float]:
    """Compute the metrics of one class.

    Args:
        hit: [D] bool, whether each detection is matched, by descending score.
        objects: number of objects of the class, at least 1.
        images: number of images.
    """
    true, false = hit.cumsum(), (~hit).cumsum()
    recall = true / objects
    return {
        "ap": float(np.trapezoid(true / (true + false), recall)),
        "mmr": _log_average((objects - true) / objects, false / images),
        "recall": float(recall[-1]) if len(hit) else 0.0,
    }


def _log_average(missed: Floats, false_per_image: Floats) -> float:
    """Return the geometric mean of the miss rates at `_FALSE_PER_IMAGE`; 1 without detections."""
    if not len(missed):
        return 1.0
    first = np.searchsorted(false_per_image, _FALSE_PER_IMAGE).clip(max=len(missed) - 1)
    with np.errstate(divide="ignore"):  # the logarithm of a miss rate of 0 is -inf, the result 0
        return float(np.exp(np.log(missed[first]).mean()))
