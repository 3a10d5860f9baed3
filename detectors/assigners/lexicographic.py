"""One-to-one matchings by several aims, the first of which decides first: NumPy, on the CPU."""

import numpy as np
import scipy  # loads `scipy.optimize` when it is first used: it takes half a second
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]


def match_candidates(quality_GN: Matrix, candidate_GN: Mask) -> tuple[Indices, Indices] | None:
    """Return the matching of largest total quality that gives a candidate to each object with one.

    Pairs that are not allowed are left out of the problem instead of having a large cost, so that
    qualities of any magnitude are compared exactly.

    Returns:
        Objects and their points; None if there is no such matching, because too many objects
        compete for too few candidates.
    """
    objects = np.flatnonzero(candidate_GN.any(1))
    if len(objects) > quality_GN.shape[1]:
        return None
    allowed = np.where(candidate_GN, quality_GN, -np.inf)[objects]
    try:
        rows, points = scipy.optimize.linear_sum_assignment(allowed, maximize=True)
    except ValueError:  # "cost matrix is infeasible"
        return None
    return objects[rows], points


def match_all(
    quality_GN: Matrix, candidate_GN: Mask, distance_GN: Matrix, *, contested: bool
) -> tuple[Indices, Indices]:
    """Return the best matching of all objects, or of all points if there are fewer points.

    Of two matchings, the better one has more objects with a candidate. Among those with as many, it
    has the larger total quality of these objects, and among those with the same total, the smaller
    total distance of the other objects. Totals are the same if they differ by rounding only.

    Args:
        quality_GN: [G, N], finite for candidates.
        candidate_GN: [G, N] bool.
        distance_GN: [G, N] >= 0.
        contested: whether some object cannot get a candidate though it has one, see
            `match_candidates`.
    """
    objects, points = quality_GN.shape
    spare = ((0, 0), (0, max(0, objects - points)))
    """Columns of objects without a point, if there are more objects than points."""
    candidate = np.pad(candidate_GN, spare)
    value = _values(np.pad(quality_GN, spare), candidate, contested)
    away = np.pad(np.where(candidate_GN, 0.0, distance_GN / (distance_GN.max() or 1.0)), spare)
    chosen = _nearest_of_best(value, away)
    real = chosen < points
    return real.nonzero()[0], chosen[real]


def _values(quality_GN: Matrix, candidate_GN: Mask, contested: bool) -> Matrix:
    """Return values whose largest total has most objects with a candidate, then most quality.

    If all objects that have a candidate can get one, only candidates are allowed for them. If not,
    a pair with a candidate is worth more than all differences in quality together.
    """
    if not contested:
        served_G1 = candidate_GN.any(1, keepdims=True)
        return np.where(candidate_GN, quality_GN, np.where(served_G1, -np.inf, 0.0))
    low, high = quality_GN[candidate_GN].min(), quality_GN[candidate_GN].max()
    reward = (len(quality_GN) + 1) * ((high - low) or 1.0)
    return np.where(candidate_GN, quality_GN - low + reward, 0.0)


def _nearest_of_best(value_GN: Matrix, away_GN: Matrix) -> Indices:
    """Return the point of each object in the nearest of all matchings of largest total value.

    These matchings consist of pairs without loss, and have all points with a price.

    Args:
        value_GN: [G, N] with G <= N; -inf for pairs that are not allowed.
        away_GN: [G, N] in [0, 1]: how far pairs are.
    """
    chosen: Indices = scipy.optimize.linear_sum_assignment(value_GN, maximize=True)[1]
    loss_GN, price_N, rounding = _losses(value_GN, chosen)
    tight_GN = loss_GN <= rounding
    free_G = tight_GN.sum(1) > 1
    points = np.setdiff1d(np.arange(value_GN.shape[1]), chosen[~free_G])
    must_N = (len(value_GN) + 1) * (price_N > rounding)
    wanted = np.where(tight_GN, must_N - away_GN, -np.inf)[free_G][:, points]
    chosen[free_G] = points[scipy.optimize.linear_sum_assignment(wanted, maximize=True)[1]]
    return chosen


def _losses(value_GN: Matrix, chosen: Indices) -> tuple[Matrix, Matrix, float]:
    """Return by how much a pair lowers the largest total, the prices of points, and their rounding.

    Prices are the lowest dual variables of the assignment problem: the price of a point is what
    another object would gain by it, including the price of that object's own point. Points that no
    other object needs have price 0. Losses are the reduced costs.

    Args:
        value_GN: [G, N] with G <= N; -inf for pairs that are not allowed.
        chosen: [G], the points of a matching of largest total value.

    Returns:
        Losses [G, N] >= 0, inf for pairs that are not allowed; prices [N] >= 0; the rounding error
        of both.
    """
    finite = value_GN[np.isfinite(value_GN)]
    scale = 4 * len(chosen) * float(finite.max() - finite.min())
    rounding = scale * float(np.finfo(np.float64).eps)
    gain_GN = value_GN - value_GN[np.arange(len(chosen)), chosen][:, None]
    price_N = np.zeros(value_GN.shape[1])
    for _ in chosen:
        higher = np.maximum(price_N, (gain_GN + price_N[chosen][:, None]).max(0))
        if (higher <= price_N + rounding).all():
            break
        price_N = higher
    return price_N - gain_GN - price_N[chosen][:, None], price_N, len(chosen) * rounding
