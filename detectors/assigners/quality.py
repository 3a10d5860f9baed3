"""The base class of one-to-many assignments by predicted quality."""

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import matching_quality
from detectors.assigners.ranking import best_object
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class QualityRule(Assigner):
    """Selects points by the quality p^(1 - alpha) * IoU^alpha (003 Eq. 4 without the prior).

    The auxiliary losses of 003 (section 3.2.3 and Table 9). As in the released code of one of them,
    a point that several objects select is assigned to the one with the highest quality.
    """

    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the IoU relative to the class score in the quality."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    @abstractmethod
    def candidates(self, quality_BGN: Tensor, points: Points, targets: TargetBatch) -> Tensor:
        """Return the points of each object before objects compete for them: [B, G, N] bool.

        Rows of padding may have any values.
        """

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; progress is not used."""
        quality_BGN = matching_quality(predictions, targets, self.alpha)
        candidate_BGN = self.candidates(quality_BGN, points, targets)
        return best_object(quality_BGN, candidate_BGN & targets.real[..., None])
