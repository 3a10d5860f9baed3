"""OTA: one-to-many assignment by optimal transport."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import (
    class_logits,
    each_image,
    equalize,
    in_center_square,
    log_of_iou,
)
from detectors.assigners.ranking import best_object, dynamic_counts
from detectors.boxes import pairwise_iou
from detectors.losses import focal_change, sigmoid_focal
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch

_OUTSIDE = 1e6
"""Additional cost of a point outside of the centre square."""
_TINY = 1e-8
"""Least supply, whose logarithm is finite."""
_ALPHA, _GAMMA = 0.25, 2.0
"""Those of the focal loss in the cost, which does not depend on the loss of the training."""


class Ota(Assigner):
    """Transports points to objects and the background at the lowest total cost (OTA section 3).

    An object supplies k labels, the sum of the `topk` highest IoUs in its centre square, rounded
    down and at least 1; the background supplies the others; a point takes one. The cost is focal
    loss of all classes - w log(IoU), and for the background focal loss alone. Sinkhorn's iteration
    finds the transport plan. As in the released code, each row of it is divided by its maximum, and
    a point belongs to the row with its highest value; if several have their maximum there, to the
    object that supplies most (to the first one in the released code). With more labels than points,
    the background supplies none.
    """

    name: Literal["ota"] = "ota"
    iou_weight: float = Field(1.5, ge=0)
    """Weight of -log(IoU) in the cost."""
    topk: int = Field(20, ge=1)
    """Number of IoUs whose sum is the number of labels of an object."""
    radius: float = Field(2.5, gt=0)
    """Half of the side of the centre square, in strides."""
    epsilon: float = Field(0.1, gt=0)
    """Weight of the entropy of the plan."""
    iterations: int = Field(50, ge=1)
    """Number of Sinkhorn's iterations."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; progress is not used."""
        real_BG1, rows = targets.real[..., None], targets.labels.shape[1]
        square_BGN = in_center_square(points, targets, self.radius) & real_BG1
        iou_BGN = pairwise_iou(targets.boxes, predictions.boxes)
        cost_BGN, background_BN = _focal_costs(predictions, targets)
        cost_BGN = cost_BGN - self.iou_weight * log_of_iou(iou_BGN, targets)
        cost_BGN = equalize(cost_BGN, targets) + _OUTSIDE * ~square_BGN
        count_BG = dynamic_counts(torch.where(square_BGN, iou_BGN, 0.0), self.topk) * targets.real
        rest_B1 = (len(points) - count_BG.sum(1, keepdim=True)).clamp(min=0)
        cost = torch.cat([cost_BGN.masked_fill(~real_BG1, torch.inf), background_BN[:, None]], 1)
        plan = sinkhorn(cost, torch.cat([count_BG, rest_B1], 1), self.epsilon, self.iterations)
        plan[:, :rows] = equalize(plan[:, :rows], targets)
        scaled = torch.where(cost.isinf(), -torch.inf, plan - plan.amax(2, keepdim=True))
        highest_BGN = (scaled >= scaled.amax(1, keepdim=True))[:, :rows] & real_BG1
        return best_object(plan[:, :rows], highest_BGN)


def sinkhorn(cost_BGN: Tensor, supply_BG: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return the logarithm of the plan of lowest cost, with entropy: [B, G, N].

    Args:
        cost_BGN: float64; infinite in rows that supply nothing.
        supply_BG: what each row supplies; every point takes 1.
        epsilon: weight of the entropy.
        iterations: number of iterations.
    """
    kernel = -cost_BGN / epsilon
    supply = (supply_BG.double() + _TINY).log()[..., None]
    u, unused = torch.zeros_like(supply), kernel.isinf().all(2, keepdim=True)
    for _ in range(iterations):
        v = -(kernel + u).logsumexp(1, keepdim=True)
        u = torch.where(unused, 0.0, supply - (kernel + v).logsumexp(2, keepdim=True))
    return kernel + u + v


def _focal_costs(predictions: Predictions, targets: TargetBatch) -> tuple[Tensor, Tensor]:
    """Return the focal loss of every pair [B, G, N], and of every point as background [B, N]."""
    logits_BNC, every = predictions.logits.double(), [predictions.logits.shape[1]] * len(targets)
    absent = each_image(lambda x: sigmoid_focal(x, x * 0, _ALPHA, _GAMMA), logits_BNC, every).sum(2)
    own_BGN = class_logits(predictions, targets).double()
    change = each_image(lambda x: focal_change(x, _ALPHA, _GAMMA), own_BGN, targets.counts)
    return absent[:, None] + change, absent
