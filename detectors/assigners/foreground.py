"""Foreground loss: one-to-one assignment by the training loss."""

from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import (
    center_distance,
    class_logits,
    equalize,
    in_center_square,
)
from detectors.assigners.matching import match
from detectors.boxes import pairwise_giou
from detectors.losses import focal_change, sigmoid_focal
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


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

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; progress is not used."""
        cost_GN = equalize(self._cost(predictions, targets), targets)
        candidate_GN = in_center_square(points, targets, self.radius)
        distance = partial(center_distance, points, targets)
        return match(-cost_GN, candidate_GN, distance, "lsa")

    def _cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """Compute the cost of each pair: [G, N] >= 0.

        The sum over classes is that of a background point, corrected for the object's class.
        """
        alpha, gamma = self.focal_alpha, self.focal_gamma
        absent = torch.zeros_like(predictions.logits)
        background_N = sigmoid_focal(predictions.logits, absent, alpha, gamma).sum(1)
        change_GN = focal_change(class_logits(predictions, targets), alpha, gamma)
        giou_GN = pairwise_giou(targets.boxes, predictions.boxes)
        return background_N + change_GN + self.box_weight * (1 - giou_GN)
