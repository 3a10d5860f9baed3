"""Foreground loss: one-to-one assignment by the training loss."""

from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import (
    class_logits,
    distance_of_image,
    each_image,
    equalize,
    in_center_square,
)
from detectors.assigners.matching import match
from detectors.boxes import pairwise_giou
from detectors.losses import focal_change, sigmoid_focal
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class Foreground(Assigner):
    """The one-to-one matching with the smallest total foreground loss (003 Eq. 2).

    The loss of a pair is the focal loss of all classes at the point if it were assigned to the
    object, plus `box_weight` * (1 - GIoU) of its box. 003 compares POTO with it ("Foreground
    loss"): the point must be good at everything, background classes included.

    The paper does not give loss weights and prior; both are those of the released code. As in
    `poto`, most objects get a point in their centre square, with the smallest total loss; the
    others get the nearest point that is left (released code: an arbitrary one, with a cost of 1e8).
    """

    name: Literal["foreground"] = "foreground"
    focal_alpha: float = Field(0.25, ge=0, le=1)
    """Weight of the positive class in the focal loss, against 1 - alpha for the negative one."""
    focal_gamma: float = Field(2.0, ge=0)
    """Exponent of the focal loss: larger values reduce the weight of easy points."""
    box_weight: float = Field(2.0, ge=0)
    """Weight of the box loss relative to the classification loss."""
    radius: float = Field(1.5, gt=0)
    """Half of the side of the centre square, in strides."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; progress is not used."""
        cost_BGN = equalize(self._cost(predictions, targets), targets)
        candidate_BGN = in_center_square(points, targets, self.radius)
        distance = distance_of_image(points, targets)
        return match(-cost_BGN, candidate_BGN, distance, targets, "lsa")

    def _cost(self, predictions: Predictions, targets: TargetBatch) -> Tensor:
        """Compute the cost of each pair: [B, G, N] >= 0.

        The sum over classes is that of a background point, corrected for the object's class.
        """
        background_B1N = self._background(predictions.logits).sum(2)[:, None]
        change = partial(focal_change, alpha=self.focal_alpha, gamma=self.focal_gamma)
        change_BGN = each_image(change, class_logits(predictions, targets), targets.counts)
        giou_BGN = pairwise_giou(targets.boxes, predictions.boxes)
        return background_B1N + change_BGN + self.box_weight * (1 - giou_BGN)

    def _background(self, logits: Tensor) -> Tensor:
        """Compute the focal loss of every class as a background point, for logits [B, N, C]."""

        def loss(of_image: Tensor) -> Tensor:
            absent = torch.zeros_like(of_image)
            return sigmoid_focal(of_image, absent, self.focal_alpha, self.focal_gamma)

        return each_image(loss, logits, [logits.shape[1]] * len(logits))
