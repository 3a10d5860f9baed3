"""One-to-one assignment from a matrix of qualities."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detectors.assigners.lexicographic import Indices, Matrix, match_all, match_candidates
from detectors.structures import Assignment

Solver = Literal["lsa", "argmax"]
"""`lsa`: linear sum assignment, the matching in which most objects get a candidate, among these the
one with the largest total quality; every object gets a point. `argmax`: each object gets its best
candidate; if several objects have the same one, the object with the highest quality gets it, and
the others get none."""

_BLOCK = 32
"""Number of adjacent points whose maximum is computed first. The result is exact for any size; this
one is fast."""

_SPARE = 4
"""Number of additional points. Up to four points are equally near to a centre, and the first of
them is to be found."""


def negatives(num_points: int, device: torch.device) -> Assignment:
    """Return the assignment in which all points are negative."""
    return Assignment(
        torch.full((num_points,), -1, dtype=torch.int64, device=device),
        torch.zeros(num_points, device=device),
    )


def match(
    quality_GN: Tensor, candidate_GN: Tensor, distance: Callable[[], Tensor], solver: Solver
) -> Assignment:
    """Return the one-to-one assignment among candidates.

    With `lsa`, of two assignments the better one has more objects with a candidate; among those
    with as many, the larger total quality of these objects; among those with the same total, the
    smaller total distance of the other objects. So an object gets a point that is not a candidate
    only if no candidate is left for it (a tiny object between points, or many objects with few
    candidates), and how far it must go has no influence on who keeps a candidate. The solution is
    exact up to the rounding of totals in float64. With more objects than points, all points are
    assigned.

    Args:
        quality_GN: [G, N], finite for candidates.
        candidate_GN: [G, N] bool.
        distance: returns the order of points that are not candidates, [G, N] >= 0; called with
            `lsa` where an object gets no candidate.
        solver: how to solve it.

    Raises:
        ValueError: the quality of a candidate is not finite.
    """
    if solver == "argmax":
        return best_of_each(quality_GN, candidate_GN)
    if not quality_GN.numel():
        return negatives(quality_GN.shape[1], quality_GN.device)
    return _assignment(_lexicographic(quality_GN, candidate_GN, distance), quality_GN)


def one_to_one(quality_GN: Tensor) -> Assignment:
    """Return the one-to-one assignment with the largest total quality (exact, on the CPU).

    Each object gets one point, and each point at most one object. With more objects than points,
    the assignment has N pairs. Only points among the G best of some object are considered: instead
    of any other point, its object could get one of its G best, because the other objects use at
    most G - 1 of them.

    Args:
        quality_GN: [G, N], finite.

    Raises:
        ValueError: a quality is not finite.
    """
    if not quality_GN.numel():
        return negatives(quality_GN.shape[1], quality_GN.device)
    points = _best_points(quality_GN, len(quality_GN) + _SPARE)
    objects, chosen = linear_sum_assignment(_numpy(quality_GN, points), maximize=True)
    return _assignment(_pairs(objects, chosen, points), quality_GN)


def best_of_each(quality_GN: Tensor, candidate_GN: Tensor | None = None) -> Assignment:
    """Assign each object its best candidate, unless another object has a higher quality for it.

    Among objects with equal qualities for a point, the first gets it. Among points with equal
    qualities for an object, the first is its best.

    Args:
        quality_GN: [G, N], finite for candidates.
        candidate_GN: [G, N] bool; None: all points are candidates.

    Raises:
        ValueError: the quality of a candidate is not finite.
    """
    if not quality_GN.numel():
        return negatives(quality_GN.shape[1], quality_GN.device)
    if candidate_GN is not None:
        quality_GN = torch.where(candidate_GN, quality_GN, -torch.inf)
    best, point = quality_GN.max(1)
    if (best.isnan() | best.isposinf()).any():
        raise ValueError("the quality matrix contains invalid numeric entries")
    better_GG = (best > best[:, None]) | (best == best[:, None]).tril(-1)
    lost_G = (better_GG & (point == point[:, None])).any(1)
    objects = (~lost_G & best.isfinite()).nonzero()[:, 0]
    return _assignment((objects, point[objects]), quality_GN)


Pairs = tuple[Tensor, Tensor]
"""Objects [K] and their points [K], int64."""


def _lexicographic(
    quality_GN: Tensor, candidate_GN: Tensor, distance: Callable[[], Tensor]
) -> Pairs:
    """Return the assignment of `match` with `lsa`.

    Usually each object gets a candidate, and only candidates need to be considered. Otherwise, the
    nearest points that are not among these are added for the objects that may get none.
    """
    points = _candidates(quality_GN, candidate_GN)
    quality, candidate = _numpy(quality_GN, points), _numpy(candidate_GN, points) > 0
    if not np.isfinite(quality[candidate]).all():
        raise ValueError("the quality matrix contains invalid numeric entries")
    found = match_candidates(quality, candidate)
    if found is not None and len(found[0]) == len(quality):
        return _pairs(*found, points)
    distance_GN = distance()
    without = slice(None) if found is None else ~candidate_GN.any(1)
    nearness_KN = torch.where(candidate_GN, -torch.inf, -distance_GN)[without]
    nearness_KN = nearness_KN.index_fill(1, points, -torch.inf)
    others = _best_points(nearness_KN, len(nearness_KN) + _SPARE)
    points = torch.unique(torch.cat([points, others]))
    quality, candidate = _numpy(quality_GN, points), _numpy(candidate_GN, points) > 0
    pairs = match_all(quality, candidate, _numpy(distance_GN, points), contested=found is None)
    return _pairs(*pairs, points)


def _candidates(quality_GN: Tensor, candidate_GN: Tensor) -> Tensor:
    """Return all points among the G best candidates of an object: [M] int64, sorted.

    Where there are few candidates, all are returned, which is faster than to rank them. Qualities
    that are not finite rank first, so that they are found.
    """
    points = candidate_GN.view(torch.uint8).amax(0).nonzero()[:, 0]
    if len(points) <= len(quality_GN) ** 2:
        return points
    rank_GN = quality_GN.nan_to_num(torch.inf, torch.inf, torch.inf)
    rank_GN = torch.where(candidate_GN, rank_GN, -torch.inf)
    return _best_points(rank_GN, len(rank_GN) + _SPARE)


def _best_points(value_KN: Tensor, count: int) -> Tensor:
    """Return all points among the `count` best of a row: [M] int64, sorted.

    The k best points are in the k blocks with the highest maxima, so only those are searched.
    Points whose value is -inf may be left out.
    """
    size = value_KN.shape[1]
    count = min(count, size)
    padded = F.pad(value_KN, (0, -size % _BLOCK), value=-torch.inf)
    blocks = padded.view(len(value_KN), -(-size // _BLOCK), _BLOCK)
    block = blocks.amax(2).topk(min(count, blocks.shape[1]), sorted=False).indices
    inner = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    best = inner.topk(count, sorted=False).indices
    points: Tensor = torch.unique(block.gather(1, best // _BLOCK) * _BLOCK + best % _BLOCK)
    return points[points < size]


def _numpy(value_GN: Tensor, points: Tensor) -> Matrix:
    """Return the columns of `points` in float64, on the CPU."""
    small: Matrix = value_GN.index_select(1, points).double().cpu().numpy()
    return small


def _pairs(objects: Indices, chosen: Indices, points: Tensor) -> Pairs:
    """Return pairs of objects and points from indices into `points`."""
    on = points.device
    return torch.from_numpy(objects).to(on), points[torch.from_numpy(chosen).to(on)]


def _assignment(pairs: Pairs, quality_GN: Tensor) -> Assignment:
    """Return the assignment of the pairs, with degree 1."""
    objects, points = pairs
    assignment = negatives(quality_GN.shape[1], quality_GN.device)
    assignment.object[points] = objects
    assignment.degree[points] = 1.0
    return assignment
