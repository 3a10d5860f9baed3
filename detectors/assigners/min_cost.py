"""Minimum cost: one-to-one assignment by class and location, as in OneNet."""

from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import class_logits, each_image, equalize, fits_level, ltrb
from detectors.assigners.matching import best_of_each, one_to_one
from detectors.boxes import pairwise_giou
from detectors.losses import focal_change
from detectors.options import UnfitError
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch

OFF_LEVEL = 9999.0
"""Cost of a point whose level does not fit the size of the object."""


class CostRule(Assigner):
    """The base of assignments by the cost of classification and location, see `MinCost`."""

    cls_weight: float = Field(2.0, ge=0)
    """Weight of the classification cost."""
    l1_weight: float = Field(5.0, ge=0)
    """Weight of the L1 distance between boxes."""
    giou_weight: float = Field(2.0, ge=0)
    """Weight of the GIoU cost."""
    location: Literal["predicted", "points", "anchors"] = "predicted"
    """The boxes that are compared with the object's box."""
    classification: bool = True
    """Whether C_cls is part of the matching cost; without it, classes are still trained (000 Table
    2, first rows)."""
    focal_alpha: float = Field(0.25, ge=0, le=1)
    """Weight of the positive class in the focal classification cost."""
    focal_gamma: float = Field(2.0, ge=0)
    """Exponent of the focal classification cost."""
    l1_of: Literal["corners", "center_sides"] = "corners"
    """What C_L1 compares: the corners (released code), or centre, width and height (001)."""
    level_range: bool | None = None
    """Whether a point on a level whose range does not contain its largest distance to the sides of
    the box costs 9999 more ("the pre-defined layer" of FCOS in 000), for any `location`. Not set:
    for `points` only (released code). Without effect if there is only one level."""
    range_factor: float = Field(8.0, gt=0)
    """Upper end of the size range of a level, in strides; the lower end is half of it."""
    compat_level_bug: bool = False
    """Whether to ignore the distance to the top side, as the released code does."""

    without_positions: ClassVar[str] = "location: predicted, and no level_range"

    @model_validator(mode="after")
    def _has_a_cost(self) -> Self:
        giou = 0.0 if self.location == "points" else self.giou_weight
        if not (self.l1_weight or giou or (self.classification and self.cls_weight)):
            raise UnfitError(
                "l1_weight: no part of the cost has a weight above 0, so no point is better than "
                "another; set one"
            )
        return self

    @property
    def needs_positions(self) -> bool:
        """See `Strategy.needs_positions`."""
        return self.location != "predicted" or bool(self.level_range)

    def cost(self, points: Points, predictions: Predictions, targets: TargetBatch) -> Tensor:
        """Compute the cost of each pair of object and point: [B, G, N]."""
        cost_BGN = self._location_cost(points, predictions, targets)
        if not self.classification:
            return cost_BGN
        logits_BGN = class_logits(predictions, targets)
        change = partial(focal_change, alpha=self.focal_alpha, gamma=self.focal_gamma)
        change_BGN = each_image(change, logits_BGN, targets.counts)
        return equalize(cost_BGN + self.cls_weight * change_BGN, targets)

    def _location_cost(
        self, points: Points, predictions: Predictions, targets: TargetBatch
    ) -> Tensor:
        """Compute the cost without C_cls: [B, G, N]."""
        cost_BGN = self._box_cost(points, predictions, targets)
        by_level = self.location == "points" if self.level_range is None else self.level_range
        if not by_level:
            return cost_BGN
        sides = ltrb(points, targets)
        left, _, right, bottom = sides.unbind(-1)
        counted = torch.stack([left, right, bottom], -1) if self.compat_level_bug else sides
        reach_BGN = counted.amax(-1)
        return cost_BGN + OFF_LEVEL * ~fits_level(points, reach_BGN, self.range_factor)

    def _box_cost(self, points: Points, predictions: Predictions, targets: TargetBatch) -> Tensor:
        """Compute the cost of the boxes, or points, that `location` selects: [B, G, N]."""
        extent = targets.extents(points)[:, None]
        if self.location == "points":
            twice_center = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / extent
            return self.l1_weight * torch.cdist(twice_center, 2 * points.xy / extent, p=1)
        boxes = predictions.boxes if self.location == "predicted" else points.anchors
        true, compared = self._relative(targets.boxes, extent), self._relative(boxes, extent)
        giou_BGN = pairwise_giou(targets.boxes, boxes)
        return self.l1_weight * torch.cdist(true, compared, p=1) - self.giou_weight * giou_BGN

    def _relative(self, boxes: Tensor, extent: Tensor) -> Tensor:
        """Return what C_L1 compares of boxes, relative to width and height of their image.

        Args:
            boxes: [B, K, 4], or [K, 4] for all images.
            extent: [B, 1, 2].
        """
        relative = boxes / extent.repeat(1, 1, 2)
        if self.l1_of == "corners":
            return relative
        first, second = relative[..., :2], relative[..., 2:]
        return torch.cat([(first + second) / 2, second - first], -1)


class MinCost(CostRule):
    """Assigns the point with the lowest cost in the image (001 Eq. 3; 000 Eq. 5 and Table 2).

    The cost is cls_weight * C_cls + l1_weight * C_L1 - giou_weight * GIoU. C_cls is the focal loss
    of the object's class at the point as a positive minus that as a negative. C_L1 is the sum of
    the four differences of two boxes, relative to the width and height of the image. `location`
    selects the boxes:

    - predicted: the predicted boxes ("pred." in 000 Table 2; 001).
    - points: "pre-def." of CenterNet and FCOS. C_L1 compares twice the centres, there is no GIoU,
      and points of other levels than the object's cost 9999 more (see `level_range`).
    - anchors: "pre-def." of RetinaNet: anchors instead of predicted boxes.

    Deviations: Algorithm 1 of 001 takes the minimum of each object and does not say which object
    gets a point that is the minimum of two; its released code, and the text of 000, solve the
    matching; see `solver`. In 001, C_L1 is of centres and sides, in the released code of corners;
    see `l1_of`. The text of 000 uses only FCOS points of the predefined level; the released code
    does so for `points`, but takes `predicted` boxes of all levels, as 001 does; see `level_range`.
    """

    name: Literal["min_cost"] = "min_cost"
    solver: Literal["lsa", "argmin"] = "lsa"
    """`lsa`: lowest total cost, every object gets a point. `argmin` (001 Algorithm 1): the minimum
    of each object; if several objects have the same point, the one with the lowest cost gets it,
    and the others get none."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; progress is not used."""
        cost_BGN = self.cost(points, predictions, targets)
        if self.solver == "lsa":
            return one_to_one(-cost_BGN, targets)
        return best_of_each(-cost_BGN, None, targets)
