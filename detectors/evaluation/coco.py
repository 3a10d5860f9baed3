"""COCO average precision and recall; the only importer of hotcoco.

hotcoco is used for its matching and accumulation; its summary, which prints, is not.
Axes of its result: T IoU thresholds 0.50:0.05:0.95, R recall levels, K classes, A area ranges (all,
small, medium, large).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray
from torch import Tensor

from detectors.structures import Candidates, ImageTruth

Floats = NDArray[np.float64]

_IOU_50, _IOU_75 = 0, 5
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)


@dataclass(frozen=True)
class CocoMetrics:
    """Fractions in [0, 1]; None where no object of that size or class exists."""

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: float
    """Average recall at `max_dets` detections."""
    per_class: tuple[float | None, ...]
    """AP of each class, in label order."""


def coco_metrics(
    detections: Sequence[Candidates],
    truth: Sequence[ImageTruth],
    classes: Sequence[str],
    max_dets: int,
) -> CocoMetrics:
    """Evaluate the detections of each image (sorted or not) against its ground truth.

    As COCO does, at most the `max_dets` best detections of a class and image count. A degenerate
    box is a false positive. Raises ValueError when image ids repeat, when the two sequences differ
    in length, or when there is no object to find (crowd regions do not count).
    """
    _check(detections, truth)
    ground_truth = _ground_truth(truth, classes)
    evaluator = COCOeval(ground_truth, ground_truth.load_res(_rows(detections, truth)), "bbox")
    evaluator.params.max_dets = [max_dets]
    evaluator.evaluate()
    evaluator.accumulate()
    result = evaluator.eval
    assert result is not None  # accumulate fills it
    return _metrics(result["precision"][..., 0], result["recall"][..., 0])


def _check(detections: Sequence[Candidates], truth: Sequence[ImageTruth]) -> None:
    if len(detections) != len(truth):
        raise ValueError(f"detections of {len(detections)} images for {len(truth)} of ground truth")
    if len({image.image_id for image in truth}) != len(truth):
        raise ValueError("image ids repeat in the ground truth; give every image its own id")
    if all(bool(image.crowd.all()) for image in truth):
        raise ValueError(
            f"no object in {len(truth)} images of ground truth: AP is undefined; "
            "evaluate on a split with objects"
        )


def _ground_truth(truth: Sequence[ImageTruth], classes: Sequence[str]) -> Any:
    """The ground truth as hotcoco's data set; category ids are labels."""
    return COCO.from_arrays(
        [{"id": t.image_id, "width": t.width, "height": t.height} for t in truth],
        [{"id": label, "name": name} for label, name in enumerate(classes)],
        _image_ids(truth, [len(t.labels) for t in truth]),
        _join([t.labels for t in truth]).astype(np.int64),
        _xywh([t.boxes for t in truth]),
        area=_join([t.area for t in truth]),
        iscrowd=_join([t.crowd for t in truth]).astype(np.int64),
    )


def _rows(detections: Sequence[Candidates], truth: Sequence[ImageTruth]) -> Floats:
    """Detections as hotcoco's rows [M, 7]: image id, x, y, width, height, score, category id."""
    columns = [
        _image_ids(truth, [len(d) for d in detections]),
        _xywh([d.boxes for d in detections]),
        _join([d.scores for d in detections]),
        _join([d.labels for d in detections]),
    ]
    return np.column_stack(columns)


def _image_ids(truth: Sequence[ImageTruth], counts: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.array([t.image_id for t in truth], dtype=np.int64), counts)


def _join(parts: Sequence[Tensor]) -> Floats:
    """One float64 array of all images; wide enough for every float32 and every label."""
    return np.asarray(torch.cat(list(parts)).detach().cpu().double().numpy())


def _xywh(parts: Sequence[Tensor]) -> Floats:
    """Boxes xyxy of all images as [M, 4] float64 xywh; a degenerate box gets no width or height.

    COCO would otherwise ignore it: a negative area lies in no area range.
    """
    boxes = _join(parts)
    return np.hstack([boxes[:, :2], np.maximum(boxes[:, 2:] - boxes[:, :2], 0)])


def _metrics(precision: Floats, recall: Floats) -> CocoMetrics:
    """precision: [T, R, K, A], recall: [T, K, A]; -1 where a class has no object of that size."""
    return CocoMetrics(
        ap=_mean(precision[..., _ALL]),
        ap50=_mean(precision[_IOU_50, ..., _ALL]),
        ap75=_mean(precision[_IOU_75, ..., _ALL]),
        ap_small=_mean_if_any(precision[..., _SMALL]),
        ap_medium=_mean_if_any(precision[..., _MEDIUM]),
        ap_large=_mean_if_any(precision[..., _LARGE]),
        ar=_mean(recall[..., _ALL]),
        per_class=tuple(_mean_if_any(precision[:, :, k, _ALL]) for k in range(precision.shape[2])),
    )


def _mean_if_any(values: Floats) -> float | None:
    return _mean(values) if (values > -1).any() else None


def _mean(values: Floats) -> float:
    return float(values[values > -1].mean())
