"""RetinaNet: one-to-many assignment by the IoU of anchor boxes."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.ranking import best_object
from detectors.boxes import pairwise_iou
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class RetinaNetIou(Assigner):
    """Assigns anchors by IoU: high is positive, low is negative, others are ignored.

    RetinaNet section 4.1. An anchor is assigned to the object with the highest IoU. The best
    anchors of an object (all with the same IoU) are positive at any IoU (`low_quality`, from
    detectron2). If the IoU of such an anchor with another object is higher, `low_quality_owner`
    selects the object. The anchors are defined by the detector.

    Deviation: an object that overlaps no anchor gets none; in detectron2 and mmdetection, all
    anchors with IoU 0 to it are positive.
    """

    name: Literal["retinanet"] = "retinanet"
    positive_iou: float = Field(0.5, gt=0, le=1)
    """Minimum IoU of a positive anchor."""
    negative_iou: float = Field(0.4, ge=0, le=1)
    """Anchors with a lower IoU are negative. Those between this and `positive_iou` have no
    classification loss."""
    low_quality: bool = True
    """Whether the best anchors of an object are positive at any IoU above 0 (not in the paper)."""
    low_quality_owner: Literal["highest_iou", "own"] = "highest_iou"
    """The object of such an anchor: the one with the highest IoU (detectron2: 000 and 001), or its
    own one, of several the last (mmdetection: the code of DATE-R, 004)."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    @model_validator(mode="after")
    def _negatives_below_positives(self) -> Self:
        low, high = self.negative_iou, self.positive_iou
        if low > high:
            raise ValueError(f"negative_iou must not be above positive_iou, got {low} > {high}")
        return self

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; predictions and progress are not used."""
        iou_BGN = pairwise_iou(targets.boxes, points.anchors)
        iou_BGN = torch.where(targets.real[..., None], iou_BGN, 0.0)
        best_BN = iou_BGN.amax(1)
        positive_BN = best_BN >= self.positive_iou
        if self.low_quality:
            own_best = iou_BGN.amax(2, keepdim=True)
            low_BGN = (iou_BGN == own_best) & (iou_BGN > 0)
            positive_BN |= low_BGN.any(1)
            if self.low_quality_owner == "own":
                iou_BGN = _only_last(iou_BGN, low_BGN)
        found = best_object(iou_BGN, positive_BN[:, None].expand_as(iou_BGN))
        ignored_BN = ~positive_BN & (best_BN >= self.negative_iou)
        return Assignment(found.object, found.degree, (~ignored_BN).float()[..., None])


def _only_last(iou_BGN: Tensor, low_BGN: Tensor) -> Tensor:
    """Return IoUs, with -inf for all but the last object of `low_BGN` at points that have one."""
    last_BGN = low_BGN & (low_BGN.flip(1).cumsum(1).flip(1) == 1)
    return torch.where(last_BGN | ~low_BGN.any(1, keepdim=True), iou_BGN, -torch.inf)
