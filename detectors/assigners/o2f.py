"""o2f: one-to-few assignment, with soft labels that decrease during training."""

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
from detectors.losses import ClsLoss
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class O2F(Assigner):
    """One certain point and up to K ambiguous points of degree t per object (002 section 3).

    Points are ranked by S = 1[in the prior] * p^(1 - alpha) * IoU^alpha (Eq. 1). The best one is
    certain, the next K are ambiguous with t_i = p_i / max_k p_k * T (Eq. 3), where the maximum is
    over the ambiguous points of the object. T decreases linearly from `t_max` to `t_min`. The other
    rows of 002 Table 1 are special cases: constant soft labels have `t_max` = `t_min`, one-to-two
    has `k` 1 and both at 1 (the paper does not say whether its static t is divided by max_k p_k).

    A point that several objects rank is assigned to the one with the highest quality, among equal
    ones to the first; for the others, the best remaining point is then certain. An object without a
    point of positive quality gets none. So does an object that loses all its ranked points, because
    ranks below K + 1 are not considered.

    Deviations: the other classes of a positive point have the focal loss with target 0, which Eq. 4
    does not mention. Eq. 4 is a plain sum, and in Eq. 5 ambiguous boxes have full weight; divisors
    and weights of boxes are options of the training. In the released code, the certain point is one
    of the K (`k_includes_certain`), ambiguous points have weight 0.4 (`ambiguous_weight`), and the
    score is the product with a predicted centerness, an option of the detector.
    """

    name: Literal["o2f"] = "o2f"
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the IoU relative to the class score in the ranking."""
    k: int = Field(7, ge=1)
    """Maximum number of ambiguous points per object."""
    k_includes_certain: bool = False
    """Whether the certain point is one of the K, so that K - 1 are ambiguous (released code)."""
    t_max: float = Field(0.6, ge=0, le=1)
    """T at the start of training."""
    t_min: float = Field(0.2, ge=0, le=1)
    """T at the end of training."""
    t_per: Literal["epoch", "step"] = "epoch"
    """Whether T changes after each epoch (002 Eq. 3) or after each step."""
    ambiguous_weight: float = Field(1.0, ge=0)
    """Weight of the loss of an ambiguous point for its object's class (released code: 0.4)."""
    prior: Prior = "center"
    """Where points of an object may lie."""
    radius: float = Field(1.5, gt=0)
    """Half of the side of the centre square, in strides."""
    combine: Combination = "mul"
    """How score and IoU are combined (002 Table 4)."""

    family: ClassVar[Family] = "o2f"
    branch: ClassVar[Branch] = "o2f"
    loss: ClassVar[ClsLoss] = "bce"
    without_positions: ClassVar[str] = "prior: global"

    @property
    def needs_positions(self) -> bool:
        """See `Strategy.needs_positions`."""
        return self.prior != "global"

    @model_validator(mode="after")
    def _t_decreases(self) -> Self:
        if self.t_min > self.t_max:
            raise ValueError(f"t_min must not be above t_max, got {self.t_min} > {self.t_max}")
        return self

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`."""
        quality_BGN = matching_quality(predictions, targets, self.alpha, self.combine)
        allowed_BGN = in_prior(points, targets, self.prior, self.radius)
        quality_BGN = quality_BGN * (allowed_BGN & targets.real[..., None])
        ranked = self.k if self.k_includes_certain else self.k + 1
        owned_BGN = best_rated(top_points(quality_BGN, ranked))
        best_BG1, certain_BG1 = owned_BGN.max(2, keepdim=True)
        ambiguous_BGN = (owned_BGN > 0).scatter(2, certain_BG1, False)
        score_BGN = class_score(predictions, targets) * ambiguous_BGN
        degree_BGN = soft_degrees(score_BGN, self.temperature(progress))
        degree_BGN = degree_BGN.scatter(2, certain_BG1, (best_BG1 > 0).float())
        degree, index = degree_BGN.max(1)
        weight = self._weight(ambiguous_BGN, targets, predictions.logits)
        return Assignment(torch.where(degree > 0, index, -1), degree, weight)

    def temperature(self, progress: Progress) -> float:
        """Return T of Eq. 3 in [t_min, t_max]; `t_max` for a training of one epoch or step."""
        if self.t_per == "epoch":
            done, last = progress.epoch, progress.epochs - 1
        else:
            done, last = progress.step, progress.steps - 1
        return self.t_max + (self.t_min - self.t_max) * done / max(1, last)

    def _weight(self, ambiguous_BGN: Tensor, targets: TargetBatch, logits: Tensor) -> Tensor | None:
        """Return the weights of the classification loss: [B, N, C], or None if all are 1."""
        if self.ambiguous_weight == 1:
            return None
        owner_BN = ambiguous_BGN.byte().argmax(1)
        weight_BN = torch.where(ambiguous_BGN.any(1), self.ambiguous_weight, 1.0)
        label_BN1 = targets.labels.gather(1, owner_BN)[..., None]
        return torch.ones_like(logits).scatter(2, label_BN1, weight_BN[..., None])


def soft_degrees(score_BGN: Tensor, temperature: float) -> Tensor:
    """Divide scores by the highest of each object and multiply by T (Eq. 3); 0 stays 0."""
    highest = score_BGN.amax(2, keepdim=True).clamp(min=torch.finfo(score_BGN.dtype).tiny)
    return score_BGN / highest * temperature


def top_points(quality_BGN: Tensor, count: int) -> Tensor:
    """Return the qualities of each object's `count` best points, 0 elsewhere: [B, G, N]."""
    values, index = quality_BGN.topk(min(count, quality_BGN.shape[2]))
    return torch.zeros_like(quality_BGN).scatter(2, index, values)


def best_rated(quality_BGN: Tensor) -> Tensor:
    """Return the quality of each point for its best object, 0 for the others: [B, G, N]."""
    best = quality_BGN.argmax(1, keepdim=True)
    return torch.zeros_like(quality_BGN).scatter(1, best, quality_BGN.gather(1, best))
