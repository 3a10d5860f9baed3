"""RetinaNet: one-to-many by overlap with anchor boxes."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.ranking import best_object
from detectors.boxes import pairwise_iou
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class RetinaNetIou(Assigner):
    """Anchors by IoU: high is positive, low negative, between ignored (RetinaNet section 4.1).

    An anchor goes to the object it overlaps most. The best anchors of an object (all equal ones)
    are positive however little they overlap it (`low_quality`, from detectron2); as there, such an
    anchor goes to another object if it overlaps that one more.
    Deviation: an object that overlaps no anchor at all gets none; detectron2 makes every anchor
    with IoU 0 to it positive. Which anchors there are is the detector's affair.
    """

    name: Literal["retinanet"] = "retinanet"
    positive_iou: float = Field(0.5, gt=0, le=1)
    """Least IoU of a positive anchor."""
    negative_iou: float = Field(0.4, ge=0, le=1)
    """Anchors of less are negative; from here to `positive_iou` they teach classification nothing.
    """
    low_quality: bool = True
    """Each object's best anchors are positive at any IoU above 0. Off in RetinaNet's paper."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    @model_validator(mode="after")
    def _negatives_below_positives(self) -> Self:
        low, high = self.negative_iou, self.positive_iou
        if low > high:
            raise ValueError(f"negative_iou must not be above positive_iou, got {low} > {high}")
        return self

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; predictions and progress are not looked at."""
        iou_GN = pairwise_iou(targets.boxes, points.anchors)
        best_N = torch.cat([iou_GN.new_zeros(1, len(points)), iou_GN]).amax(0)
        positive_N = best_N >= self.positive_iou
        if self.low_quality:
            own_best = iou_GN.amax(1, keepdim=True)
            positive_N |= ((iou_GN == own_best) & (iou_GN > 0)).any(0)
        found = best_object(iou_GN, positive_N.expand_as(iou_GN))
        ignored_N = ~positive_N & (best_N >= self.negative_iou)
        return Assignment(found.object, found.degree, (~ignored_N).float()[:, None])
