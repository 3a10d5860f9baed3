"""Quality-Top-k: one-to-many, the best predictions of all levels."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.geometry import in_box
from detectors.assigners.quality import QualityRule
from detectors.assigners.ranking import best_points
from detectors.structures import Points, TargetBatch


class QualityTopk(QualityRule):
    """Assigns the `topk` points of highest quality p^(1 - alpha) * IoU^alpha (003 Table 9).

    They are taken from all levels. The supplement of 003 gives no details, and there is no released
    code. We rank the points inside the box, like the released Quality-ATSS, and assign a point of
    several objects to the one with the highest quality; the others get no other point instead.
    """

    name: Literal["quality_topk"] = "quality_topk"
    topk: int = Field(9, ge=1)
    """Maximum number of points per object."""

    def candidates(self, quality_BGN: Tensor, points: Points, targets: TargetBatch) -> Tensor:
        """See `QualityRule.candidates`."""
        inside_BGN = in_box(points, targets)
        return inside_BGN & best_points(torch.where(inside_BGN, quality_BGN, -1.0), self.topk)
