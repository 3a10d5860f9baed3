"""Element-wise losses from logits; the caller weighs, sums and normalises.

Everything is computed from logits in log space, so nothing overflows or rounds to log(0), also
where the logits come from a half-precision autocast region.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from detectors.options import LATER, Options

ClsLoss = Literal["focal", "bce", "gaussian"]
"""How an assignment trains classification: focal loss to degree 0 or 1; the same but BCE to the
degree of positive points (002 Eq. 4); focal loss without its class balance, whose negatives the
assignment weighs down near objects (CenterNet)."""


L1Of = Literal["center_sides", "corners"]


class LossOptions(Options):
    """What a branch's loss is made of. The defaults are the laptop recipe."""

    cls_weight: float = Field(1.0, ge=0)
    focal_alpha: float = Field(0.25, ge=0, le=1)
    focal_gamma: float = Field(2.0, ge=0)
    box: Literal["giou", "iou", "deltas"] = "giou"
    """1 - GIoU; -log(IoU) (FCOS as first published); L1 of deltas to the anchors (RetinaNet)."""
    box_weight: float = Field(5.0, ge=0)
    l1_weight: float = Field(0.0, ge=0)
    """Of a second box loss, L1 between boxes in shares of the image (DETR, OneNet, DATE's
    one-to-one branch: 5); see `l1_of`."""
    l1_of: L1Of = Field("center_sides", json_schema_extra=LATER)
    """What L1 compares: centre, width and height (DETR, DATE, 001's text) or corners (OneNet's
    released code)."""
    box_by: Literal["degree", "centerness", "equal"] = "degree"
    """How much a positive point's box counts: by its degree, by the centerness of its place in the
    box (FCOS's improved recipe; o2f's released code), or all alike (002 Eq. 5). Each sum is divided
    by its weights'. Where degrees are 1 `degree` and `equal` are the same."""
    centerness_weight: float = Field(1.0, ge=0)
    """Of the centerness loss, where a detector predicts a centerness of its own."""
    normalizer: Literal["degrees", "positives", "objects"] = "degrees"
    """What classification is divided by, over the global batch and at least 1: the sum of degrees,
    the number of positive points (o2f's released code counts ambiguous ones in full; with degrees
    of 1 the same), or the number of objects (OneNet and the DETR family, where boxes are, too)."""


def sigmoid_focal(logits: Tensor, target: Tensor, alpha: float | None, gamma: float) -> Tensor:
    """Focal loss per element: -alpha_t (1 - p_t)^gamma log(p_t), target in {0, 1}; [...] >= 0.

    The power is taken of the logarithm: 1 - p_t itself rounds to 0, where gamma < 1 has no slope.
    Without `alpha`, alpha_t is 1.
    """
    log_p_t = -F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    log_rest = -F.binary_cross_entropy_with_logits(logits, 1 - target, reduction="none")
    loss = -(gamma * log_rest).exp() * log_p_t
    if alpha is None:
        return loss
    return (alpha * target + (1 - alpha) * (1 - target)) * loss


def focal_change(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """By how much the focal loss of a point's class grows if the class is there; like `logits`."""
    there, absent = torch.ones_like(logits), torch.zeros_like(logits)
    return sigmoid_focal(logits, there, alpha, gamma) - sigmoid_focal(logits, absent, alpha, gamma)


def soft_bce(logits: Tensor, degree: Tensor) -> Tensor:
    """-t log(p) - (1 - t) log(1 - p) per element (002 Eq. 2), from logits; degree t in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits, degree, reduction="none")


def classification(logits: Tensor, degree: Tensor, kind: ClsLoss, options: LossOptions) -> Tensor:
    """Loss of every class at every point, like `logits`; see `ClsLoss` for its kinds.

    `bce`: to the degree where it is positive (a certain point has 1, an ambiguous one t), focal
    loss to 0 elsewhere.
    """
    alpha, gamma = options.focal_alpha, options.focal_gamma
    if kind == "gaussian":
        return sigmoid_focal(logits, degree, None, gamma)
    if kind == "focal":
        return sigmoid_focal(logits, degree, alpha, gamma)
    background = sigmoid_focal(logits, torch.zeros_like(logits), alpha, gamma)
    return torch.where(degree > 0, soft_bce(logits, degree), background)


def l1_of_image(boxes: Tensor, wanted: Tensor, extent: Tensor, of: L1Of) -> Tensor:
    """Summed absolute differences of what `of` says, in shares of the image: [K, 4] -> [K].

    extent: [K, 2], width and height in pixels of the image that each box is in.
    """
    difference = boxes - wanted
    if of == "corners":
        return (difference / extent.repeat(1, 2)).abs().sum(1)
    center = (difference[:, :2] + difference[:, 2:]) / 2
    side = difference[:, 2:] - difference[:, :2]
    return ((center / extent).abs() + (side / extent).abs()).sum(1)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) (FCOS Eq. 3): [K, 2], [K, 4] -> [K].

    1 at the box's centre, 0 on its border and outside.
    """
    near = (points - boxes[:, :2]).minimum(boxes[:, 2:] - points).clamp(min=0)
    far = (points - boxes[:, :2]).maximum(boxes[:, 2:] - points)
    return (near / far.clamp(min=torch.finfo(far.dtype).tiny)).prod(1).sqrt()
