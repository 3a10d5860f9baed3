"""TAL: task-aligned assignment, with soft targets."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import class_score, each_image, equalize, grown, in_box
from detectors.assigners.ranking import best_object, best_points
from detectors.boxes import pairwise_iou
from detectors.losses import ClsLoss
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class Aligned(Assigner):
    """The base of assignments by the alignment t = s^alpha * u^beta (TOOD section 3.2)."""

    alpha: float = Field(1.0, ge=0)
    """Exponent of the class score in the alignment."""
    beta: float = Field(6.0, ge=0)
    """Exponent of the IoU in the alignment."""
    grow_small: bool = False
    """Whether a side below the finest stride counts as twice that stride in the test whether a
    point lies inside the box (YOLO26 as first released), so that small objects have points. In
    later releases, all sides below twice that stride do."""

    topk: int
    loss: ClassVar[ClsLoss] = "quality_focal"
    kept: ClassVar[int | None] = None
    """Number of points that an object keeps of those it was assigned; None: all."""

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; progress is not used."""
        boxes = grown(points, targets) if self.grow_small else targets
        inside_BGN = in_box(points, boxes) & targets.real[..., None]
        iou_BGN = pairwise_iou(targets.boxes, predictions.boxes)
        aligned_BGN = torch.where(inside_BGN, self._alignment(predictions, targets, iou_BGN), 0.0)
        chosen_BGN = best_points(aligned_BGN, self.topk) & (aligned_BGN > 0)
        owner_BN = best_object(iou_BGN, chosen_BGN).object
        number = torch.arange(iou_BGN.shape[1], device=owner_BN.device)
        own_BGN = owner_BN[:, None] == number[:, None]
        if self.kept is not None:
            own_BGN &= best_points(torch.where(own_BGN, aligned_BGN, 0.0), self.kept)
        degree, index = targets_of(aligned_BGN, iou_BGN, own_BGN).max(1)
        return Assignment(torch.where(degree > 0, index, -1), degree)

    def _alignment(self, predictions: Predictions, targets: TargetBatch, iou_BGN: Tensor) -> Tensor:
        score_BGN, counts = class_score(predictions, targets), targets.counts
        score_BGN = each_image(lambda score: score**self.alpha, score_BGN, counts)
        overlap_BGN = each_image(lambda iou: iou**self.beta, iou_BGN, counts)
        return equalize(score_BGN * overlap_BGN, targets)


class Tal(Aligned):
    """Assigns the points with the highest alignment t = s^alpha * u^beta (TOOD section 3.2).

    s is the score of the object's class, u the IoU of the predicted box. The `topk` points inside
    the box are positive; a point of several objects is assigned to the one with the highest IoU.
    The degree of a point is t / max t * max u, with the maxima over the points that the object
    keeps, and the loss is `quality_focal`. YOLOv8 has alpha 0.5, `topk` 10 and
    `training.loss.cls: cross_entropy`.

    Points with t = 0 are negative, so an object that no prediction overlaps gets none.

    Deviations: the code of TOOD takes the `topk` points of all, and those inside the box (by more
    than 0.01 pixels) of these; in the first four epochs, it assigns by ATSS instead. It adds 1e-7
    to max t, which reduces degrees where scores and IoUs are low (YOLO: 1e-9). YOLO has the CIoU
    instead of the IoU, and a contested point may go to an object of which it is not among the best
    points.
    """

    name: Literal["tal"] = "tal"
    topk: int = Field(13, ge=1)
    """Maximum number of points per object."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"


def targets_of(aligned_BGN: Tensor, iou_BGN: Tensor, own_BGN: Tensor) -> Tensor:
    """Return t / max t * max u for the points of each object, 0 elsewhere: [B, G, N] in [0, 1]."""
    aligned_BGN = torch.where(own_BGN, aligned_BGN, 0.0)
    highest = aligned_BGN.amax(2, keepdim=True).clamp(min=torch.finfo(aligned_BGN.dtype).tiny)
    return aligned_BGN / highest * torch.where(own_BGN, iou_BGN, 0.0).amax(2, keepdim=True)
