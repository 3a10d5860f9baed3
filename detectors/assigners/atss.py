"""ATSS: one-to-many assignment by IoU, with an adaptive threshold per object."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import center_distance, in_box
from detectors.assigners.ranking import above_threshold, best_object, best_per_level
from detectors.boxes import pairwise_iou
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class Atss(Assigner):
    """Assigns points near the centre whose anchors have a high IoU (ATSS Alg. 1; 003 Table 9).

    Candidates are the `topk` points of each level nearest to the centre of the object. Those are
    positive that lie inside the box (`margin`) and whose anchor has an IoU of at least t, the mean
    plus the standard deviation over all candidates of the object. A point that is positive for
    several objects is assigned to the one with the highest IoU. An object may get no point: with
    few levels, it may be that no candidate reaches t.

    ATSS has one square anchor of 8 strides per point (`detector.anchor_scale`). Several anchors per
    cell compete for the `topk` candidates. The standard deviation is unbiased, as in the released
    codes.

    Deviation: if a level has fewer than `topk` points, all are candidates; the code of 003 fails.
    """

    name: Literal["atss"] = "atss"
    topk: int = Field(9, ge=1)
    """Number of candidates per object and level."""
    margin: float = Field(0.01, ge=0)
    """How far inside the box a positive point must be at least, in pixels: 0.01 in ATSS's code and
    mmdetection, 0 in the code of 003 for CrowdHuman."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; predictions and progress are not used."""
        iou_BGN = pairwise_iou(targets.boxes, points.anchors)
        near_BGN = best_per_level(-center_distance(points, targets), points, self.topk)
        inside_BGN = in_box(points, targets, self.margin)
        high_BGN = above_threshold(iou_BGN, near_BGN) & inside_BGN
        return best_object(iou_BGN, high_BGN & targets.real[..., None])
