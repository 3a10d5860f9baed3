"""What the one-to-many rules by predicted quality share."""

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import matching_quality
from detectors.assigners.ranking import best_object
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class QualityRule(Assigner):
    """Candidates by the quality p^(1 - alpha) * IoU^alpha (003 Eq. 4 without the prior); of several
    objects the one of highest quality takes the point (003 section 3.2.3; Table 9).
    """

    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the box's IoU against the class score in the quality."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    @abstractmethod
    def candidates(self, quality_GN: Tensor, points: Points, targets: Targets) -> Tensor:
        """[G, N] bool: which points an object would have if it were alone."""

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; progress is not looked at."""
        quality_GN = matching_quality(predictions, targets, self.alpha)
        return best_object(quality_GN, self.candidates(quality_GN, points, targets))
