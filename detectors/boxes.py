"""Geometry of boxes: xyxy, in pixels of whatever image they belong to.

A box with x2 <= x1 or y2 <= y1 is degenerate: it covers no area and overlaps nothing.
Shape letters: G and N boxes against each other, K boxes paired one to one.
"""

import torch
from torch import Tensor

_EPS = 1e-7
"""Smallest denominator, square pixels: two boxes without area have IoU 0, not NaN."""


def area(boxes: Tensor) -> Tensor:
    """Area of boxes [..., 4], square pixels: [...]; 0 for a degenerate box."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box in a [..., G, 4] with every box in b [..., N, 4]: [..., G, N] in [0, 1]."""
    return _iou_and_union(a[..., :, None, :], b[..., None, :, :])[0]


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of box k in a [K, 4] with box k in b [K, 4]: [K] in [0, 1]."""
    return _iou_and_union(a, b)[0]


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of box k in a [K, 4] with box k in b [K, 4]: [K] in [-1, 1].

    IoU minus the share of the enclosing box that neither covers. The enclosing box spans all
    corners of both, so values and gradients stay finite for degenerate boxes too, and a degenerate
    box is still drawn towards its partner.
    """
    iou, union = _iou_and_union(a, b)
    corners = torch.cat([a, b], dim=-1).reshape(*a.shape[:-1], 4, 2)
    width, height = (corners.amax(dim=-2) - corners.amin(dim=-2)).unbind(-1)
    return _generalised(iou, union, width * height)


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of every box in a [G, 4] with every box in b [N, 4]: [G, N] in [-1, 1]."""
    iou = pairwise_iou(a, b)
    union = (area(a)[:, None] + area(b)) / (1 + iou)
    (low_a, high_a), (low_b, high_b) = _corners(a), _corners(b)
    sides = [
        torch.maximum(high_a[i][:, None], high_b[i]) - torch.minimum(low_a[i][:, None], low_b[i])
        for i in (0, 1)
    ]
    return _generalised(iou, union, sides[0] * sides[1])


def _generalised(iou: Tensor, union: Tensor, hull: Tensor) -> Tensor:
    """IoU minus the share of the enclosing box `hull` that the union leaves uncovered."""
    uncovered = (hull - union).clamp(min=0)
    return iou - uncovered / hull.clamp(min=_EPS)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes [..., 4] moved into the image: x in [0, width], y in [0, height]."""
    limit = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limit)


def _iou_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union area of boxes broadcast against each other.

    Each coordinate is laid out contiguously first: twice as fast on a CPU as strided columns.
    """
    ax1, ay1, ax2, ay2 = a.movedim(-1, 0).contiguous()
    bx1, by1, bx2, by2 = b.movedim(-1, 0).contiguous()
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    overlap = width * height
    union = area(a) + area(b) - overlap
    return overlap / union.clamp(min=_EPS), union


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and the upper x and y of boxes [K, 4], whichever corner has them: [2, K] each."""
    first, second = boxes[:, :2].T, boxes[:, 2:].T
    return first.minimum(second).contiguous(), first.maximum(second).contiguous()
