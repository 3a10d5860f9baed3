"""What the one-to-one solver `lsa` optimises, by enumerating all matchings of a small problem."""

from collections.abc import Callable, Iterable
from itertools import permutations

import pytest

Pair = tuple[int, int]
Matching = list[Pair]
Value = Callable[[Pair], float]


def all_matchings(g: int, n: int) -> list[Matching]:
    """List all ways to give each object a point, or each point an object if G > N."""
    if g <= n:
        return [list(enumerate(points)) for points in permutations(range(n), g)]
    return [[(obj, p) for p, obj in enumerate(objects)] for objects in permutations(range(g), n)]


def check_order(
    found: Iterable[Pair],
    size: Pair,
    candidate: Callable[[Pair], bool],
    quality: Value,
    distance: Value,
    near: float,
) -> None:
    """Assert that no matching has more candidates, then more quality, then less distance.

    Qualities that differ by less than `near` may be equal for the solver. Distances are compared
    among matchings with the same candidates, of which the quality is the same.
    """

    def aims(matching: Matching) -> tuple[Matching, float, float]:
        served = sorted(pair for pair in matching if candidate(pair))
        away = sum(distance(pair) for pair in matching if not candidate(pair))
        return served, float(sum(quality(pair) for pair in served)), float(away)

    ours = sorted(found)
    assert len(ours) == len({g for g, _ in ours}) == len({n for _, n in ours}) == min(size)
    served, total, away = aims(ours)
    ranked = [aims(matching) for matching in all_matchings(*size)]
    assert len(served) == max(len(each[0]) for each in ranked)
    assert total >= max(each[1] for each in ranked if len(each[0]) == len(served)) - near
    assert away == pytest.approx(min(each[2] for each in ranked if each[0] == served), abs=1e-3)
