"""Quality-Top-k: one-to-many, the best predictions of all levels."""

from typing import ClassVar, Literal

import torch
from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import in_box, matching_quality
from detectors.assigners.ranking import best_object, best_points
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class QualityTopk(Assigner):
    """The `topk` points of highest quality p^(1 - alpha) * IoU^alpha over all levels (003 Table 9).

    003's supplement says no more and no code is released. Read here as: points inside the box are
    ranked, as the released Quality-ATSS takes its positives from there; of several objects the one
    of highest quality takes the point and the others have one less, with no other in its place.
    """

    name: Literal["quality_topk"] = "quality_topk"
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the box's IoU against the class score in the quality."""
    topk: int = Field(9, ge=1)
    """Most points of an object."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; progress is not looked at."""
        quality_GN = matching_quality(predictions, targets, self.alpha)
        inside_GN = in_box(points, targets)
        ranked_GN = best_points(torch.where(inside_GN, quality_GN, -1.0), self.topk)
        return best_object(quality_GN, ranked_GN & inside_GN)
