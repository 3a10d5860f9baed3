"""Center: one-to-one assignment by location only."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import (
    center_distance,
    distance_of_image,
    fits_level,
    ltrb,
)
from detectors.assigners.matching import Solver, match
from detectors.assigners.ranking import best_object, best_per_level
from detectors.boxes import area
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class Center(Assigner):
    """Assigns the point nearest to the centre, on the level for the size (003 Table 1, "Center").

    The level is the one whose size range, as in FCOS, contains half of the longer side of the box;
    both ends belong to a range, so that two levels may contain it.
    Most objects get a point of their level, with the smallest total distance; the others get the
    nearest points that are left.

    Deviation: the released code takes the nearest point of every level and keeps those whose
    largest distance to the sides of the box is in the size range of their level; see `solver`. An
    object may get several points there, or none.
    """

    name: Literal["center"] = "center"
    range_factor: float = Field(8.0, gt=0)
    """Upper end of the size range of a level, in strides; the lower end is half of it."""
    solver: Solver | Literal["per_level"] = "lsa"
    """`argmax`: if objects compete for a point, the nearest one gets it, the others get none.
    `per_level`: the released code; a point that several objects compete for is assigned to the
    smallest one."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; predictions and progress are not used."""
        distance_BGN = center_distance(points, targets)
        if self.solver == "per_level":
            near_BGN = best_per_level(-distance_BGN, points, 1)
            reach_BGN = ltrb(points, targets).amax(-1)
            near_BGN &= fits_level(points, reach_BGN, self.range_factor)
            near_BGN &= targets.real[..., None]
            return best_object(-area(targets.boxes)[..., None], near_BGN)
        side = targets.boxes[..., 2:] - targets.boxes[..., :2]
        half_side_BG1 = side.amax(-1, keepdim=True) / 2
        own_level_BGN = fits_level(points, half_side_BG1, self.range_factor)
        distance = distance_of_image(points, targets)
        return match(-distance_BGN, own_level_BGN, distance, targets, self.solver)
