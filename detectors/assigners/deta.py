"""DETA: one-to-many assignment of queries by IoU."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from detectors.assigners.similar import SimilarRule
from detectors.boxes import pairwise_iou
from detectors.structures import Predictions, TargetBatch


class Deta(SimilarRule):
    """Assigns the `topk` predictions of highest IoU with an object, if it is at least `threshold`.

    DETA (Ouyang-Zhang et al. 2022, "NMS Strikes Back"), with the numbers of its released code. The
    only branch of a detector is trained so, and NMS at IoU 0.7 removes duplicates at inference:
    `evaluation.protocol: {preset: default, nms_iou: 0.7}`. The published training has weights 1
    (classes), 5 (L1) and 2 (GIoU) and `normalizer: objects`; its detector is `deformable_detr` with
    `refine`, `two_stage`, 900 queries, feedforward 2048, `extra_levels` 2 and no dropout.

    With `two_stage`, the boxes that are compared are the proposals from which the queries start,
    for all decoder layers, and the anchors of the encoder's cells in the first stage, as in DETA.
    Without it, each layer is assigned by the boxes that it predicts.

    Deviations: see `SimilarRule`; of several predictions of equal IoU, only the first is an
    object's best one. In the first stage, DETA's threshold is 0.7. Its queries are chosen from
    each level, after NMS at IoU 0.9, and start from features of their cells, too; here, they are
    the best cells of all levels, as in Deformable DETR.
    """

    name: Literal["deta"] = "deta"
    threshold: float = Field(0.6, gt=0, le=1)
    """Minimum IoU of a positive prediction, unless it is the best one of an object."""
    topk: int = Field(4, ge=1)
    """Maximum number of predictions per object."""

    def similarity(self, predictions: Predictions, targets: TargetBatch) -> Tensor:
        """See `SimilarRule.similarity`."""
        first = predictions.references
        return pairwise_iou(targets.boxes, predictions.boxes if first is None else first)
