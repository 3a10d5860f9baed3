"""FCOS: one-to-many by place and size alone."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import fits_level, in_prior, ltrb
from detectors.assigners.ranking import best_object
from detectors.boxes import area
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class Fcos(Assigner):
    """Every point in an object's centre square on the level of its size (FCOS; o2m of 000-004).

    A point is positive for an object when it lies in the centre square (`radius` strides, clipped
    to the box) and its largest distance to the box's sides is in its level's range:
    (4s, 8s] for stride s, open below for the finest level and above for the coarsest. Of several
    objects the smallest one takes the point. An object may end without any point.
    Centerness is an option of the detector (`detector.centerness`).
    """

    name: Literal["fcos"] = "fcos"
    radius: float = Field(1.5, gt=0)
    """Half side of the centre square in strides; only the prior `center` looks at it."""
    prior: Literal["center", "box"] = "center"
    """`box`: the whole box, as in FCOS's first version, mmdetection and DATE's code (004)."""
    range_factor: float = Field(8.0, gt=0)
    """Upper end of a level's size range in strides; the lower end is half of it. FCOS has 8."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; predictions and progress are not looked at."""
        candidate_GN = in_prior(points, targets, self.prior, self.radius)
        reach_GN = ltrb(points, targets).amax(2)
        candidate_GN &= fits_level(points, reach_GN, self.range_factor)
        return best_object(-area(targets.boxes)[:, None], candidate_GN)
