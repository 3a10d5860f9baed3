"""COCO's average precision and recall, computed with hotcoco.

hotcoco does the matching and accumulation; its summary is not used, because it prints. Axes of its
results: T IoU thresholds 0.50:0.05:0.95, R recall levels, K classes, A area ranges (all, small,
medium, large), M limits on the number of detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hotcoco import COCO, COCOeval
from hotcoco.metrics import calibration_error as calibration
from numpy.typing import NDArray

from detectors.evaluation.matches import Matches
from detectors.evaluation.matching import require_masks, xywh
from detectors.evaluation.metrics import SIZES, Metrics
from detectors.evaluation.truth import GroundTruth
from detectors.rle import as_coco
from detectors.structures import Candidates

Floats = NDArray[np.float64]

_IouOf = Literal["bbox", "segm"]
"""What the IoU compares, as COCO's tools name it."""
_IOU_50, _IOU_75 = 0, 5
_TYPES = {
    "duplicate": "Dupe",
    "class": "Cls",
    "location": "Loc",
    "both": "Both",
    "background": "Bkg",
    "missed": "Miss",
}
"""Our names of TIDE's error types, and hotcoco's."""
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
    return _all_metrics(columns, truth, max_dets, "bbox")


def mask_metrics(columns: Sequence[Candidates], truth: GroundTruth, max_dets: int) -> list[Metrics]:
    """Compute the metrics of `coco_metrics` with the IoU of masks instead of boxes.

    Raises:
        ValueError: there is no object, or a detection or an object has no mask.
    """
    require_masks(columns, truth)
    return _all_metrics(columns, truth, max_dets, "segm")


def _all_metrics(
    columns: Sequence[Candidates], truth: GroundTruth, max_dets: int, kind: _IouOf
) -> list[Metrics]:
    ground_truth = _ground_truth(truth, kind)
    counts = sorted({1, min(10, max_dets), max_dets})
    evaluated = (_evaluated(ground_truth, each, truth, counts, kind=kind) for each in columns)
    return [_metrics(each, counts) for each in evaluated]


@dataclass(frozen=True)
class ErrorTypes:
    """Errors of detections by type, as TIDE divides them (Bolya et al., 2020).

    A wrong detection has the first type that applies: its IoU with an object of its class is from
    0.1 to 0.5 (`location`); with one of another class at least 0.5 (`class`); with one of its class
    that is matched to a better detection at least 0.5 (`duplicate`); with all objects at most 0.1
    (`background`); else `both`. An object that none of these explains is `missed`. Deviation of
    hotcoco from TIDE's code: a crowd region counts as an object in the first test.

    Attributes:
        gains: AP50, in percent points, that would be gained without the errors of a type.
        counts: number of errors of a type.
    """

    gains: dict[str, float]
    counts: dict[str, int]


def error_types(
    columns: Sequence[Candidates], truth: GroundTruth, max_dets: int, *, masks: bool = False
) -> list[ErrorTypes]:
    """Divide the errors of each set of detections.

    Arguments and errors as for `coco_metrics`, or `mask_metrics` with `masks`.
    """
    kind: _IouOf = "segm" if masks else "bbox"
    ground_truth = _ground_truth(truth, kind)
    found = []
    for each in columns:
        evaluator = _evaluated(ground_truth, each, truth, [max_dets], ["all"], kind)
        errors = evaluator.tide_errors(pos_thr=0.5, bg_thr=0.1)
        gains = {name: 100 * errors["delta_ap"][key] for name, key in _TYPES.items()}
        counts = {name: int(errors["counts"][key]) for name, key in _TYPES.items()}
        found.append(ErrorTypes(gains, counts))
    return found


def calibration_error(matches: Matches) -> float | None:
    """Compute the expected calibration error of the scores, in percent points.

    It is the mean, over ten equal bins of the score and weighted by the number of detections, of
    |mean score - share of detections that are matched to an object at IoU 0.5|. Detections that are
    matched to a crowd region are left out; None if there are no others.
    """
    counted = ~matches.ignored[0]
    if not counted.any():
        return None
    error, _ = calibration(matches.score[counted], matches.hit[0][counted], n_bins=10)
    return 100 * float(error)


def _evaluated(
    ground_truth: Any,
    detections: Candidates,
    truth: GroundTruth,
    max_dets: list[int],
    areas: list[str] | None = None,
    kind: _IouOf = "bbox",
) -> Any:
    """Run hotcoco on one set of detections; `areas` restricts it to the first area ranges."""
    rows = _rows(detections, truth) if kind == "bbox" else _mask_rows(detections, truth)
    found = ground_truth.load_res(rows)
    evaluator = COCOeval(ground_truth, found, kind)
    evaluator.params.max_dets = max_dets
    if areas is not None:
        ranges = evaluator.params.area_rng[: len(areas)]
        evaluator.params.area_rng, evaluator.params.area_rng_lbl = ranges, areas
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _ground_truth(truth: GroundTruth, kind: _IouOf = "bbox") -> Any:
    """Convert the ground truth to hotcoco's data set; category ids are labels."""
    truth.require_objects()
    positions = truth.positions()
    sizes = zip(positions.tolist(), truth.sizes, strict=True)
    masks: Any = None
    if kind == "segm" and truth.masks is not None:
        masks = as_coco(truth.masks, [truth.sizes[image] for image in truth.image.tolist()])
    return COCO.from_arrays(
        [{"id": position, "width": width, "height": height} for position, (width, height) in sizes],
        [{"id": label, "name": name} for label, name in enumerate(truth.classes)],
        positions[truth.image.numpy()],
        truth.labels.numpy(),
        xywh(truth.boxes),
        area=truth.area.double().numpy(),
        iscrowd=truth.crowd.long().numpy(),
        segmentation=masks,
    )


def _rows(detections: Candidates, truth: GroundTruth) -> Floats:
    """Return hotcoco's rows [M, 7]: image, x, y, width, height, score, category id.

    Images are given by position, because the rows are floats, in which ids above 2^53 would be
    rounded, and hotcoco takes no negative ids.
    """
    columns = [
        truth.positions()[detections.image.numpy()],
        xywh(detections.boxes),
        detections.scores.double().numpy(),
        detections.labels.numpy(),
    ]
    return np.column_stack(columns)


def _mask_rows(detections: Candidates, truth: GroundTruth) -> list[dict[str, Any]]:
    """Return COCO results without boxes, so that the size of a detection is that of its mask."""
    if detections.masks is None:
        return []
    image = detections.image.tolist()
    masks = as_coco(detections.masks, [truth.sizes[each] for each in image])
    names = ("image_id", "segmentation", "score", "category_id")
    places = truth.positions()[image].tolist()
    scores, labels = detections.scores.double().tolist(), detections.labels.tolist()
    return [
        dict(zip(names, row, strict=True))
        for row in zip(places, masks, scores, labels, strict=True)
    ]


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
