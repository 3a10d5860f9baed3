"""Check metrics of detections against pycocotools, on the same detections."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detectors.evaluation.gap import Gap, gap_of
from detectors.evaluation.oracle import oracle_metrics
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from gaplab.errors import UserError

TOLERANCE = 1e-9
"""Largest difference, in percent points, that may come from the order of sums."""


@dataclass(frozen=True)
class Checked:
    """What pycocotools measured.

    Attributes:
        gap: metrics without NMS, with NMS and their gaps.
        compared: number of metrics compared, AP of each class included.
        difference: largest difference to ours, in percent points; infinite if only one of the two
            defines a metric.
    """

    gap: Gap
    compared: int
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """Return what pycocotools measured, as plain JSON."""
        metrics = {name: self.gap.metrics[name] for name in ("ap", "ap_nms", "ar", "ar_nms")}
        return {**metrics, "compared": self.compared, "difference": self.difference}

    @property
    def agrees(self) -> bool:
        """Whether all metrics are ours."""
        return self.difference <= TOLERANCE


def check(
    columns: Sequence[Candidates], truth: GroundTruth, protocol: Protocol, ours: Gap
) -> Checked:
    """Measure detections with pycocotools and compare its metrics with ours.

    Args:
        columns: the detections without NMS and with it.
        truth: the ground truth.
        protocol: how the detections were selected.
        ours: our metrics of the same detections.

    Raises:
        UserError: AP is not COCO's under the protocol.
    """
    if not protocol.matched:
        raise UserError(
            f"--check: protocol {protocol.preset} measures the AP of CrowdHuman, and pycocotools "
            "that of COCO; check under another protocol"
        )
    most, masks = protocol.max_dets, protocol.masks
    without, with_nms = (oracle_metrics(each, truth, most, masks=masks) for each in columns)
    theirs = gap_of(without, with_nms, truth.classes)
    pairs = list(zip(_values(ours), _values(theirs), strict=True))
    difference = max(_difference(*pair) for pair in pairs)
    return Checked(theirs, sum(mine is not None for mine, _ in pairs), difference)


def _values(gap: Gap) -> Iterator[float | None]:
    yield from gap.metrics.values()
    for each in gap.per_class:
        yield from (each.ap, each.ap_nms, each.gap)


def _difference(mine: float | None, theirs: float | None) -> float:
    if mine is None or theirs is None:
        return 0.0 if mine is theirs else float("inf")
    return abs(mine - theirs)
