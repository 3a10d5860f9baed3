"""POTO: prediction-aware one-to-one assignment."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import (
    Combination,
    Prior,
    distance_of_image,
    in_prior,
    matching_quality,
)
from detectors.assigners.matching import Solver, match
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class Poto(Assigner):
    """The one-to-one matching with the largest total quality (003 Eq. 3 and 4).

    The quality is 1[point in the prior] * p^(1 - alpha) * IoU^alpha. The matching is exact and over
    all levels.

    Deviations: in Eq. 4, all points outside of the prior have quality 0 (-1 in the released code),
    so an object without a point in its prior gets an arbitrary one; here it gets the nearest one
    that is left, which has no influence on the other objects. With Eq. 4, an object may get a point
    outside of its prior if its qualities inside are near 0; here, as with -1, most objects get a
    point inside, and the total quality decides among such matchings.
    """

    name: Literal["poto"] = "poto"
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the IoU relative to the class score in the quality."""
    prior: Prior = "center"
    """Where the point may lie (003 Table 3): in the centre square, in the box, or anywhere. The
    released code for CrowdHuman has `box`."""
    radius: float = Field(1.5, gt=0)
    """Half of the side of the centre square, in strides."""
    combine: Combination = "mul"
    """How score and IoU are combined (003 Table 4)."""
    solver: Solver = "lsa"
    """`argmax`: a variant of the released code in which an object may get no point."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"
    without_positions: ClassVar[str] = "prior: global"

    @property
    def needs_positions(self) -> bool:
        """See `Strategy.needs_positions`."""
        return self.prior != "global"

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; progress is not used."""
        quality_BGN = matching_quality(predictions, targets, self.alpha, self.combine)
        candidate_BGN = in_prior(points, targets, self.prior, self.radius)
        distance = distance_of_image(points, targets)
        return match(quality_BGN, candidate_BGN, distance, targets, self.solver)
