"""SimOTA: one-to-many assignment of the cheapest points, their number from the IoUs."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import center_offset, each_image, equalize, in_box, log_of_iou
from detectors.assigners.ranking import best_counted, best_object, dynamic_counts
from detectors.boxes import pairwise_iou
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch

_OUTSIDE = 1e5
"""Cost of a point that is not both in the box and near its centre; above any other cost."""


class SimOta(Assigner):
    """Assigns each object its k points of lowest cost L_cls - 3 log(IoU) (YOLOX Eq. 1).

    L_cls is the binary cross-entropy over all classes. Candidates lie in the box of an object, or
    within `radius` strides of its centre in x and y; those of which both is true for the object
    itself come first. k is the sum of the `topk` highest IoUs among the candidates, rounded down
    and at least 1. A point that several objects choose is assigned to the object of lowest cost,
    which may be another one, and those that lose it get no other point instead. The details and the
    weight 3 are from the released code; its later releases only take points within 1.5 strides of
    the centre, inside the box or not.

    Deviations: YOLOX has an objectness, which multiplies the score; here it is the class score
    alone. Its targets of classes are IoUs, with binary cross-entropy; here they are 1, with focal
    loss: see `training.loss.cls` and `training.loss.cls_target`.
    """

    name: Literal["simota"] = "simota"
    iou_weight: float = Field(3.0, ge=0)
    """Weight of -log(IoU) in the cost."""
    topk: int = Field(10, ge=1)
    """Number of IoUs whose sum is the number of points of an object."""
    radius: float = Field(2.5, gt=0)
    """Half of the side of the square about the centre, in strides. It is not clipped to the box."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; progress is not used."""
        candidate_BN, own_BGN = self._areas(points, targets)
        candidate_BGN = candidate_BN[:, None] & targets.real[..., None]
        iou_BGN = pairwise_iou(targets.boxes, predictions.boxes)
        cost_BGN = classification_cost(predictions, targets)
        cost_BGN = cost_BGN - self.iou_weight * log_of_iou(iou_BGN, targets)
        cost_BGN = equalize(cost_BGN, targets) + _OUTSIDE * ~own_BGN
        value_BGN = torch.where(candidate_BGN, -cost_BGN, -torch.inf)
        count_BG = dynamic_counts(torch.where(candidate_BGN, iou_BGN, 0.0), self.topk)
        chosen_BGN = best_counted(value_BGN, count_BG, self.topk) & candidate_BGN
        contested_B1N = chosen_BGN.sum(1, keepdim=True) > 1
        return best_object(value_BGN, chosen_BGN | contested_B1N & candidate_BGN)

    def _areas(self, points: Points, targets: TargetBatch) -> tuple[Tensor, Tensor]:
        """Return points in the area of any object [B, N], and in both areas of one [B, G, N]."""
        x, y = center_offset(points, targets)
        reach = self.radius * points.stride
        near_BGN = (x.abs() < reach) & (y.abs() < reach)
        inside_BGN = in_box(points, targets)
        either_BGN = (near_BGN | inside_BGN) & targets.real[..., None]
        return either_BGN.any(1), near_BGN & inside_BGN


def classification_cost(predictions: Predictions, targets: TargetBatch) -> Tensor:
    """Return the binary cross-entropy over all classes of every pair: [B, G, N] float64."""
    logits_BNC = predictions.logits.double()
    every = [logits_BNC.shape[1]] * len(logits_BNC)
    absent_BN = each_image(F.softplus, logits_BNC, every).sum(2)
    index = targets.labels[..., None].expand(-1, -1, logits_BNC.shape[1])
    return absent_BN[:, None] - logits_BNC.transpose(1, 2).gather(1, index)
