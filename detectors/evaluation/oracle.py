"""COCO's metrics by pycocotools itself, which is slow: to check ours on the same detections."""

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.evaluation.matching import require_masks
from detectors.evaluation.metrics import Metrics
from detectors.evaluation.truth import GroundTruth
from detectors.rle import Rles, as_coco
from detectors.structures import Candidates


def oracle_metrics(
    detections: Candidates, truth: GroundTruth, max_dets: int, *, masks: bool = False
) -> Metrics:
    """Compute the metrics that `coco.coco_metrics` returns, or `coco.mask_metrics` with `masks`.

    pycocotools evaluates at 1, 10 and at least 100 detections per class and image, so the
    detections beyond `max_dets` are removed before.

    Args:
        detections: one set of detections.
        truth: the ground truth.
        max_dets: maximum number of detections per class and image, the best ones.
        masks: whether the IoU is that of masks instead of boxes.

    Raises:
        ValueError: there is no object; crowd regions don't count.
    """
    truth.require_objects()
    data, results = dataset(truth), results_of(detections, truth.image_ids)
    if masks:
        add_masks(data, results, detections, truth)
    best = best_of_each_class(results, max_dets)
    return metrics_of(evaluated(data, best, max(100, max_dets), "segm" if masks else "bbox"))


def add_masks(
    data: dict[str, Any], results: list[dict[str, Any]], detections: Candidates, truth: GroundTruth
) -> None:
    """Add the masks of objects and detections, and remove the boxes of the detections.

    pycocotools would take the area of a box for that of its mask.
    """
    require_masks([detections], truth)
    columns = ((data["annotations"], truth), (results, detections))
    for rows, held in columns:
        sizes = [truth.sizes[image] for image in held.image.tolist()]
        masks = as_coco(held.masks or Rles.none(0), sizes)
        for row, mask in zip(rows, masks, strict=True):
            row["segmentation"] = mask
    for row in results:
        del row["bbox"]


def metrics_of(evaluator: COCOeval) -> Metrics:
    """Return what pycocotools has computed as metrics."""
    precision, recall = evaluator.eval["precision"][..., -1], evaluator.eval["recall"]
    values = {
        "ap": precision[..., 0],
        "ap50": precision[0, ..., 0],
        "ap75": precision[5, ..., 0],
        "ap_small": precision[..., 1],
        "ap_medium": precision[..., 2],
        "ap_large": precision[..., 3],
        "ar1": recall[..., 0, 0],
        "ar10": recall[..., 0, 1],
        "ar": recall[..., 0, 2],
        "ar_small": recall[..., 1, 2],
        "ar_medium": recall[..., 2, 2],
        "ar_large": recall[..., 3, 2],
    }
    per_class = tuple(_mean(precision[:, :, k, 0]) for k in range(precision.shape[2]))
    return Metrics({name: _mean(part) for name, part in values.items()}, per_class)


def dataset(truth: GroundTruth) -> dict[str, Any]:
    """Build a COCO data set; category ids are labels plus one."""
    columns = (truth.image, truth.boxes, truth.labels, truth.crowd, truth.area)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    annotations = [
        {
            "id": n + 1,
            "image_id": truth.image_ids[image],
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": int(crowd),
        }
        for n, (image, (x1, y1, x2, y2), label, crowd, area) in enumerate(rows)
    ]
    sizes = zip(truth.image_ids, truth.sizes, strict=True)
    return {
        "images": [{"id": n, "width": width, "height": height} for n, (width, height) in sizes],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(truth.classes)],
    }


def results_of(detections: Candidates, image_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Build COCO results. Negative sides become 0: pycocotools ignores negative areas."""
    columns = (detections.image, detections.boxes.double(), detections.scores, detections.labels)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        {
            "image_id": image_ids[image],
            "category_id": label + 1,
            "bbox": [x1, y1, max(x2 - x1, 0), max(y2 - y1, 0)],
            "score": score,
        }
        for image, (x1, y1, x2, y2), score, label in rows
    ]


def best_of_each_class(results: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Keep the `most` best results per image and class; of equal scores the first."""
    counts, kept = Counter[tuple[int, int]](), []
    for row in sorted(results, key=lambda row: -row["score"]):
        group = row["image_id"], row["category_id"]
        counts[group] += 1
        if counts[group] <= most:
            kept.append(row)
    return kept


def evaluated(
    data: dict[str, Any], results: list[dict[str, Any]], most: int, kind: str = "bbox"
) -> COCOeval:
    """Evaluate at 1, 10 and `most` detections, without output.

    Args:
        data: a COCO data set.
        results: COCO results.
        most: the largest number of detections.
        kind: what the IoU compares, `bbox` or `segm`.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = data
        ground_truth.createIndex()
        # loadRes takes no empty list
        found = ground_truth.loadRes(results) if results else COCO()
        evaluator = COCOeval(ground_truth, found, kind)
        evaluator.params.maxDets = [1, 10, most]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _mean(values: NDArray[Any]) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
