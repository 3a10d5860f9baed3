"""The NMS gap: AP without NMS minus AP with NMS, for the same candidates and one protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detectors.evaluation.coco import coco_metrics, mask_metrics
from detectors.evaluation.crowd import crowd_metrics
from detectors.evaluation.metrics import ClassGap, Metrics, names_of
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

Evaluator = Callable[[Sequence[Candidates], GroundTruth, int], list[Metrics]]
EVALUATORS: dict[str, Evaluator] = {
    "coco": coco_metrics,
    "crowd": crowd_metrics,
    "masks": mask_metrics,
}
"""`Protocol.evaluator` -> a function that returns the metrics of each of several sets of detections
on one ground truth."""


@dataclass(frozen=True)
class Gap:
    """Metrics without NMS, with NMS, and their gaps, in percent points."""

    metrics: dict[str, float | None]
    """By name, see `metrics`. A gap is the metric without NMS minus the metric with NMS; the gap of
    AP is negative if the detector needs NMS. None if a metric is undefined."""
    per_class: tuple[ClassGap, ...]
    """AP of each class, in label order."""


def gap_between(detections: Sequence[Candidates], truth: GroundTruth, protocol: Protocol) -> Gap:
    """Measure the gap between two sets of detections: without suppression, and with it.

    Args:
        detections: both sets, as `selection.select_both` returns them.
        truth: the ground truth of all images.
        protocol: its evaluator and `max_dets` are used.

    Raises:
        ValueError: there is no object in the ground truth.
    """
    metrics = EVALUATORS[protocol.evaluator](detections, truth, protocol.max_dets)
    return gap_of(metrics[0], metrics[1], truth.classes)


def gap_of(without: Metrics, with_nms: Metrics, classes: Sequence[str]) -> Gap:
    """Return the gap between metrics without suppression and metrics with it."""
    metrics: dict[str, float | None] = {}
    for name, value in without.values.items():
        metrics |= _row(name, value, with_nms.values[name])
    per_class = zip(classes, without.per_class, with_nms.per_class, strict=True)
    return Gap(metrics, tuple(ClassGap(name, *_row("ap", *ap).values()) for name, *ap in per_class))


def _row(name: str, value: float | None, with_nms: float | None) -> dict[str, float | None]:
    """Return a metric without NMS, with NMS and its gap, in percent points."""
    names = names_of(name)
    if value is None or with_nms is None:
        return dict.fromkeys(names)
    return dict(zip(names, (100 * value, 100 * with_nms, 100 * (value - with_nms)), strict=True))
