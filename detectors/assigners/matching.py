"""One-to-one assignment from a matrix of qualities."""

from typing import Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detectors.structures import Assignment

Solver = Literal["lsa", "argmax"]
"""`lsa`: linear sum assignment, the matching with the largest total quality; every object gets a
point. `argmax`: each object gets its best candidate; if several objects have the same one, the
object with the highest quality gets it, and the others get none."""

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
    quality_GN: Tensor, candidate_GN: Tensor, distance_GN: Tensor, solver: Solver
) -> Assignment:
    """Return the one-to-one assignment among candidates.

    With `lsa`, objects without a candidate of their own get other points, see `prefer`.

    Args:
        quality_GN: [G, N] in [0, 1].
        candidate_GN: [G, N] bool.
        distance_GN: [G, N] >= 0, the order of points that are not candidates.
        solver: how to solve it.

    Raises:
        ValueError: the quality of a candidate is not finite.
    """
    if solver == "argmax":
        return best_of_each(quality_GN, candidate_GN)
    return one_to_one(prefer(quality_GN, candidate_GN, distance_GN), candidate_GN)


def one_to_one(quality_GN: Tensor, candidate_GN: Tensor | None = None) -> Assignment:
    """Return the one-to-one assignment with the largest total quality (exact, on the CPU).

    Each object gets one point, and each point at most one object. With more objects than points,
    the assignment has N pairs. Only points among the G best of some object are considered: instead
    of any other point, its object could get one of its G best, because the other objects use at
    most G - 1 of them.

    Args:
        quality_GN: [G, N], finite.
        candidate_GN: [G, N] bool, if the qualities come from `prefer`. The solution is the same,
            but found faster.

    Raises:
        ValueError: a quality is not finite.
    """
    if not quality_GN.numel():
        return negatives(quality_GN.shape[1], quality_GN.device)
    pairs = None if candidate_GN is None else _among(quality_GN, candidate_GN)
    return _assignment(pairs or _solve(quality_GN, _best_points(quality_GN)), quality_GN)


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


def prefer(quality_GN: Tensor, candidate_GN: Tensor, distance_GN: Tensor) -> Tensor:
    """Return qualities in [0, 1] for candidates, and at most -G for others, lower with distance.

    With these qualities, an object gets a point that is not a candidate only if it has no candidate
    left (a tiny object between points, or many objects with few candidates), and then the nearest
    one. With a smaller step than G, an object could lose its only candidate to improve two others.
    """
    worst = distance_GN.max().clamp(min=1.0) if distance_GN.numel() else 1.0
    return torch.where(candidate_GN, quality_GN, -len(quality_GN) - distance_GN / worst)


Pairs = tuple[Tensor, Tensor]
"""Objects [K] and their points [K], int64."""


def _among(quality_GN: Tensor, candidate_GN: Tensor) -> Pairs | None:
    """Return the solution if there are few candidates and each object that has one gets one.

    Then only candidates, and the best points of objects without candidates, need to be considered.
    """
    points = candidate_GN.view(torch.uint8).amax(0).nonzero()[:, 0]
    if len(points) > len(quality_GN) ** 2:
        return None
    has_candidate_G = candidate_GN.index_select(1, points).any(1)
    if not has_candidate_G.all():
        points = torch.unique(torch.cat([points, _best_points(quality_GN, ~has_candidate_G)]))
    pairs = _solve(quality_GN, points)
    return pairs if candidate_GN[pairs].sum() == has_candidate_G.sum() else None


def _best_points(quality_GN: Tensor, of: Tensor | slice = slice(None)) -> Tensor:
    """Return all points among the G best of an object in `of`, and a few more: [M] int64, sorted.

    The k best points are in the k blocks with the highest maxima, so only those are searched.
    """
    rows_GN, size = quality_GN[of], quality_GN.shape[1]
    count = min(len(quality_GN) + _SPARE, size)
    padded = F.pad(rows_GN, (0, -size % _BLOCK), value=-torch.inf)
    blocks = padded.view(len(rows_GN), -(-size // _BLOCK), _BLOCK)
    block = blocks.amax(2).topk(min(count, blocks.shape[1]), sorted=False).indices
    inner = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    best = inner.topk(count, sorted=False).indices
    points: Tensor = torch.unique(block.gather(1, best // _BLOCK) * _BLOCK + best % _BLOCK)
    return points


def _solve(quality_GN: Tensor, points: Tensor) -> Pairs:
    """Solve the problem restricted to `points`, exactly."""
    small = quality_GN.index_select(1, points).double().cpu().numpy()
    objects, chosen = (torch.from_numpy(index) for index in linear_sum_assignment(small, True))
    return objects.to(points.device), points[chosen.to(points.device)]


def _assignment(pairs: Pairs, quality_GN: Tensor) -> Assignment:
    """Return the assignment of the pairs, with degree 1."""
    objects, points = pairs
    assignment = negatives(quality_GN.shape[1], quality_GN.device)
    assignment.object[points] = objects
    assignment.degree[points] = 1.0
    return assignment
