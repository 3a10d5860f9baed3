"""ATSS: one-to-many by overlap, with a threshold of each object's own."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import center_distance, in_box
from detectors.assigners.ranking import best_object, best_per_level, standing_out
from detectors.boxes import pairwise_iou
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class Atss(Assigner):
    """Points near the centre whose anchors overlap the object well (ATSS Alg. 1; 003 Table 9).

    Candidates are the `topk` points of each level nearest to the object's centre. Positive are
    those inside the box whose anchor has at least the IoU t = mean + standard deviation over all
    its candidates. Of several objects the one of highest IoU takes the point. An object may end
    without any point: with few levels no candidate may reach t.
    ATSS has one square anchor of 8 strides a point (`detector.anchor_scale`). Several anchors of
    one cell compete for the `topk` places. The deviation is unbiased, as in the released codes.
    Deviation: a level of fewer than `topk` points has them all as candidates; 003's code fails.
    """

    name: Literal["atss"] = "atss"
    topk: int = Field(9, ge=1)
    """Candidates of an object on each level."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; predictions and progress are not looked at."""
        iou_GN = pairwise_iou(targets.boxes, points.anchors)
        near_GN = best_per_level(-center_distance(points, targets), points, self.topk)
        inside_GN = in_box(points, targets)
        return best_object(iou_GN, standing_out(iou_GN, near_GN) & inside_GN)
