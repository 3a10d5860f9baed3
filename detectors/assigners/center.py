"""Center: one-to-one by place alone."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import center_distance
from detectors.assigners.matching import Solver, match
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class Center(Assigner):
    """The point nearest to the object's centre, on the level of its size (003 Table 1, "Center").

    The level is the one whose range, as in FCOS, holds half the longer side of the box. Objects
    that want the same point are settled by the one-to-one solution of least total distance.
    Deviation: the released code keeps the nearest point of every level whose size range fits and
    gives a contested point to the smallest object, so an object may end without any point there.
    """

    name: Literal["center"] = "center"
    range_factor: float = Field(8.0, gt=0)
    """Upper end of a level's size range in strides; the lower end is half of it."""
    solver: Solver = "lsa"
    """`argmax`: the nearer object keeps a contested point and the other has none."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; predictions and progress are not looked at."""
        distance_GN = center_distance(points, targets)
        half_side = (targets.boxes[:, 2:] - targets.boxes[:, :2]).amax(1) / 2
        own_level_GN = level_of(points, half_side, self.range_factor)[:, None] == points.level
        worst = distance_GN.max().clamp(min=1.0) if len(targets) else 1.0
        nearness_GN = 1 - distance_GN / worst
        return match(nearness_GN, own_level_GN, distance_GN, self.solver)


def level_of(points: Points, length: Tensor, factor: float) -> Tensor:
    """[G] int64: the level whose size range holds each `length` in pixels, 0 the finest."""
    upper = torch.unique(points.stride)[:-1] * factor
    level: Tensor = (length[:, None] > upper).sum(1)
    return level
