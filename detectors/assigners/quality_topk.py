"""Quality-Top-k: one-to-many, the best predictions of all levels."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.geometry import in_box
from detectors.assigners.quality import QualityRule
from detectors.assigners.ranking import best_points
from detectors.structures import Points, Targets


class QualityTopk(QualityRule):
    """The `topk` points of highest quality p^(1 - alpha) * IoU^alpha over all levels (003 Table 9).

    003's supplement says no more and no code is released. Read here as: points inside the box are
    ranked, as the released Quality-ATSS takes its positives from there; of several objects the one
    of highest quality takes the point and the others have one less, with no other in its place.
    """

    name: Literal["quality_topk"] = "quality_topk"
    topk: int = Field(9, ge=1)
    """Most points of an object."""

    def candidates(self, quality_GN: Tensor, points: Points, targets: Targets) -> Tensor:
        """See `QualityRule.candidates`."""
        inside_GN = in_box(points, targets)
        return inside_GN & best_points(torch.where(inside_GN, quality_GN, -1.0), self.topk)
