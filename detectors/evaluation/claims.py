"""Which object a candidate or detection claims.

A candidate claims the object of its image and class (never a crowd region) with the highest IoU, if
it is at least 0.5; among equal IoUs, the first object. Several candidates may claim one object: all
but the best are its duplicates. Boxes are compared as they are; clip those of candidates before.
"""

import torch
from torch import Tensor

from detectors.evaluation.overlaps import overlaps
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

_CLAIM_IOU = 0.5


def claims(candidates: Candidates, truth: GroundTruth, class_wise: bool = True) -> Tensor:
    """Return the object that each candidate claims: [M] int64, a position in `truth`, or -1.

    Args:
        candidates: sorted by image.
        truth: the ground truth.
        class_wise: False: a candidate may claim an object of another class.
    """
    claim = torch.full_like(candidates.image, -1)
    for rows, objects, iou in overlaps(candidates, truth, ~truth.crowd, class_wise=class_wise):
        best = iou.argmax(dim=2)
        enough = iou.gather(2, best[:, :, None])[:, :, 0] >= _CLAIM_IOU
        claim[rows[enough]] = objects.gather(1, best)[enough]
    return claim
