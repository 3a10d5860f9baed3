"""The NMS gap: AP without NMS minus AP with NMS, of the same candidates under one protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detectors.evaluation.coco import coco_metrics
from detectors.evaluation.crowd import crowd_metrics
from detectors.evaluation.metrics import ClassGap, Metrics, names_of
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

Evaluator = Callable[[Sequence[Candidates], GroundTruth, int], list[Metrics]]
EVALUATORS: dict[str, Evaluator] = {"coco": coco_metrics, "crowd": crowd_metrics}
"""By `Protocol.evaluator`: metrics of each of several sets of detections on one ground truth."""


@dataclass(frozen=True)
class Gap:
    """Metrics without suppression, with it (`_nms`), and their gap, in percent points.

    A gap is the number without NMS minus the one with it: for AP, negative when the detector needs
    NMS. That of `ap` is called `gap`, of any other `m` it is `m_gap`. None where a metric does not
    exist.
    """

    metrics: dict[str, float | None]
    per_class: tuple[ClassGap, ...]


def gap_between(detections: Sequence[Candidates], truth: GroundTruth, protocol: Protocol) -> Gap:
    """Measure the gap between two sets of detections: without suppression, and with it.

    Args:
        detections: both sets, as `selection.columns` returns them.
        truth: the ground truth of all images.
        protocol: its evaluator and `max_dets` are used.

    Raises ValueError as the protocol's evaluator does.

    """
    without, with_nms = EVALUATORS[protocol.evaluator](detections, truth, protocol.max_dets)
    metrics: dict[str, float | None] = {}
    for name, value in without.values.items():
        metrics |= _row(name, value, with_nms.values[name])
    per_class = zip(truth.classes, without.per_class, with_nms.per_class, strict=True)
    return Gap(metrics, tuple(ClassGap(name, *_row("ap", *ap).values()) for name, *ap in per_class))


def _row(name: str, value: float | None, with_nms: float | None) -> dict[str, float | None]:
    """A metric in percent points as its three numbers."""
    names = names_of(name)
    if value is None or with_nms is None:
        return dict.fromkeys(names)
    return dict(zip(names, (100 * value, 100 * with_nms, 100 * (value - with_nms)), strict=True))
