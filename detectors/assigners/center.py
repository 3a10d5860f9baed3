"""Center: one-to-one assignment by location only."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import center_distance
from detectors.assigners.matching import Solver, match
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class Center(Assigner):
    """Assigns the point nearest to the centre, on the level for the size (003 Table 1, "Center").

    The level is the one whose size range, as in FCOS, contains half of the longer side of the box.
    Most objects get a point of their level, with the smallest total distance; the others get the
    nearest points that are left.

    Deviation: the released code keeps the nearest point of every level whose size range fits, and
    assigns a point that several objects compete for to the smallest one; an object may get no point
    there.
    """

    name: Literal["center"] = "center"
    range_factor: float = Field(8.0, gt=0)
    """Upper end of the size range of a level, in strides; the lower end is half of it."""
    solver: Solver = "lsa"
    """`argmax`: if objects compete for a point, the nearest one gets it, the others get none."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; predictions and progress are not used."""
        distance_GN = center_distance(points, targets)
        half_side = (targets.boxes[:, 2:] - targets.boxes[:, :2]).amax(1) / 2
        own_level_GN = level_of(points, half_side, self.range_factor)[:, None] == points.level
        return match(-distance_GN, own_level_GN, distance_GN, self.solver)


def level_of(points: Points, length: Tensor, factor: float) -> Tensor:
    """Return the level whose size range contains each length [G] in pixels: [G] int64."""
    upper = torch.unique(points.stride)[:-1] * factor
    level: Tensor = (length[:, None] > upper).sum(1)
    return level
