"""FCOS: one-to-many assignment by location and size only."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import fits_level, in_prior, ltrb
from detectors.assigners.ranking import best_object
from detectors.boxes import area
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class Fcos(Assigner):
    """Assigns all points in the centre square, on the level for the size (FCOS; o2m of 000-004).

    A point is positive for an object if it lies in its centre square (`radius` strides, clipped to
    the box) and its largest distance to the sides of the box is in the range of its level: 4s to 8s
    for stride s, without lower limit for the finest and without upper limit for the coarsest level.
    Both ends belong to a range, as in the paper of FCOS, mmdetection and cvpods (detectron2 and
    torchvision: neither).
    A point that is positive for several objects is assigned to the smallest one. An object may get
    no point. Centerness is an option of the detector (`detector.centerness`).
    """

    name: Literal["fcos"] = "fcos"
    radius: float = Field(1.5, gt=0)
    """Half of the side of the centre square, in strides; used by the prior `center` only."""
    prior: Literal["center", "box"] = "center"
    """Where positive points may lie: in the centre square, or in the whole `box`, as in the first
    version of FCOS, mmdetection and the code of DATE (004)."""
    range_factor: float = Field(8.0, gt=0)
    """Upper end of the size range of a level, in strides; the lower end is half of it. FCOS: 8."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; predictions and progress are not used."""
        candidate_BGN = in_prior(points, targets, self.prior, self.radius)
        reach_BGN = ltrb(points, targets).amax(-1)
        candidate_BGN &= fits_level(points, reach_BGN, self.range_factor)
        candidate_BGN &= targets.real[..., None]
        return best_object(-area(targets.boxes)[..., None], candidate_BGN)
