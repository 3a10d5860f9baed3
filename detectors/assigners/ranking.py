"""Ranks of points for an object, and of objects for a point. Matrices are object x point, [G, N].

Of equal values the first is best, on every device.
"""

import torch
from torch import Tensor

from detectors.structures import Assignment, Points


def best_points(value_GN: Tensor, count: int) -> Tensor:
    """[G, N] bool: the `count` (at least 1) highest values of each object; all where N is less."""
    count = min(count, value_GN.shape[1])
    last = value_GN.topk(count, dim=1).values[:, -1:]
    above_GN, equal_GN = value_GN > last, value_GN == last
    room = count - above_GN.sum(1, keepdim=True)
    return above_GN | (equal_GN & (equal_GN.cumsum(1) <= room))


def best_per_level(value_GN: Tensor, points: Points, count: int) -> Tensor:
    """[G, N] bool: the `count` highest values of each object on every level."""
    sizes = torch.unique_consecutive(points.level, return_counts=True)[1]
    levels = torch.split(value_GN, sizes.tolist(), dim=1)
    return torch.cat([best_points(level, count) for level in levels], dim=1)


def standing_out(value_GN: Tensor, candidate_GN: Tensor) -> Tensor:
    """[G, N] bool: candidates of at least the mean plus the standard deviation over candidates.

    The threshold of ATSS, one for each object. The deviation is the unbiased one, as in the
    released codes, and 0 for a single candidate; both in float64, where the mean of equal values
    is that value and not a rounded one above it.
    """
    value_GN = torch.where(candidate_GN, value_GN.double(), 0.0)
    count = candidate_GN.sum(1, keepdim=True)
    mean = value_GN.sum(1, keepdim=True) / count.clamp(min=1)
    squares = torch.where(candidate_GN, (value_GN - mean).square(), 0.0).sum(1, keepdim=True)
    deviation = (squares / (count - 1).clamp(min=1)).sqrt()
    return candidate_GN & (value_GN >= mean + deviation)


def best_object(value_GN: Tensor, candidate_GN: Tensor) -> Assignment:
    """Each point goes, with degree 1, to the object of highest finite value it is a candidate of.

    value_GN: [G, N], or [G, 1] where an object has one value for all points.
    """
    value_GN = torch.where(candidate_GN, value_GN, -torch.inf)
    if not len(value_GN):
        value_GN = value_GN.new_full((1, value_GN.shape[1]), -torch.inf)
    best, index = value_GN.max(0)
    positive = best.isfinite()
    return Assignment(torch.where(positive, index, -1), positive.float())
