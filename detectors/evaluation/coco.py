"""COCO's average precision and recall, computed with hotcoco.

hotcoco does the matching and accumulation; its summary is not used, because it prints. Axes of its
results: T IoU thresholds 0.50:0.05:0.95, R recall levels, K classes, A area ranges (all, small,
medium, large), M limits on the number of detections.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray
from torch import Tensor

from detectors.evaluation.matches import Matches
from detectors.evaluation.metrics import SIZES, Metrics
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

Floats = NDArray[np.float64]

_IOU_50, _IOU_75 = 0, 5
_SIZES = {size: index for index, size in enumerate(SIZES, start=1)}
"""Indices of the area ranges; 0 is that of all sizes."""


def coco_metrics(columns: Sequence[Candidates], truth: GroundTruth, max_dets: int) -> list[Metrics]:
    """Compute COCO's twelve metrics and AP of each class.

    The metrics are ap, ap50, ap75, ap_small, ap_medium, ap_large; ar (at `max_dets` detections),
    ar1, ar10, ar_small, ar_medium, ar_large. A degenerate box is a false positive.

    Args:
        columns: sets of detections.
        truth: the ground truth.
        max_dets: maximum number of detections per class and image, the best ones, as in COCO.

    Returns:
        The metrics of each set.

    Raises:
        ValueError: there is no object; crowd regions don't count.
    """
    ground_truth = _ground_truth(truth)
    counts = sorted({1, min(10, max_dets), max_dets})
    return [_metrics(_evaluated(ground_truth, each, truth, counts), counts) for each in columns]


def coco_matches(detections: Candidates, truth: GroundTruth, max_dets: int) -> Matches:
    """Match detections as COCO does, for all object sizes together."""
    evaluator = _evaluated(_ground_truth(truth), detections, truth, [max_dets], ["all"])
    index_of = np.argsort(_positions(truth))
    with _no_collection():
        found = [each for each in evaluator.eval_imgs if each and each["dtScores"]]
    found.sort(key=lambda each: (each["category_id"], each["image_id"]))
    counts = [len(each["dtScores"]) for each in found]
    thresholds = len(evaluator.params.iou_thrs)
    ignored = _flags([each["dtIgnore"] for each in found], thresholds)
    objects = ~truth.crowd
    return Matches(
        images=len(truth),
        classes=len(truth.classes),
        image=np.repeat(_ints(index_of[each["image_id"]] for each in found), counts),
        label=np.repeat(_ints(each["category_id"] for each in found), counts),
        score=np.array([score for each in found for score in each["dtScores"]], dtype=np.float64),
        hit=_flags([each["dtMatched"] for each in found], thresholds) & ~ignored,
        ignored=ignored,
        object_image=truth.image[objects].numpy(),
        object_label=truth.labels[objects].numpy(),
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection, which makes creating many dictionaries ten times slower."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _ints(values: Any) -> NDArray[np.int64]:
    return np.fromiter(values, dtype=np.int64)


def _flags(parts: Sequence[Any], thresholds: int) -> NDArray[np.bool_]:
    """Concatenate parts [T, D_i] to [T, D]."""
    empty = np.zeros((thresholds, 0), dtype=bool)
    return np.concatenate([empty, *(np.array(part, dtype=bool) for part in parts)], axis=1)


def _evaluated(
    ground_truth: Any,
    detections: Candidates,
    truth: GroundTruth,
    max_dets: list[int],
    areas: list[str] | None = None,
) -> Any:
    """Run hotcoco on one set of detections; `areas` restricts it to the first area ranges."""
    evaluator = COCOeval(ground_truth, ground_truth.load_res(_rows(detections, truth)), "bbox")
    evaluator.params.max_dets = max_dets
    if areas is not None:
        ranges = evaluator.params.area_rng[: len(areas)]
        evaluator.params.area_rng, evaluator.params.area_rng_lbl = ranges, areas
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _ground_truth(truth: GroundTruth) -> Any:
    """Convert the ground truth to hotcoco's data set; category ids are labels."""
    if bool(truth.crowd.all()):
        raise ValueError(
            f"no object in {len(truth)} images of ground truth: AP is undefined; "
            "evaluate on a split with objects"
        )
    positions = _positions(truth)
    sizes = zip(positions.tolist(), truth.sizes, strict=True)
    return COCO.from_arrays(
        [{"id": position, "width": width, "height": height} for position, (width, height) in sizes],
        [{"id": label, "name": name} for label, name in enumerate(truth.classes)],
        positions[truth.image.numpy()],
        truth.labels.numpy(),
        _xywh(truth.boxes),
        area=truth.area.double().numpy(),
        iscrowd=truth.crowd.long().numpy(),
    )


def _rows(detections: Candidates, truth: GroundTruth) -> Floats:
    """Return hotcoco's rows [M, 7]: image, x, y, width, height, score, category id."""
    columns = [
        _positions(truth)[detections.image.numpy()],
        _xywh(detections.boxes),
        detections.scores.double().numpy(),
        detections.labels.numpy(),
    ]
    return np.column_stack(columns)


def _positions(truth: GroundTruth) -> NDArray[np.int64]:
    """Return the position [I] of each image among all, sorted by id.

    hotcoco gets positions as ids: its rows are floats, in which ids above 2^53 would be rounded,
    and it takes no negative ones. Sorted, because it processes images in the order of ids.
    """
    ids = np.array(truth.image_ids, dtype=np.int64)
    return np.argsort(np.argsort(ids, kind="stable"), kind="stable")


def _xywh(boxes: Tensor) -> Floats:
    """Convert boxes xyxy [M, 4] to float64 xywh; negative widths and heights become 0.

    COCO would ignore a degenerate box otherwise, because a negative area is in no area range.
    """
    corners = boxes.double().numpy()
    return np.hstack([corners[:, :2], np.maximum(corners[:, 2:] - corners[:, :2], 0)])


def _metrics(evaluator: Any, counts: list[int]) -> Metrics:
    """Average precision [T, R, K, A, M] and recall [T, K, A, M]; -1 there means: no such object."""
    result = evaluator.eval
    assert result is not None  # accumulate fills it
    precision, recall = result["precision"][..., -1], result["recall"]
    most = {name: counts.index(min(n, counts[-1])) for name, n in (("ar1", 1), ("ar10", 10))}
    values = {
        "ap": precision[..., 0],
        "ap50": precision[_IOU_50, ..., 0],
        "ap75": precision[_IOU_75, ..., 0],
        **{f"ap_{size}": precision[..., area] for size, area in _SIZES.items()},
        **{name: recall[..., 0, position] for name, position in most.items()},
        "ar": recall[..., 0, -1],
        **{f"ar_{size}": recall[..., area, -1] for size, area in _SIZES.items()},
    }
    classes = range(precision.shape[2])
    return Metrics(
        {name: _mean(part) for name, part in values.items()},
        tuple(_mean(precision[:, :, k, 0]) for k in classes),
    )


def _mean(values: Floats) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
