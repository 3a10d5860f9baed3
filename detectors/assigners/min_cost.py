"""Minimum cost: one-to-one assignment by class and location, as in OneNet."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import class_logits, equalize, fits_level, ltrb
from detectors.assigners.matching import best_of_each, one_to_one
from detectors.boxes import pairwise_giou
from detectors.losses import focal_change
from detectors.structures import Assignment, Points, Predictions, Progress, Targets

OFF_LEVEL = 9999.0
"""Cost of a point whose level does not fit the size of the object."""


class MinCost(Assigner):
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
    solver: Literal["lsa", "argmin"] = "lsa"
    """`lsa`: lowest total cost, every object gets a point. `argmin` (001 Algorithm 1): the minimum
    of each object; if several objects have the same point, the one with the lowest cost gets it,
    and the others get none."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; progress is not used."""
        cost_GN = self._location_cost(points, predictions, targets)
        if self.classification:
            logits_GN = class_logits(predictions, targets)
            change_GN = focal_change(logits_GN, self.focal_alpha, self.focal_gamma)
            cost_GN = equalize(cost_GN + self.cls_weight * change_GN, targets)
        return one_to_one(-cost_GN) if self.solver == "lsa" else best_of_each(-cost_GN)

    def _location_cost(self, points: Points, predictions: Predictions, targets: Targets) -> Tensor:
        """Compute the cost without C_cls: [G, N]."""
        cost_GN = self._box_cost(points, predictions, targets)
        by_level = self.location == "points" if self.level_range is None else self.level_range
        if not by_level:
            return cost_GN
        sides = ltrb(points, targets)
        reach_GN = (sides[:, :, [0, 2, 3]] if self.compat_level_bug else sides).amax(2)
        return cost_GN + OFF_LEVEL * ~fits_level(points, reach_GN, self.range_factor)

    def _box_cost(self, points: Points, predictions: Predictions, targets: Targets) -> Tensor:
        """Compute the cost of the boxes, or points, that `location` selects: [G, N]."""
        extent = targets.extent or points.extent
        if self.location == "points":
            size = points.xy.new_tensor(extent)
            twice_center = (targets.boxes[:, :2] + targets.boxes[:, 2:]) / size
            return self.l1_weight * torch.cdist(twice_center, 2 * points.xy / size, p=1)
        boxes = predictions.boxes if self.location == "predicted" else points.anchors
        true, compared = self._relative(targets.boxes, extent), self._relative(boxes, extent)
        giou_GN = pairwise_giou(targets.boxes, boxes)
        return self.l1_weight * torch.cdist(true, compared, p=1) - self.giou_weight * giou_GN

    def _relative(self, boxes: Tensor, extent: tuple[float, float]) -> Tensor:
        """Return what C_L1 compares of boxes [K, 4], relative to the image's (width, height)."""
        relative = boxes / boxes.new_tensor(extent).repeat(2)
        if self.l1_of == "corners":
            return relative
        first, second = relative[:, :2], relative[:, 2:]
        return torch.cat([(first + second) / 2, second - first], 1)
