"""Quality-FCOS: one-to-many by place, on the level the predictions choose."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.geometry import in_center_square
from detectors.assigners.quality import QualityRule
from detectors.structures import Points, Targets


class QualityFcos(QualityRule):
    """Every point in an object's centre square on the level of highest quality (003 Table 9).

    FCOS's rule, but the level is chosen by the quality p^(1 - alpha) * IoU^alpha (003 Eq. 4), not
    by the object's size. 003's supplement says no more and no code is released. Read here as: the
    level of the best point over the centre squares of all levels; of several objects the one of
    highest quality takes the point. An object whose squares hold no point gets none.
    """

    name: Literal["quality_fcos"] = "quality_fcos"
    radius: float = Field(1.5, gt=0)
    """Half side of the centre square in strides."""

    def candidates(self, quality_GN: Tensor, points: Points, targets: Targets) -> Tensor:
        """See `QualityRule.candidates`."""
        square_GN = in_center_square(points, targets, self.radius)
        best = torch.where(square_GN, quality_GN, -1.0).argmax(1)
        return square_GN & (points.level[best][:, None] == points.level)
