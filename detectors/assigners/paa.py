"""PAA: probabilistic anchor assignment, by a mixture of two Gaussians per object."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.gaussians import separate
from detectors.assigners.geometry import class_logits, each_image, equalize, log_of_iou
from detectors.assigners.ranking import best_object, best_per_level
from detectors.boxes import pairwise_iou
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class Paa(Assigner):
    """Assigns the anchors of high scores, separated by a mixture of two Gaussians (PAA section 3).

    The cost of an anchor is -log(p * IoU^lambda) for the score p of the object's class and the IoU
    of its predicted box. An anchor is a candidate of the object with the highest IoU to the anchor,
    if that IoU is at least `min_iou`, or if no anchor has a higher IoU to some object, this one or
    another (released code). Per level, an object keeps its `topk` candidates of lowest cost. Two
    Gaussians are fitted to these costs. Candidates of the first Gaussian are positive up to the one
    with the highest likelihood (Fig. 3c, mmdetection). An object with a single candidate gets it;
    if no candidate belongs to the first Gaussian, an object gets none.

    Deviations: the losses in the cost of the released code are focal loss and GIoU, its IoUs of
    anchors count a pixel more in width and height, and all candidates up to the likeliest of the
    first Gaussian are positive, or all if it has none. PAA also predicts IoUs, and votes after NMS.
    """

    name: Literal["paa"] = "paa"
    topk: int = Field(9, ge=1)
    """Number of candidates per object and level."""
    min_iou: float = Field(0.1, ge=0, le=1)
    """Minimum IoU of a candidate's anchor and the object."""
    iou_weight: float = Field(1.0, ge=0)
    """lambda: weight of -log(IoU) in the cost."""
    iterations: int = Field(100, ge=1)
    """Maximum number of steps of expectation maximisation."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; progress is not used."""
        candidate_BGN = self._candidates(points, targets)
        cost_BGN = equalize(self._cost(predictions, targets), targets)
        ranked_BGN = torch.where(candidate_BGN, -cost_BGN, -torch.inf)
        candidate_BGN &= best_per_level(ranked_BGN, points, self.topk)
        most = sum(min(self.topk, size) for size in points.sizes)
        ranked_BGN = torch.where(candidate_BGN, -cost_BGN, -torch.inf)
        value_BGK, index_BGK = ranked_BGN.topk(most)
        positive_BGK = separate(-value_BGK, self.iterations)
        positive_BGN = torch.zeros_like(candidate_BGN).scatter(2, index_BGK, positive_BGK)
        return best_object(-cost_BGN, positive_BGN)

    def _candidates(self, points: Points, targets: TargetBatch) -> Tensor:
        """Return the anchors that may be assigned to each object: [B, G, N] bool, one per point."""
        iou_BGN = pairwise_iou(targets.boxes, points.anchors)
        iou_BGN = torch.where(targets.real[..., None], iou_BGN, 0.0)
        highest_BGN = (iou_BGN == iou_BGN.amax(2, keepdim=True)) & (iou_BGN > 0)
        candidate_BN = ((iou_BGN >= self.min_iou) & (iou_BGN > 0) | highest_BGN).any(1)
        owner_BN = best_object(iou_BGN, candidate_BN[:, None].expand_as(iou_BGN)).object
        number = torch.arange(iou_BGN.shape[1], device=owner_BN.device)
        return owner_BN[:, None] == number[:, None]

    def _cost(self, predictions: Predictions, targets: TargetBatch) -> Tensor:
        """Return -log(p) - lambda log(IoU) of every pair: [B, G, N] float64."""
        logits_BGN, counts = class_logits(predictions, targets).double(), targets.counts
        negative_log_BGN = each_image(lambda logits: F.softplus(-logits), logits_BGN, counts)
        iou_BGN = pairwise_iou(targets.boxes, predictions.boxes)
        return negative_log_BGN - self.iou_weight * log_of_iou(iou_BGN, targets)
