"""Quality-ATSS: one-to-many by predicted quality, with a threshold of each object's own."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from detectors.assigners.geometry import in_box
from detectors.assigners.quality import QualityRule
from detectors.assigners.ranking import best_per_level, standing_out
from detectors.structures import Points, Targets


class QualityAtss(QualityRule):
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
    topk: int = Field(9, ge=1)
    """Candidates of an object on each level."""

    def candidates(self, quality_GN: Tensor, points: Points, targets: Targets) -> Tensor:
        """See `QualityRule.candidates`."""
        candidate_GN = best_per_level(quality_GN, points, self.topk)
        return standing_out(quality_GN, candidate_GN) & in_box(points, targets)
