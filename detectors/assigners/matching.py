"""From a quality matrix to a one-to-one assignment."""

from typing import Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detectors.structures import Assignment

Solver = Literal["lsa", "argmax"]
"""How objects share out the points: `lsa`, the linear sum assignment, finds the largest total
quality and leaves no object without a point. `argmax` gives each object its best candidate; of
several objects that want the same point the one of highest quality has it, and the others (and
objects without a candidate) have none."""

_BLOCK = 32
"""Neighbouring points whose best is looked at first. Any size is exact, this one is fast."""

_SPARE = 4
"""Points looked at beyond need: of the four that can be nearest to a centre the first is taken."""


def negatives(num_points: int, device: torch.device) -> Assignment:
    """The assignment in which no point is responsible for anything."""
    return Assignment(
        torch.full((num_points,), -1, dtype=torch.int64, device=device),
        torch.zeros(num_points, device=device),
    )


def match(
    quality_GN: Tensor, candidate_GN: Tensor, distance_GN: Tensor, solver: Solver
) -> Assignment:
    """The one-to-one assignment among candidates; with `lsa` the others serve those without.

    quality_GN: [G, N] in [0, 1]; distance_GN: [G, N] >= 0, orders the others (see `prefer`).
    Raises ValueError where a candidate's quality is not finite.
    """
    if solver == "argmax":
        return best_of_each(quality_GN, candidate_GN)
    return one_to_one(prefer(quality_GN, candidate_GN, distance_GN), candidate_GN)


def one_to_one(quality_GN: Tensor, candidate_GN: Tensor | None = None) -> Assignment:
    """The one-to-one assignment of largest total quality (Hungarian, exact, on the CPU).

    quality_GN: [G, N] finite. Each object gets one point and each point at most one object;
    with more objects than points, the N best pairs that fit are assigned. candidate_GN: bool,
    where `prefer` made the qualities; the solution is the same and found sooner.
    Raises ValueError where a quality is not finite.

    Only points among the G best of some object are looked at. Any other can be left: its object
    has G points it likes as much, and the other objects hold G - 1 of them at most.
    """
    if not quality_GN.numel():
        return negatives(quality_GN.shape[1], quality_GN.device)
    pairs = None if candidate_GN is None else _among(quality_GN, candidate_GN)
    return _assignment(pairs or _solve(quality_GN, _best_points(quality_GN)), quality_GN)


def best_of_each(quality_GN: Tensor, candidate_GN: Tensor | None = None) -> Assignment:
    """Each object's best candidate, which it loses to another object that rates it higher.

    quality_GN: [G, N] finite. Of equal qualities for a point the first object keeps it, of equal
    qualities for an object the first point is best. Raises ValueError where a candidate's quality
    is not finite.
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
    """`quality_GN` in [0, 1] among candidates; elsewhere at most -G, falling with distance.

    With it the one-to-one solution leaves the candidates only for an object that has none left
    (a tiny object between points, or a crowd that shares a few), and then takes the nearest point.
    A smaller step than G would give up one object's only candidate to better two others.
    """
    worst = distance_GN.max().clamp(min=1.0) if distance_GN.numel() else 1.0
    return torch.where(candidate_GN, quality_GN, -len(quality_GN) - distance_GN / worst)


Pairs = tuple[Tensor, Tensor]
"""Objects [K] and their points [K], int64."""


def _among(quality_GN: Tensor, candidate_GN: Tensor) -> Pairs | None:
    """The solution, if the candidates are few and all objects that have one can each get one.

    Then no point matters but candidates and the best of objects that have none.
    """
    points = candidate_GN.view(torch.uint8).amax(0).nonzero()[:, 0]
    if len(points) > len(quality_GN) ** 2:
        return None
    home_G = candidate_GN.index_select(1, points).any(1)
    if not home_G.all():
        points = torch.unique(torch.cat([points, _best_points(quality_GN, ~home_G)]))
    pairs = _solve(quality_GN, points)
    return pairs if candidate_GN[pairs].sum() == home_G.sum() else None


def _best_points(quality_GN: Tensor, of: Tensor | slice = slice(None)) -> Tensor:
    """[M] int64, rising: every point among the G best of an object in `of`, and a few more.

    As many blocks of points hold them all, so only the blocks of highest maxima are sorted.
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
    """The exact solution of the problem in which there are no points but `points`."""
    small = quality_GN.index_select(1, points).double().cpu().numpy()
    objects, chosen = (torch.from_numpy(index) for index in linear_sum_assignment(small, True))
    return objects.to(points.device), points[chosen.to(points.device)]


def _assignment(pairs: Pairs, quality_GN: Tensor) -> Assignment:
    objects, points = pairs
    assignment = negatives(quality_GN.shape[1], quality_GN.device)
    assignment.object[points] = objects
    assignment.degree[points] = 1.0
    return assignment
