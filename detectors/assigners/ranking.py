"""Rank points for an object, and objects for a point. Matrices are object x point, [..., G, N].

Among equal values the first one is best, on every device.
"""

import torch
from torch import Tensor

from detectors.structures import Assignment, Points


def best_points(value_GN: Tensor, count: int) -> Tensor:
    """Return the `count` highest values of each object: [..., G, N] bool; all if N is less."""
    count = min(count, value_GN.shape[-1])
    return _first(value_GN, value_GN.topk(count).values[..., -1:], count)


def best_counted(value_GN: Tensor, count_G: Tensor, most: int) -> Tensor:
    """Return the `count_G` (1 to `most`) highest values of each object: [..., G, N] bool."""
    most = min(most, value_GN.shape[-1])
    count_G1 = count_G.clamp(max=most)[..., None]
    return _first(value_GN, value_GN.topk(most).values.gather(-1, count_G1 - 1), count_G1)


def dynamic_counts(iou_GN: Tensor, topk: int) -> Tensor:
    """Return a number of points per object from IoUs: [..., G] int64, 1 to `topk`.

    The sum of the `topk` highest IoUs, rounded down: dynamic k estimation (OTA).
    """
    best = iou_GN.double().topk(min(topk, iou_GN.shape[-1])).values
    return best.sum(-1).long().clamp(min=1, max=topk)


def _first(value_GN: Tensor, last: Tensor, count: int | Tensor) -> Tensor:
    """Return values above the `last` one, and so many equal to it that they are `count`."""
    above_GN, equal_GN = value_GN > last, value_GN == last
    left = count - above_GN.sum(-1, keepdim=True)
    return above_GN | (equal_GN & (equal_GN.cumsum(-1) <= left))


def best_per_level(value_GN: Tensor, points: Points, count: int) -> Tensor:
    """Return the `count` highest values of each object on every level: [..., G, N] bool."""
    levels = torch.split(value_GN, list(points.sizes), dim=-1)
    return torch.cat([best_points(level, count) for level in levels], -1)


def above_threshold(value_GN: Tensor, candidate_GN: Tensor) -> Tensor:
    """Return the candidates whose value is at least the threshold of ATSS: [..., G, N] bool.

    The threshold of an object is the mean plus the standard deviation over its candidates. The
    standard deviation is unbiased, as in the released codes, and 0 for a single candidate. Both are
    computed in float64, in which the mean of equal values is not rounded up.
    """
    value_GN = torch.where(candidate_GN, value_GN.double(), 0.0)
    count = candidate_GN.sum(-1, keepdim=True)
    mean = value_GN.sum(-1, keepdim=True) / count.clamp(min=1)
    squares = torch.where(candidate_GN, (value_GN - mean).square(), 0.0).sum(-1, keepdim=True)
    deviation = (squares / (count - 1).clamp(min=1)).sqrt()
    return candidate_GN & (value_GN >= mean + deviation)


def best_object(value_GN: Tensor, candidate_GN: Tensor) -> Assignment:
    """Assign each point, with degree 1, to the object with the highest finite value.

    Args:
        value_GN: [..., G, N], or [..., G, 1] if an object has the same value for all points.
        candidate_GN: [..., G, N] bool with G >= 1, whether the point may be assigned to the object;
            False for padding.
    """
    best, index = torch.where(candidate_GN, value_GN, -torch.inf).max(-2)
    positive = best.isfinite()
    return Assignment(torch.where(positive, index, -1), positive.float())
