"""Quality-FCOS: one-to-many by location, on the level with the best prediction."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.geometry import in_center_square
from detectors.assigners.quality import QualityRule
from detectors.structures import Points, TargetBatch


class QualityFcos(QualityRule):
    """Assigns all points in the centre square, on the level of highest quality (003 Table 9).

    FCOS's rule, but the level is chosen by the quality p^(1 - alpha) * IoU^alpha (003 Eq. 4)
    instead of the size of the object. The supplement of 003 gives no details, and there is no
    released code. We take the level of the best point in the centre squares of all levels, and
    assign a point that is positive for several objects to the one with the highest quality. An
    object without a point in its centre squares gets none.
    """

    name: Literal["quality_fcos"] = "quality_fcos"
    radius: float = Field(1.5, gt=0)
    """Half of the side of the centre square, in strides."""

    def candidates(self, quality_BGN: Tensor, points: Points, targets: TargetBatch) -> Tensor:
        """See `QualityRule.candidates`."""
        square_BGN = in_center_square(points, targets, self.radius)
        best = torch.where(square_BGN, quality_BGN, -1.0).argmax(2)
        return square_BGN & (points.level[best][..., None] == points.level)
