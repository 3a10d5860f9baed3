"""MS-DETR: one-to-many assignment by IoU and score."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from detectors.assigners.geometry import matching_quality
from detectors.assigners.similar import SimilarRule
from detectors.structures import Predictions, TargetBatch


class MsDetr(SimilarRule):
    """Assigns the `topk` points of highest M = (1 - alpha) * p + alpha * IoU, if M >= `threshold`.

    MS-DETR (Zhao et al. 2024), with the numbers of its released code. It is the branch `o2m` of
    `dual`, at the same queries as the one-to-one branch. `detector.o2m_from: cross_attention` is
    its main implementation, (c) of its figure; `layer`, and any other detector, is (a): the same
    states and boxes, class scores of its own. The published training has both weights of `dual` at
    1, `training.loss` with weights 1 (classes), 5 (L1) and 2 (GIoU), `training.o2m_loss` with 2, 5
    and 2, and `normalizer: objects` in both; its detector is `deformable_detr` with `refine`,
    `two_stage`, 300 queries and feedforward 2048.

    Deviations: see `SimilarRule`. With `two_stage`, MS-DETR assigns by anchors and without classes
    in the first stage; here, the one-to-one assigner does, as for all detectors.
    """

    name: Literal["ms_detr"] = "ms_detr"
    alpha: float = Field(0.7, ge=0, le=1)
    """Weight of the IoU relative to the class score in M."""
    threshold: float = Field(0.4, gt=0, le=1)
    """Minimum of M of a positive point, unless it is the best one of an object."""
    topk: int = Field(6, ge=1)
    """Maximum number of points per object."""

    def similarity(self, predictions: Predictions, targets: TargetBatch) -> Tensor:
        """See `SimilarRule.similarity`."""
        return matching_quality(predictions, targets, self.alpha, "add")
