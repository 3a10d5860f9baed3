"""Anchor: one-to-one by the overlap with anchor boxes."""

from typing import ClassVar, Literal

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import center_distance
from detectors.assigners.matching import Solver, match
from detectors.boxes import pairwise_iou
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class Anchor(Assigner):
    """The anchor of highest IoU (003 Table 1, "Anchor"; 000 Table 1, RetinaNet one-to-one).

    Objects that want the same anchor are settled by the one-to-one solution of largest total IoU,
    an object that overlaps no anchor gets the nearest. Which anchors there are is the detector's
    affair: 003's row has one square of four strides a point, 000's has RetinaNet's nine.
    Deviation: 003's released code leaves an object without a positive where another one overlaps
    its anchor more; see `solver`.
    """

    name: Literal["anchor"] = "anchor"
    solver: Solver = "lsa"
    """`argmax` is 003's released code."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; predictions and progress are not looked at."""
        iou_GN = pairwise_iou(targets.boxes, points.anchors)
        return match(iou_GN, iou_GN > 0, center_distance(points, targets), self.solver)
