"""Element-wise losses; the caller weights, sums and normalises them.

Everything is computed from logits in log space: nothing overflows or rounds to log(0), even if the
logits were computed in half precision.
"""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from detectors.options import LATER, Options, UnfitError

ClsLoss = Literal["focal", "bce", "gaussian", "quality_focal", "matchability", "cross_entropy"]
"""The classification loss of an assignment.

- `focal`: focal loss, with targets 0 and 1.
- `bce`: focal loss for negative points, binary cross-entropy with the degree as target for positive
  points (002 Eq. 4).
- `gaussian`: focal loss without the factor alpha; the assignment gives negatives near objects a
  smaller weight (CenterNet).
- `quality_focal`: |t - p|^gamma times binary cross-entropy, without the factor alpha; the target t
  is the degree for positive and 0 for negative points (GFL Eq. 2, TOOD).
- `matchability`: focal loss without the factor alpha for negative points, with no gradient of its
  factor p^gamma, and binary cross-entropy with the target t^gamma for positive points of degree t
  (MAL of DEIM; gamma is 1.5 there).
- `cross_entropy`: binary cross-entropy for all points, with the degree as target for positive
  points (YOLOv8 to YOLO26). It has no alpha and no gamma.
"""


L1Of = Literal["center_sides", "corners"]


class LossOptions(Options):
    """The terms of the loss of a branch. The defaults are those of DeFCN (003)."""

    cls: Literal["assignment", "quality_focal", "matchability", "cross_entropy"] = Field(
        "assignment", json_schema_extra=LATER
    )
    """The classification loss: that of the assignment (focal loss for most), `quality_focal` of GFL
    and TOOD, `matchability` of DEIM (MAL), or binary cross-entropy (YOLO). Auxiliary losses always
    have that of the assignment. The last three do not use `focal_alpha`, the last one also not
    `focal_gamma`."""
    cls_target: Literal["degree", "iou"] = Field("degree", json_schema_extra=LATER)
    """Target of a positive point, unless `cls` is `assignment`: its degree, or its degree times the
    IoU of its predicted box (GFL, DEIM, YOLOX), for assignments whose degrees are 1. At IoU 0, the
    target is 0, but `matchability` weighs the point as a positive one."""
    cls_weight: float = Field(1.0, ge=0)
    """Weight of the classification loss."""
    focal_alpha: float = Field(0.25, ge=0, le=1)
    """Weight of the positive class in the focal loss, against 1 - alpha for the negative one."""
    focal_gamma: float = Field(2.0, ge=0)
    """Exponent of the focal loss: larger values reduce the weight of easy points. DEIM has 1.5 for
    `cls: matchability`."""
    box: Literal["giou", "iou", "deltas", "size_offset"] = "giou"
    """1 - GIoU; -log(IoU) (FCOS as first published, with IoU at least 1e-6); L1 between the
    predicted deltas and those of the object's box to the anchor (RetinaNet), for detectors that
    predict deltas; or L1 of sides and of the centre's offset (CenterNet), for detectors that
    predict them, see `size_weight`. GIoU and IoU compare decoded boxes: they have no gradient where
    a decoder clamps (`relu` and `pixels` below 0, `deltas` above log(1000/16)), as in the released
    codes. The other two compare the output itself, so their gradients never vanish."""
    box_weight: float = Field(2.0, ge=0)
    """Weight of the box loss (DeFCN: 2, but 1 for FCOS)."""
    size_weight: float = Field(0.1, ge=0)
    """Weight of width and height, in strides, within the box loss `size_offset`. The loss is
    CenterNet's Eq. 3 and 4, box_weight / N sum (size_weight |size - s| + offset_weight |offset -
    o|), summed over both coordinates; its released code takes their mean, which halves it."""
    offset_weight: float = Field(1.0, ge=0)
    """Weight of the offset of the centre, in strides, within the box loss `size_offset`."""
    l1_weight: float = Field(0.0, ge=0)
    """Weight of a second box loss, L1 between boxes as fractions of the image (5 in DETR, OneNet
    and DATE's one-to-one branch); see `l1_of`."""
    l1_of: L1Of = "center_sides"
    """What L1 compares: centre, width and height (DETR, DATE, the text of 001) or the corners
    (OneNet's released code)."""
    box_by: Literal["degree", "centerness", "equal"] = "degree"
    """Weight of a positive point in the box loss: its degree, the centerness of its position in the
    box (FCOS's improved recipe; o2f's released code), or 1 (002 Eq. 5). The loss is divided by the
    sum of the weights over the global batch, which counts as at least 1, except for `centerness`.
    If all degrees are 1, `degree` and `equal` are the same."""
    centerness_floor: float = Field(1e-6, gt=0)
    """Smallest sum of centerness that divides the box loss with `box_by: centerness`: 1e-6 in the
    released codes of 002 and 004 and in mmdetection, 1 in cvpods, the framework of 003. A batch
    with few positive points far from the centres of boxes has a smaller sum than 1."""
    centerness_weight: float = Field(1.0, ge=0)
    """Weight of the centerness loss, for detectors that predict centerness."""
    normalizer: Literal["degrees", "positives", "objects"] = "degrees"
    """Divisor of the classification loss, over the global batch and at least 1: the sum of degrees;
    the number of positive points, ambiguous ones included (o2f's released code); or the number of
    objects, which then also divides the box loss (OneNet and the DETR family)."""

    mask_weight: float = Field(1.0, ge=0, json_schema_extra=LATER)
    """Weight of the dice loss of masks, for detectors that predict masks (2 in o2f's code): its
    mean over positive points, ambiguous ones included, all of equal weight."""
    mask_points: int = Field(64, ge=0, json_schema_extra=LATER)
    """Maximum number of positive points per image in the mask loss: the one of each object with the
    highest score, then the second of each, and so on; 0: no limit, as in o2f's released code.
    CondInst's code gives every object of an image an equal share of the 64 and leaves the rest
    unused, and its score is the highest of all classes times the centerness."""

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if not (self.cls_weight or self.box_weight or self.l1_weight):
            raise UnfitError(
                "cls_weight: is 0, and so are box_weight and l1_weight: nothing would be trained; "
                "set one"
            )
        return self

    @model_validator(mode="after")
    def _targets_fit(self) -> Self:
        if self.cls == "assignment" and self.cls_target == "iou":
            raise ValueError(
                "cls_target: iou needs cls: quality_focal, matchability or cross_entropy"
            )
        return self


def sigmoid_focal(logits: Tensor, target: Tensor, alpha: float | None, gamma: float) -> Tensor:
    """Compute the focal loss -alpha_t (1 - p_t)^gamma log(p_t) per element; target in {0, 1}.

    The power is computed from the logarithm, because 1 - p_t may round to 0, where the gradient of
    the power is infinite for gamma < 1. Without `alpha`, alpha_t is 1.
    """
    log_p_t = -F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    log_rest = -F.binary_cross_entropy_with_logits(logits, 1 - target, reduction="none")
    loss = -(gamma * log_rest).exp() * log_p_t
    if alpha is None:
        return loss
    return (alpha * target + (1 - alpha) * (1 - target)) * loss


def focal_change(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Compute the focal loss with target 1 minus the focal loss with target 0, per element."""
    there, absent = torch.ones_like(logits), torch.zeros_like(logits)
    return sigmoid_focal(logits, there, alpha, gamma) - sigmoid_focal(logits, absent, alpha, gamma)


def soft_bce(logits: Tensor, degree: Tensor) -> Tensor:
    """Compute -t log(p) - (1 - t) log(1 - p) per element (002 Eq. 2) for degrees t in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits, degree, reduction="none")


def quality_focal(logits: Tensor, degree: Tensor, gamma: float) -> Tensor:
    """Compute |t - p|^gamma (-t log(p) - (1 - t) log(1 - p)) per element for degrees t in [0, 1].

    GFL Eq. 2. For t = 0 and t = 1 this is the focal loss without alpha, which is computed as such:
    the difference of t and a rounded p has no gradient where p is near t.
    """
    distance = (degree - logits.sigmoid()).abs().clamp(min=torch.finfo(logits.dtype).tiny)
    soft = distance**gamma * soft_bce(logits, degree)
    hard = (degree == 0) | (degree == 1)
    return torch.where(hard, sigmoid_focal(logits, degree, None, gamma), soft)


def classification(logits: Tensor, degree: Tensor, kind: ClsLoss, options: LossOptions) -> Tensor:
    """Compute the loss of every class at every point, with the shape of `logits`.

    Args:
        logits: [..., C].
        degree: the degree of each class at each point, in [0, 1], with the shape of `logits`.
        kind: the loss, see `ClsLoss`.
        options: alpha and gamma of the focal loss.
    """
    alpha, gamma = options.focal_alpha, options.focal_gamma
    if kind == "cross_entropy":
        return soft_bce(logits, degree)
    if kind == "gaussian":
        return sigmoid_focal(logits, degree, None, gamma)
    if kind == "quality_focal":
        return quality_focal(logits, degree, gamma)
    if kind == "matchability":
        factor = (gamma * F.logsigmoid(logits.detach())).exp()
        background = factor * soft_bce(logits, torch.zeros_like(logits))
        return torch.where(degree > 0, soft_bce(logits, degree**gamma), background)
    if kind == "focal":
        return sigmoid_focal(logits, degree, alpha, gamma)
    background = sigmoid_focal(logits, torch.zeros_like(logits), alpha, gamma)
    return torch.where(degree > 0, soft_bce(logits, degree), background)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the dice loss of masks: 1 - 2 sum(p t) / (sum(p^2) + sum(t^2)).

    Args:
        logits: [K, h, w]; p is their sigmoid.
        target: [K, h, w], 1 for cells of the object and 0 for others.

    Returns:
        [K] in [0, 1]; 1 for an object without a cell.
    """
    p, t = logits.sigmoid().flatten(1), target.flatten(1)
    common, both = (p * t).sum(1), (p * p).sum(1) + (t * t).sum(1)
    return 1 - 2 * common / (both + 1e-5)


def l1_of_image(boxes: Tensor, wanted: Tensor, extent: Tensor, of: L1Of) -> Tensor:
    """Compute the L1 distance of boxes as fractions of the image.

    Args:
        boxes: [K, 4] xyxy, pixels.
        wanted: [K, 4], the target boxes.
        extent: [K, 2], width and height in pixels of the image of each box.
        of: which coordinates are compared, see `LossOptions.l1_of`.

    Returns:
        [K], the sum over the four coordinates.
    """
    difference = boxes - wanted
    if of == "corners":
        return (difference / extent.repeat(1, 2)).abs().sum(1)
    center = (difference[:, :2] + difference[:, 2:]) / 2
    side = difference[:, 2:] - difference[:, :2]
    return ((center / extent).abs() + (side / extent).abs()).sum(1)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Compute the centerness of points [K, 2] in boxes [K, 4] (FCOS Eq. 3): [K] in [0, 1].

    sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) for the distances l, r, t, b to the sides:
    1 at the centre of the box, 0 on its border and outside.
    """
    near = (points - boxes[:, :2]).minimum(boxes[:, 2:] - points).clamp(min=0)
    far = (points - boxes[:, :2]).maximum(boxes[:, 2:] - points)
    return (near / far.clamp(min=torch.finfo(far.dtype).tiny)).prod(1).sqrt()
