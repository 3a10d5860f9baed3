"""Quality-FCOS: one-to-many by place, on the level the predictions choose."""

from typing import ClassVar, Literal

import torch
from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import in_center_square, matching_quality
from detectors.assigners.ranking import best_object
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class QualityFcos(Assigner):
    """Every point in an object's centre square on the level of highest quality (003 Table 9).

    FCOS's rule, but the level is chosen by the quality p^(1 - alpha) * IoU^alpha (003 Eq. 4), not
    by the object's size. 003's supplement says no more and no code is released. Read here as: the
    level of the best point over the centre squares of all levels; of several objects the one of
    highest quality takes the point. An object whose squares hold no point gets none.
    """

    name: Literal["quality_fcos"] = "quality_fcos"
    alpha: float = Field(0.8, ge=0, le=1)
    """Weight of the box's IoU against the class score in the quality."""
    radius: float = Field(1.5, gt=0)
    """Half side of the centre square in strides."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; progress is not looked at."""
        quality_GN = matching_quality(predictions, targets, self.alpha)
        square_GN = in_center_square(points, targets, self.radius)
        best = torch.where(square_GN, quality_GN, -1.0).argmax(1)
        own_level_GN = points.level[best][:, None] == points.level
        return best_object(quality_GN, square_GN & own_level_GN)
