"""Quality-ATSS: one-to-many by predicted quality, with an adaptive threshold per object."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from detectors.assigners.geometry import in_box
from detectors.assigners.quality import QualityRule
from detectors.assigners.ranking import above_threshold, best_per_level
from detectors.structures import Points, TargetBatch


class QualityAtss(QualityRule):
    """Assigns predictions of high quality (003 section 3.2.3: the auxiliary loss; Table 9).

    Candidates are the `topk` points of each level with the highest p^(1 - alpha) * IoU^alpha (003
    Eq. 4 without the prior). Those are positive whose quality is at least the mean plus the
    standard deviation over all candidates of the object. An object may get no point.

    These details are from the code: positives must lie inside the box, but candidates need not; the
    standard deviation is unbiased; a point that is positive for several objects is assigned to the
    one with the highest quality.

    Deviation: if a level has fewer than `topk` points, all are candidates; the code fails.
    """

    name: Literal["quality_atss"] = "quality_atss"
    topk: int = Field(9, ge=1)
    """Number of candidates per object and level."""

    def candidates(self, quality_BGN: Tensor, points: Points, targets: TargetBatch) -> Tensor:
        """See `QualityRule.candidates`."""
        candidate_BGN = best_per_level(quality_BGN, points, self.topk)
        return above_threshold(quality_BGN, candidate_BGN) & in_box(points, targets)
