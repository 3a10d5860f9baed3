"""Quality-ATSS: one-to-many by predicted quality, with a threshold of each object's own."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import in_box, matching_quality
from detectors.assigners.ranking import best_object, best_per_level, standing_out
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class QualityAtss(Assigner):
    """The predictions of outstanding quality (003 section 3.2.3: the auxiliary loss; Table 9).

    Candidates are the `topk` points of each level of highest p^(1 - alpha) * IoU^alpha (003 Eq. 4
    without the prior). Positive are those of at least the mean plus the standard deviation over
    all candidates of the object. An object may end without any point.
    The paper leaves open, and its code says: positives must be inside the box, where candidates
    need not be; the deviation is unbiased; of several objects the one of highest quality takes the
    point. Deviation: a level of fewer than `topk` points has them all as candidates; the code
    fails.
    """

    name: Literal["quality_atss"] = "quality_atss"
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the box's IoU against the class score in the quality."""
    topk: int = Field(9, ge=1)
    """Candidates of an object on each level."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; progress is not looked at."""
        quality_GN = matching_quality(predictions, targets, self.alpha)
        candidate_GN = best_per_level(quality_GN, points, self.topk)
        inside_GN = in_box(points, targets)
        return best_object(quality_GN, standing_out(quality_GN, candidate_GN) & inside_GN)
