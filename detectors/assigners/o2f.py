"""o2f: one-to-few, with soft labels that fade during training."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import in_center_square, matching_quality
from detectors.assigners.matching import negatives
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class O2F(Assigner):
    """One certain point an object and up to K ambiguous ones of degree t (002 section 3).

    Points are ranked by S = 1[in the centre square] * p^(1 - alpha) * IoU^alpha (Eq. 1). The best
    is certain, the next K are ambiguous with t_i = p_i / max_k p_k * T (Eq. 3), the maximum over
    the object's ambiguous points. T falls linearly from `t_max` to `t_min`.

    A point ranked by several objects goes to the one that rates it highest; the object's best
    remaining point is then certain. An object without a point of positive quality gets none, and
    so does one that loses all its ranked points: ranks below K + 1 are not looked at.
    Deviations: Eq. 4 is a plain sum, here it is divided by the sum of the degrees, and Eq. 5
    weighs ambiguous boxes fully, here by their degree (see `criterion`). The other classes of a
    positive point keep the focal loss towards 0. The released code counts the certain point among
    the K, weighs ambiguous points by 0.4, uses the product of class score and centerness as p, and
    weighs boxes by centerness; none of that is done here.
    """

    name: Literal["o2f"] = "o2f"
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the box's IoU against the class score in the ranking."""
    k: int = Field(7, ge=1)
    """Most ambiguous points an object, beside the certain one."""
    t_max: float = Field(0.6, ge=0, le=1)
    """T at the start of training."""
    t_min: float = Field(0.2, ge=0, le=1)
    """T at the end of training."""
    t_per: Literal["epoch", "step"] = "epoch"
    """T changes after each epoch (002 Eq. 3) or after each step."""
    radius: float = Field(1.5, gt=0)
    """Half side of the centre square in strides."""

    family: ClassVar[Family] = "o2f"
    branch: ClassVar[Branch] = "o2f"
    soft: ClassVar[bool] = True

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
        quality_GN = matching_quality(predictions, targets, self.alpha)
        quality_GN = quality_GN * in_center_square(points, targets, self.radius)
        owned_GN = best_rated(top_points(quality_GN, self.k + 1))
        score_GN = predictions.logits.sigmoid()[:, targets.labels].T
        return self._soft(owned_GN, score_GN, self.temperature(progress))

    def temperature(self, progress: Progress) -> float:
        """T of Eq. 3 in [t_min, t_max]; `t_max` throughout a training of one epoch or step."""
        if self.t_per == "epoch":
            done, last = progress.epoch, progress.epochs - 1
        else:
            done, last = progress.step, progress.steps - 1
        return self.t_max + (self.t_min - self.t_max) * done / max(1, last)

    def _soft(self, owned_GN: Tensor, score_GN: Tensor, temperature: float) -> Assignment:
        certain = owned_GN.argmax(1)
        has_certain = owned_GN.amax(1) > 0
        ambiguous_GN = (owned_GN > 0).scatter(1, certain[:, None], False)
        score_GN = score_GN * ambiguous_GN
        highest = score_GN.amax(1, keepdim=True).clamp(min=torch.finfo(score_GN.dtype).tiny)
        degree_GN = score_GN / highest * temperature
        degree_GN[has_certain, certain[has_certain]] = 1.0
        degree, index = degree_GN.max(0)
        return Assignment(torch.where(degree > 0, index, -1), degree)


def top_points(quality_GN: Tensor, count: int) -> Tensor:
    """`quality_GN` with everything but each object's `count` best points set to 0."""
    values, index = quality_GN.topk(min(count, quality_GN.shape[1]), dim=1)
    return torch.zeros_like(quality_GN).scatter(1, index, values)


def best_rated(quality_GN: Tensor) -> Tensor:
    """`quality_GN` with each point kept only by the object that rates it highest, else 0."""
    best = quality_GN.argmax(0, keepdim=True)
    return torch.zeros_like(quality_GN).scatter(0, best, quality_GN.gather(0, best))
