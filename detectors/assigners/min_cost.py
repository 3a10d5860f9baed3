"""Minimum cost: one-to-one by class and place, as OneNet has it."""

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
"""Cost of a point on a level that is not made for the object."""


class MinCost(Assigner):
    """The point of least cost (001 Eq. 3; 000 Eq. 5 and Table 2), anywhere in the image.

    C = cls_weight * C_cls + l1_weight * C_L1 - giou_weight * GIoU. C_cls is what the focal loss of
    the object's class at that point gains by calling it positive. C_L1 sums the four differences of
    two boxes in shares of the image's width and height. `location` says which boxes:

    - predicted: the predicted ones ("pred." in 000 Table 2; 001).
    - points: "pre-def." of CenterNet and FCOS. C_L1 compares twice the centres, there is no GIoU,
      and points off the object's pyramid level cost 9999 (see `level_range`).
    - anchors: "pre-def." of RetinaNet, the anchors in place of the predicted boxes.

    Deviations: 001's Algorithm 1 takes each object's minimum and doesn't say who gets a point that
    two objects want; its released code, and 000's text, solve the matching. See `solver`. 001 takes
    C_L1 of centres and sides, the released code of corners; see `l1_of`. 000 chooses FCOS's points
    on the pre-defined level only, in the released code that holds for `points` alone.
    """

    name: Literal["min_cost"] = "min_cost"
    cls_weight: float = Field(2.0, ge=0)
    """Weight of the classification cost."""
    l1_weight: float = Field(5.0, ge=0)
    """Weight of the L1 distance between boxes."""
    giou_weight: float = Field(2.0, ge=0)
    """Weight of the GIoU cost."""
    location: Literal["predicted", "points", "anchors"] = "predicted"
    """What is compared with the object's box."""
    classification: bool = True
    """False leaves C_cls out of the matching, not out of training (000 Table 2, first rows)."""
    focal_alpha: float = Field(0.25, ge=0, le=1)
    """Weight of the positive class in the focal classification cost."""
    focal_gamma: float = Field(2.0, ge=0)
    """Exponent of the focal classification cost."""
    l1_of: Literal["corners", "center_sides"] = "corners"
    """What C_L1 compares: x1 y1 x2 y2 (released code) or centre, width and height (001's text)."""
    level_range: bool = True
    """For `points`: a point should be on the level whose range holds its largest distance to the
    box's sides. Without effect on a single level."""
    range_factor: float = Field(8.0, gt=0)
    """Upper end of a level's size range in strides; the lower end is half of it."""
    compat_level_bug: bool = False
    """The released code's level test, which forgets the distance to the top side."""
    solver: Literal["lsa", "argmin"] = "lsa"
    """`lsa`: least total cost, every object has a point. `argmin` (001 Algorithm 1): each object's
    own minimum; a contested point goes to the lower cost, the others get none."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; progress is not looked at."""
        cost_GN = self._location_cost(points, predictions, targets)
        if self.classification:
            logits_GN = class_logits(predictions, targets)
            change_GN = focal_change(logits_GN, self.focal_alpha, self.focal_gamma)
            cost_GN = equalize(cost_GN + self.cls_weight * change_GN, targets)
        return one_to_one(-cost_GN) if self.solver == "lsa" else best_of_each(-cost_GN)

    def _location_cost(self, points: Points, predictions: Predictions, targets: Targets) -> Tensor:
        if self.location == "points":
            return self._point_cost(points, targets)
        boxes = predictions.boxes if self.location == "predicted" else points.anchors
        extent = targets.extent or points.extent
        wanted, given = self._shares(targets.boxes, extent), self._shares(boxes, extent)
        giou_GN = pairwise_giou(targets.boxes, boxes)
        return self.l1_weight * torch.cdist(wanted, given, p=1) - self.giou_weight * giou_GN

    def _shares(self, boxes: Tensor, extent: tuple[float, float]) -> Tensor:
        """[K, 4] pixels -> what C_L1 compares, in shares of the image's (width, height)."""
        shares = boxes / boxes.new_tensor(extent).repeat(2)
        if self.l1_of == "corners":
            return shares
        first, second = shares[:, :2], shares[:, 2:]
        return torch.cat([(first + second) / 2, second - first], 1)

    def _point_cost(self, points: Points, targets: Targets) -> Tensor:
        extent = points.xy.new_tensor(targets.extent or points.extent)
        twice_center = (targets.boxes[:, :2] + targets.boxes[:, 2:]) / extent
        l1_GN = torch.cdist(twice_center, 2 * points.xy / extent, p=1)
        if not self.level_range:
            return self.l1_weight * l1_GN
        sides = ltrb(points, targets)
        reach_GN = (sides[:, :, [0, 2, 3]] if self.compat_level_bug else sides).amax(2)
        off_level_GN = ~fits_level(points, reach_GN, self.range_factor)
        return self.l1_weight * l1_GN + OFF_LEVEL * off_level_GN
