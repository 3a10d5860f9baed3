"""POTO: prediction-aware one-to-one."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import (
    Combination,
    Prior,
    center_distance,
    in_prior,
    matching_quality,
)
from detectors.assigners.matching import Solver, match
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class Poto(Assigner):
    """The one-to-one assignment of largest total quality (003 Eq. 3 and 4).

    Q = 1[point in the prior] * p^(1 - alpha) * IoU^alpha, solved exactly over all levels.
    Deviations: Eq. 4 gives every point outside the priors the same quality 0 (the released code
    -1), so an object without a point of its own gets an arbitrary one; here it gets the nearest.
    Eq. 4 lets an object leave its prior when its qualities inside are near 0; here it stays in
    as long as there is a point for it.
    """

    name: Literal["poto"] = "poto"
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the box's IoU against the class score in the quality."""
    prior: Prior = "center"
    """Where an object's point may lie (003 Table 3): in its centre square, in its box, anywhere.
    The released code for CrowdHuman has `box`."""
    radius: float = Field(1.5, gt=0)
    """Half side of the centre square in strides."""
    combine: Combination = "mul"
    """How score and IoU make the quality (003 Table 4)."""
    solver: Solver = "lsa"
    """`argmax` is a variant of the released code: an object may end without a point."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; progress is not looked at."""
        quality_GN = matching_quality(predictions, targets, self.alpha, self.combine)
        candidate_GN = in_prior(points, targets, self.prior, self.radius)
        return match(quality_GN, candidate_GN, center_distance(points, targets), self.solver)
