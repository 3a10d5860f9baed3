"""One-to-one assignment from a matrix of qualities per image."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import scipy  # loads `scipy.optimize` when it is first used: it takes half a second
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.assigners.lexicographic import Indices, Matrix, match_all, match_candidates
from detectors.structures import Assignment, TargetBatch
from detectors.synchronisations import on_host

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


def match(
    quality_BGN: Tensor,
    candidate_BGN: Tensor,
    distance: Callable[[int], Tensor],
    targets: TargetBatch,
    solver: Solver,
) -> Assignment:
    """Return the one-to-one assignment among candidates of every image.

    With `lsa`, of two assignments the better one has more objects with a candidate; among those
    with as many, the larger total quality of these objects; among those with the same total, the
    smaller total distance of the other objects. So an object gets a point that is not a candidate
    only if no candidate is left for it (a tiny object between points, or many objects with few
    candidates), and how far it must go has no influence on who keeps a candidate. The solution is
    exact up to the rounding of totals in float64. With more objects than points, all points are
    assigned.

    Args:
        quality_BGN: [B, G, N]; a candidate whose quality is -inf is none.
        candidate_BGN: [B, G, N] bool.
        distance: returns the order of an image's points that are not candidates, [G, N] >= 0 on the
            CPU; called with `lsa` for images in which an object gets no candidate.
        targets: the objects.
        solver: how to solve it.

    Raises:
        ValueError: with `lsa`, the quality of a candidate is NaN or inf.
    """
    if solver == "argmax":
        return best_of_each(quality_BGN, candidate_BGN, targets)
    value_BGN = torch.where(candidate_BGN, quality_BGN, -torch.inf)
    return _assignment(
        value_BGN, targets, lambda value_GN, i: _lexicographic(value_GN, distance, i)
    )


def one_to_one(quality_BGN: Tensor, targets: TargetBatch, repeats: int = 1) -> Assignment:
    """Return the one-to-one assignment with the largest total quality (exact, on the CPU).

    Each object gets one point, and each point at most one object. With more objects than points,
    the assignment has N pairs. Only points among the G best of some object are considered: instead
    of any other point, its object could get one of its G best, because the other objects use at
    most G - 1 of them.

    Args:
        quality_BGN: [B, G, N], finite.
        targets: the objects.
        repeats: how many points each object gets: each is that many objects in the matching.

    Raises:
        ValueError: a quality is not finite.
    """

    def solve(value_GN: Tensor, _: int) -> Pairs:
        objects, points = _largest_total(value_GN.repeat_interleave(repeats, 0))
        return torch.div(objects, repeats, rounding_mode="floor"), points

    return _assignment(quality_BGN, targets, solve)


def best_of_each(
    quality_BGN: Tensor, candidate_BGN: Tensor | None, targets: TargetBatch
) -> Assignment:
    """Assign each object its best candidate, unless another object has a higher quality for it.

    Among objects with equal qualities for a point, the first gets it. Among points with equal
    qualities for an object, the first is its best.

    Args:
        quality_BGN: [B, G, N], finite for candidates; if it is not, all degrees are NaN.
        candidate_BGN: [B, G, N] bool; None: all points are candidates.
        targets: the objects.
    """
    if candidate_BGN is not None:
        quality_BGN = torch.where(candidate_BGN, quality_BGN, -torch.inf)
    best, point = torch.where(targets.real[..., None], quality_BGN, -torch.inf).max(2)
    other, own = best[:, None, :], best[:, :, None]
    better_BGG = (other > own) | (other == own).tril(-1)
    lost_BG = (better_BGG & (point[:, None, :] == point[:, :, None])).any(2)
    size, number = quality_BGN.shape[2], torch.arange(best.shape[1], device=best.device)
    at_BG = torch.where(~lost_BG & (best > -torch.inf), point, size)
    nobody = torch.full((len(best), size + 1), -1, dtype=torch.int64, device=best.device)
    object_BN = nobody.scatter(1, at_BG, number.expand_as(at_BG))[:, :size]
    flaw = torch.where(best.isnan() | best.isposinf(), torch.nan, 0.0).sum()
    return Assignment(object_BN, (object_BN >= 0).float() + flaw)


Pairs = tuple[Tensor, Tensor]
"""Objects [K] of an image and their points [K], int64."""


def _assignment(
    value_BGN: Tensor, targets: TargetBatch, solve: Callable[[Tensor, int], Pairs]
) -> Assignment:
    """Return the assignment of the pairs that `solve` finds in every image, with degree 1.

    The values of all images are copied to the CPU at once. `solve` gets those of an image [G, N],
    and its index.
    """
    object_BN, chosen = _solved(value_BGN.cpu(), targets, solve)
    counts = tuple(map(len, chosen))
    sorted_by_image = _image_of(counts), torch.cat(chosen)
    image, point = (each.to(value_BGN.device, non_blocking=True) for each in sorted_by_image)
    object_BN = object_BN.to(value_BGN.device, non_blocking=True)
    return Assignment(object_BN, (object_BN >= 0).float(), index=(image, point), counts=counts)


@on_host
def _solved(
    value_BGN: Tensor, targets: TargetBatch, solve: Callable[[Tensor, int], Pairs]
) -> tuple[Tensor, list[Tensor]]:
    """Return the object of each point [B, N], and the points of every image with one, sorted."""
    object_BN = torch.full((len(targets), value_BGN.shape[2]), -1)
    chosen = [object_BN.new_zeros(0)] * len(targets)
    for image, count in enumerate(targets.counts):
        if count and value_BGN.shape[2]:
            objects, points = solve(value_BGN[image, :count], image)
            object_BN[image, points] = objects
            chosen[image] = points.sort().values
    return object_BN, chosen


@on_host
def _image_of(counts: Sequence[int]) -> Tensor:
    """Return the image of every point, given their number in each image."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))


def _largest_total(quality_GN: Tensor) -> Pairs:
    """Return the assignment of `one_to_one` for one image."""
    points = _best_points(quality_GN, len(quality_GN) + _SPARE)
    objects, chosen = scipy.optimize.linear_sum_assignment(
        _numpy(quality_GN, points), maximize=True
    )
    return _pairs(objects, chosen, points)


def _lexicographic(value_GN: Tensor, distance: Callable[[int], Tensor], image: int) -> Pairs:
    """Return the assignment of `match` with `lsa` for one image.

    Usually each object gets a candidate, and only candidates need to be considered. Otherwise, the
    nearest points that are not among these are added for the objects that may get none.

    Args:
        value_GN: [G, N], -inf for points that are not candidates.
        distance: see `match`.
        image: index of the image.
    """
    points = _candidates(value_GN)
    value = _numpy(value_GN, points)
    if (np.isnan(value) | np.isposinf(value)).any():
        raise ValueError("the quality matrix contains invalid numeric entries")
    found = match_candidates(value, value > -np.inf)
    if found is not None and len(found[0]) == len(value):
        return _pairs(*found, points)
    candidate_GN, distance_GN = value_GN != -torch.inf, distance(image)
    without = slice(None) if found is None else ~candidate_GN.any(1)
    nearness_KN = torch.where(candidate_GN, -torch.inf, -distance_GN)[without]
    nearness_KN = nearness_KN.index_fill(1, points, -torch.inf)
    others = _best_points(nearness_KN, len(nearness_KN) + _SPARE)
    points = torch.unique(torch.cat([points, others]))
    value = _numpy(value_GN, points)
    away = _numpy(distance_GN, points)
    return _pairs(*match_all(value, value > -np.inf, away, contested=found is None), points)


def _candidates(value_GN: Tensor) -> Tensor:
    """Return all points among the G best candidates of an object: [M] int64, sorted.

    Where there are few candidates, all are returned, which is faster than to rank them. NaN ranks
    first, so that it is found.
    """
    points = (value_GN.amax(0) != -torch.inf).nonzero()[:, 0]
    if len(points) <= len(value_GN) ** 2:
        return points
    return _best_points(value_GN, len(value_GN) + _SPARE)


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
    """Return the columns of `points` in float64."""
    small: Matrix = value_GN.index_select(1, points).double().numpy()
    return small


def _pairs(objects: Indices, chosen: Indices, points: Tensor) -> Pairs:
    """Return pairs of objects and points from indices into `points`."""
    return torch.from_numpy(objects), points[torch.from_numpy(chosen)]
