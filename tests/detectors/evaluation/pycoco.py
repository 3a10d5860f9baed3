"""Metrics by pycocotools, to compare with."""

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.evaluation.metrics import Metrics
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates


def dataset(truth: GroundTruth) -> dict[str, Any]:
    """Build a COCO data set; category ids are labels plus one."""
    rows = zip(*(column.tolist() for column in list(vars(truth).values())[3:]), strict=True)
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


def results_of(found: Candidates, image_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Build COCO results. Negative sides become 0: pycocotools ignores negative areas."""
    columns = (c.tolist() for c in (found.image, found.boxes.double(), found.scores, found.labels))
    return [
        {
            "image_id": image_ids[image],
            "category_id": label + 1,
            "bbox": [x1, y1, max(x2 - x1, 0), max(y2 - y1, 0)],
            "score": score,
        }
        for image, (x1, y1, x2, y2), score, label in zip(*columns, strict=True)
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


def evaluated(data: dict[str, Any], results: list[dict[str, Any]], most: int) -> COCOeval:
    """Evaluate at 1, 10 and `most` detections, without output."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = data
        ground_truth.createIndex()
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluator.params.maxDets = [1, 10, most]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def metrics_of(found: Candidates, truth: GroundTruth, max_dets: int) -> Metrics:
    """Compute all metrics. Detections beyond `max_dets` are removed before pycocotools."""
    results = best_of_each_class(results_of(found, truth.image_ids), max_dets)
    evaluator = evaluated(dataset(truth), results, max(100, max_dets))
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
    per_class = tuple(mean_of(precision[:, :, k, 0]) for k in range(precision.shape[2]))
    return Metrics({name: mean_of(part) for name, part in values.items()}, per_class)


def mean_of(values: NDArray[Any]) -> float | None:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else None


def differences(found: Metrics, expected: Metrics) -> dict[str, Any]:
    """Return the values of two Metrics that differ by more than 1e-9."""
    ours, theirs = (
        {**each.values, **{f"class {k}": ap for k, ap in enumerate(each.per_class)}}
        for each in (found, expected)
    )
    assert ours.keys() == theirs.keys()
    pairs = {name: (ours[name], theirs[name]) for name in ours}
    return {name: pair for name, pair in pairs.items() if not same(*pair)}


def same(a: float | None, b: float | None) -> bool:
    return a == b if a is None or b is None else abs(a - b) <= 1e-9
