from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectors.assigners.matching import negatives, one_to_one, prefer
from detectors.structures import Assignment

examples = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 10_000)


def pairs(found: Assignment) -> list[tuple[int, int]]:
    """(object, point) of every positive."""
    return [(g, n) for n, g in enumerate(found.object.tolist()) if g >= 0]


def all_matchings(g: int, n: int) -> list[list[tuple[int, int]]]:
    """Every way to give each object its own point, or each point its own object if G > N."""
    if g <= n:
        return [list(enumerate(points)) for points in permutations(range(n), g)]
    return [[(obj, p) for p, obj in enumerate(objects)] for objects in permutations(range(g), n)]


def total(quality: Tensor, matching: list[tuple[int, int]]) -> float:
    return sum(quality[g, n].item() for g, n in matching)


def test_negatives() -> None:
    nothing = negatives(5, torch.device("cpu"))
    assert nothing.object.tolist() == [-1] * 5
    assert nothing.object.dtype == torch.int64
    assert nothing.degree.tolist() == [0.0] * 5


@examples
@given(st.integers(0, 4), st.integers(1, 5), seeds, st.booleans())
def test_no_matching_has_a_larger_total(g: int, n: int, seed: int, tied: bool) -> None:
    quality = torch.rand(g, n, generator=torch.Generator().manual_seed(seed))
    quality = (quality * 3).round() if tied else quality
    found = one_to_one(quality)
    matching = pairs(found)
    assert len(matching) == min(g, n)
    assert len({obj for obj, _ in matching}) == len(matching)
    assert found.degree.tolist() == (found.object >= 0).float().tolist()
    best = max(total(quality, m) for m in all_matchings(g, n))
    assert total(quality, matching) == pytest.approx(best)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_quality_that_is_not_finite_is_refused(bad: float) -> None:
    quality = torch.rand(2, 3)
    quality[1, 2] = bad
    with pytest.raises(ValueError, match="numeric"):
        one_to_one(quality)


@examples
@given(st.integers(1, 4), st.integers(1, 5), seeds)
def test_candidates_come_first_then_quality_then_nearness(g: int, n: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    quality, distance = torch.rand(g, n, generator=rng).round(), 50 * torch.rand(g, n)
    candidate = torch.rand(g, n, generator=rng) < 0.4
    worst = max(1.0, distance.max().item())

    def rank(matching: list[tuple[int, int]]) -> tuple[int, float]:
        kept = [pair for pair in matching if candidate[pair]]
        away = [distance[pair].item() / worst for pair in matching if not candidate[pair]]
        return len(kept), total(quality, kept) - sum(away)

    found = rank(pairs(one_to_one(prefer(quality, candidate, distance))))
    best = max(rank(m) for m in all_matchings(g, n))
    assert found[0] == best[0]
    assert found[1] == pytest.approx(best[1], abs=1e-5)


def test_no_object_loses_its_only_candidate_to_better_two_others() -> None:
    candidate = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    quality = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    distance = torch.tensor([[9.0, 9, 9, 1], [9, 9, 9, 9], [9, 9, 9, 9]])
    assert pairs(one_to_one(prefer(quality, candidate, distance))) == [(0, 0), (1, 1), (2, 2)]


def test_prefer_of_no_objects() -> None:
    nothing = torch.zeros(0, 3)
    assert prefer(nothing, nothing.bool(), nothing).shape == (0, 3)
    assert one_to_one(nothing).object.tolist() == [-1, -1, -1]
