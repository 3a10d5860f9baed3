"""The NMS gap: AP without NMS minus AP with NMS, of the same candidates under one protocol."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.evaluation.coco import CocoMetrics, coco_metrics
from detectors.evaluation.nms import nms
from detectors.evaluation.protocol import Protocol
from detectors.structures import Candidates, ImageTruth


@dataclass(frozen=True)
class ClassGap:
    """AP of one class in percent points; None for a class without objects."""

    name: str
    ap: float | None
    ap_nms: float | None
    gap: float | None


@dataclass(frozen=True)
class GapMetrics:
    """AP and AR without and with NMS (`_nms`), in percent points in [0, 100].

    A gap is the number without NMS minus the one with it: negative when the detector needs NMS.
    """

    ap: float
    ap_nms: float
    gap: float
    ap50: float
    ap50_nms: float
    ap75: float
    ap75_nms: float
    ar: float
    ar_nms: float
    ar_gap: float
    per_class: tuple[ClassGap, ...]


def select(candidates: Candidates, protocol: Protocol, use_nms: bool) -> Candidates:
    """Detections of one image under `protocol`, by falling score; at most `max_dets`.

    Candidates kept under a more generous protocol give the same detections as candidates kept
    under this one: its score floor and its `pre_nms_topk` are applied here too.
    """
    admitted = (candidates.scores > protocol.score_floor) & (
        _rank_in_level(candidates.levels) < protocol.pre_nms_topk
    )
    detections = candidates.take(admitted)
    if use_nms and protocol.order == "nms_then_cut":
        return _suppress(detections, protocol)
    cut = detections.take(torch.arange(len(detections))[: protocol.max_dets])
    return _suppress(cut, protocol) if use_nms else cut


def measure_gap(
    candidates: Sequence[Candidates],
    truth: Sequence[ImageTruth],
    classes: Sequence[str],
    protocol: Protocol,
) -> GapMetrics:
    """AP and AR of the candidates of all images, without NMS and with it.

    Raises ValueError as `coco_metrics` does.
    """
    without, with_nms = (
        coco_metrics(
            [select(image, protocol, use_nms) for image in candidates],
            truth,
            classes,
            protocol.max_dets,
        )
        for use_nms in (False, True)
    )
    return _difference(without, with_nms, classes)


def _suppress(candidates: Candidates, protocol: Protocol) -> Candidates:
    kept = nms(
        candidates.boxes,
        candidates.scores,
        candidates.labels,
        protocol.nms_iou,
        limit=protocol.max_dets,
    )
    return candidates.take(kept)


def _rank_in_level(levels: Tensor) -> Tensor:
    """How many earlier candidates each one has on its own level: [M] int64."""
    same: Tensor = levels[:, None] == torch.unique(levels)
    return (same.cumsum(dim=0) * same).sum(dim=1) - 1


def _difference(without: CocoMetrics, with_nms: CocoMetrics, classes: Sequence[str]) -> GapMetrics:
    per_class = zip(classes, without.per_class, with_nms.per_class, strict=True)
    return GapMetrics(
        ap=100 * without.ap,
        ap_nms=100 * with_nms.ap,
        gap=100 * (without.ap - with_nms.ap),
        ap50=100 * without.ap50,
        ap50_nms=100 * with_nms.ap50,
        ap75=100 * without.ap75,
        ap75_nms=100 * with_nms.ap75,
        ar=100 * without.ar,
        ar_nms=100 * with_nms.ar,
        ar_gap=100 * (without.ar - with_nms.ar),
        per_class=tuple(_class_gap(*row) for row in per_class),
    )


def _class_gap(name: str, ap: float | None, ap_nms: float | None) -> ClassGap:
    if ap is None or ap_nms is None:
        return ClassGap(name, None, None, None)
    return ClassGap(name, 100 * ap, 100 * ap_nms, 100 * (ap - ap_nms))
