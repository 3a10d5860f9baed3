"""Geometry of boxes: areas, IoU, generalised IoU and clipping.

Boxes are xyxy, in pixels. A box with x2 <= x1 or y2 <= y1 is degenerate: it has no area and
overlaps nothing. Shape letters: G x N pairs of boxes, or K boxes paired one to one.
"""

import torch
from torch import Tensor

_EPS = 1e-7
"""Smallest denominator, in square pixels: the IoU of two boxes without area is 0, not NaN."""


def area(boxes: Tensor) -> Tensor:
    """Compute the areas of boxes [..., 4] in square pixels: [...]; 0 for a degenerate box."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the IoU of all pairs of a [..., G, 4] and b [..., N, 4]: [..., G, N] in [0, 1]."""
    return _iou_and_union(a[..., :, None, :], b[..., None, :, :])[0]


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the IoU of box k of a [K, 4] and box k of b [K, 4]: [K] in [0, 1]."""
    return _iou_and_union(a, b)[0]


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the generalised IoU of box k of a [K, 4] and box k of b [K, 4]: [K] in [-1, 1].

    It is the IoU minus the share of the enclosing box that neither box covers. The enclosing box
    spans all corners of both boxes. Values and gradients are therefore finite for degenerate boxes
    too, and the gradient moves a degenerate box towards its partner.
    """
    iou, union = _iou_and_union(a, b)
    corners = torch.cat([a, b], dim=-1).reshape(*a.shape[:-1], 4, 2)
    width, height = (corners.amax(dim=-2) - corners.amin(dim=-2)).unbind(-1)
    return _generalised(iou, union, width * height)


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the generalised IoU of all pairs of a [..., G, 4] and b [..., N, 4]: [..., G, N].

    It is in [-1, 1].
    """
    iou = pairwise_iou(a, b)
    union = (area(a)[..., :, None] + area(b)[..., None, :]) / (1 + iou)
    first, second = _corners(a[..., :, None, :]), _corners(b[..., None, :, :])
    width, height = (
        torch.maximum(first[1][i], second[1][i]) - torch.minimum(first[0][i], second[0][i])
        for i in (0, 1)
    )
    return _generalised(iou, union, width * height)


def _generalised(iou: Tensor, union: Tensor, hull: Tensor) -> Tensor:
    """Subtract from the IoU the share of the enclosing box's area `hull` outside of the union."""
    uncovered = (hull - union).clamp(min=0)
    return iou - uncovered / hull.clamp(min=_EPS)


def _iou_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Compute IoU and area of the union, with broadcasting.

    Coordinates are first made contiguous, which is twice as fast on a CPU as strided columns.
    """
    ax1, ay1, ax2, ay2 = a.movedim(-1, 0).contiguous()
    bx1, by1, bx2, by2 = b.movedim(-1, 0).contiguous()
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    overlap = width * height
    union = area(a) + area(b) - overlap
    return overlap / union.clamp(min=_EPS), union


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smaller and the larger x and y of the corners of boxes [..., 4]: [2, ...] each."""
    first, second = boxes[..., :2].movedim(-1, 0), boxes[..., 2:].movedim(-1, 0)
    return first.minimum(second).contiguous(), first.maximum(second).contiguous()
