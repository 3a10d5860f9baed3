"""Anchor: one-to-one assignment by the IoU of anchor boxes."""

from typing import ClassVar, Literal

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import distance_of_image
from detectors.assigners.matching import Solver, match
from detectors.boxes import pairwise_iou
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class Anchor(Assigner):
    """Assigns the anchor with the highest IoU (003 Table 1, "Anchor"; 000 Table 1, RetinaNet o2o).

    The assignment is the one-to-one matching in which most objects get an anchor that they overlap,
    with the largest total IoU; the others get the nearest one that is left. The anchors are defined
    by the detector: one square of four strides per point in 003, RetinaNet's nine in 000.

    Deviation: in the released code of 003, an object gets no positive if another object overlaps
    its anchor more; see `solver`.
    """

    name: Literal["anchor"] = "anchor"
    solver: Solver = "lsa"
    """`argmax`: as in the released code of 003."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; predictions and progress are not used."""
        iou_BGN = pairwise_iou(targets.boxes, points.anchors)
        distance = distance_of_image(points, targets)
        return match(iou_BGN, iou_BGN > 0, distance, targets, self.solver)
