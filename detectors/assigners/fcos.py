"""FCOS: one-to-many by place and size alone."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import in_center_square, ltrb
from detectors.boxes import area
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class Fcos(Assigner):
    """Every point in an object's centre square on the level of its size (FCOS; o2m of 000-004).

    A point is positive for an object when it lies in the centre square (`radius` strides, clipped
    to the box) and its largest distance to the box's sides is in its level's range:
    (4s, 8s] for stride s, open below for the finest level and above for the coarsest. Of several
    objects the smallest one takes the point. An object may end without any point.
    Centerness is neither predicted nor used as a weight.
    """

    name: Literal["fcos"] = "fcos"
    radius: float = Field(1.5, gt=0)
    """Half side of the centre square in strides."""
    range_factor: float = Field(8.0, gt=0)
    """Upper end of a level's size range in strides; the lower end is half of it. FCOS has 8."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; predictions and progress are not looked at."""
        candidate_GN = in_center_square(points, targets, self.radius)
        candidate_GN &= in_level_range(points, targets, self.range_factor)
        area_GN = torch.where(candidate_GN, area(targets.boxes)[:, None], torch.inf)
        return smallest_object(area_GN)


def in_level_range(points: Points, targets: Targets, factor: float) -> Tensor:
    """[G, N] bool: the point's level is made for its largest distance to the box's sides."""
    reach_GN = ltrb(points, targets).amax(2)
    upper = points.stride * factor
    lower = torch.where(points.level == points.level.amin(), -torch.inf, upper / 2)
    upper = torch.where(points.level == points.level.amax(), torch.inf, upper)
    return (reach_GN > lower) & (reach_GN <= upper)


def smallest_object(area_GN: Tensor) -> Assignment:
    """Each point goes to the object of least finite area; the first of equals."""
    if not len(area_GN):
        area_GN = area_GN.new_full((1, area_GN.shape[1]), torch.inf)
    least, index = area_GN.min(0)
    positive = least.isfinite()
    return Assignment(torch.where(positive, index, -1), positive.float())
