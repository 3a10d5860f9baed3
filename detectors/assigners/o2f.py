"""o2f: one-to-few, with soft labels that fade during training."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import (
    Combination,
    Prior,
    class_score,
    in_prior,
    matching_quality,
)
from detectors.assigners.matching import negatives
from detectors.losses import ClsLoss
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class O2F(Assigner):
    """One certain point an object and up to K ambiguous ones of degree t (002 section 3).

    Points are ranked by S = 1[in the prior] * p^(1 - alpha) * IoU^alpha (Eq. 1). The best is
    certain, the next K are ambiguous with t_i = p_i / max_k p_k * T (Eq. 3), the maximum over the
    object's ambiguous points. T falls linearly from `t_max` to `t_min`. The other rows of 002's
    Table 1 are settings of the same: soft labels that stay are `t_max` = `t_min`, one-to-two is
    `k` 1 with both at 1 (whether its static t is divided by max_k p_k, too, the paper leaves open).

    A point ranked by several objects goes to the one that rates it highest, of equal ratings to the
    first object; the loser's best remaining point is then certain. An object without a point of
    positive quality gets none, and so does one that loses all its ranked points: ranks below K + 1
    are not looked at.
    Deviations: the other classes of a positive point keep the focal loss towards 0, of which Eq. 4
    says nothing; Eq. 4 is a plain sum, and Eq. 5 weighs ambiguous boxes fully: what the sums are
    divided by and how boxes weigh are options of training. The released code counts the certain
    point among the K (`k_includes_certain`), weighs ambiguous points by 0.4 (`ambiguous_weight`),
    and its score is the product with a predicted centerness, an option of the detector.
    """

    name: Literal["o2f"] = "o2f"
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the box's IoU against the class score in the ranking."""
    k: int = Field(7, ge=1)
    """Most ambiguous points an object, beside the certain one."""
    k_includes_certain: bool = False
    """The certain point is one of the K, so K - 1 are ambiguous (released code)."""
    t_max: float = Field(0.6, ge=0, le=1)
    """T at the start of training."""
    t_min: float = Field(0.2, ge=0, le=1)
    """T at the end of training."""
    t_per: Literal["epoch", "step"] = "epoch"
    """T changes after each epoch (002 Eq. 3) or after each step."""
    ambiguous_weight: float = Field(1.0, ge=0)
    """Factor of an ambiguous point's loss for its object's class. The released code has 0.4."""
    prior: Prior = "center"
    """Where an object's points may lie."""
    radius: float = Field(1.5, gt=0)
    """Half side of the centre square in strides."""
    combine: Combination = "mul"
    """How score and IoU make the quality (002 Table 4)."""

    family: ClassVar[Family] = "o2f"
    branch: ClassVar[Branch] = "o2f"
    loss: ClassVar[ClsLoss] = "bce"

    @model_validator(mode="after")
    def _t_falls(self) -> Self:
        if self.t_min > self.t_max:
            raise ValueError(f"t_min must not be above t_max, got {self.t_min} > {self.t_max}")
        return self

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`."""
        if not len(targets):
            return negatives(len(points), predictions.logits.device)
        quality_GN = matching_quality(predictions, targets, self.alpha, self.combine)
        quality_GN = quality_GN * in_prior(points, targets, self.prior, self.radius)
        ranked = self.k if self.k_includes_certain else self.k + 1
        owned_GN = best_rated(top_points(quality_GN, ranked))
        certain_G = owned_GN.argmax(1)
        ambiguous_GN = (owned_GN > 0).scatter(1, certain_G[:, None], False)
        score_GN = class_score(predictions, targets) * ambiguous_GN
        degree_GN = soft_degrees(score_GN, self.temperature(progress))
        has_certain = owned_GN.amax(1) > 0
        degree_GN[has_certain, certain_G[has_certain]] = 1.0
        degree, index = degree_GN.max(0)
        weight = self._weight(ambiguous_GN, targets, predictions.logits)
        return Assignment(torch.where(degree > 0, index, -1), degree, weight)

    def temperature(self, progress: Progress) -> float:
        """T of Eq. 3 in [t_min, t_max]; `t_max` throughout a training of one epoch or step."""
        if self.t_per == "epoch":
            done, last = progress.epoch, progress.epochs - 1
        else:
            done, last = progress.step, progress.steps - 1
        return self.t_max + (self.t_min - self.t_max) * done / max(1, last)

    def _weight(self, ambiguous_GN: Tensor, targets: Targets, logits: Tensor) -> Tensor | None:
        if self.ambiguous_weight == 1:
            return None
        objects, points = ambiguous_GN.nonzero(as_tuple=True)
        weight_NC = torch.ones_like(logits)
        weight_NC[points, targets.labels[objects]] = self.ambiguous_weight
        return weight_NC


def soft_degrees(score_GN: Tensor, temperature: float) -> Tensor:
    """Eq. 3: scores as shares of each object's highest, times T; 0 stays 0. [G, N]."""
    highest = score_GN.amax(1, keepdim=True).clamp(min=torch.finfo(score_GN.dtype).tiny)
    return score_GN / highest * temperature


def top_points(quality_GN: Tensor, count: int) -> Tensor:
    """`quality_GN` with everything but each object's `count` best points set to 0."""
    values, index = quality_GN.topk(min(count, quality_GN.shape[1]), dim=1)
    return torch.zeros_like(quality_GN).scatter(1, index, values)


def best_rated(quality_GN: Tensor) -> Tensor:
    """`quality_GN` with each point kept only by the object that rates it highest, else 0."""
    best = quality_GN.argmax(0, keepdim=True)
    return torch.zeros_like(quality_GN).scatter(0, best, quality_GN.gather(0, best))
