"""Where anchor points lie relative to objects. Matrices are object x point, [G, N]."""

import torch
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.structures import Points, Predictions, Targets


def ltrb(points: Points, targets: Targets) -> Tensor:
    """Distances in pixels from every point to every box's sides, [G, N, 4]; all > 0 inside."""
    x, y = points.xy[None, :, 0], points.xy[None, :, 1]
    x0, y0, x1, y1 = (side[:, None] for side in targets.boxes.unbind(1))
    return torch.stack([x - x0, y - y0, x1 - x, y1 - y], dim=2)


def centers(targets: Targets) -> Tensor:
    """Box centres in pixels, [G, 2]."""
    return (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2


def center_distance(points: Points, targets: Targets) -> Tensor:
    """Euclidean distance in pixels from box centres to points, [G, N]."""
    offset = centers(targets)[:, None] - points.xy[None]
    return offset.square().sum(2).sqrt()


def in_center_square(points: Points, targets: Targets, radius: float) -> Tensor:
    """[G, N] bool: the point lies inside the box and within `radius` strides of its centre.

    FCOS's centre sampling: a square of half side `radius * stride`, clipped to the box.
    """
    offset = (centers(targets)[:, None] - points.xy[None]).abs().amax(2)
    inside = ltrb(points, targets).amin(2) > 0
    return inside & (offset < radius * points.stride[None])


def matching_quality(predictions: Predictions, targets: Targets, alpha: float) -> Tensor:
    """p^(1 - alpha) * IoU^alpha, [G, N] in [0, 1]: 003 Eq. 4 and 002 Eq. 1 without the prior.

    p is the predicted score of the object's own class, IoU that of the predicted box.
    """
    score_GN = predictions.logits.sigmoid()[:, targets.labels].T
    iou_GN = pairwise_iou(targets.boxes, predictions.boxes)
    return score_GN ** (1 - alpha) * iou_GN**alpha
