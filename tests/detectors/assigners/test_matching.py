from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detectors.assigners.matching import best_of_each, match, negatives, one_to_one, prefer
from detectors.structures import Assignment
from tests.examples import examples

seeds = st.integers(0, 10_000)


def pairs(found: Assignment) -> list[tuple[int, int]]:
    """Return (object, point) of every positive."""
    return [(g, n) for n, g in enumerate(found.object.tolist()) if g >= 0]


def all_matchings(g: int, n: int) -> list[list[tuple[int, int]]]:
    """List all ways to give each object a point, or each point an object if G > N."""
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


@examples(30)
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
    quality = random_quality(2, 3, 0, "distinct")
    quality[1, 2] = bad
    with pytest.raises(ValueError, match="numeric"):
        one_to_one(quality)


@examples(30)
@given(st.integers(1, 4), st.integers(1, 5), seeds)
def test_candidates_come_first_then_quality_then_nearness(g: int, n: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    quality = torch.rand(g, n, generator=rng).round()
    distance = 50 * torch.rand(g, n, generator=rng)
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


def test_no_object_loses_its_only_candidate_to_improve_two_others() -> None:
    candidate = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    quality = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    distance = torch.tensor([[9.0, 9, 9, 1], [9, 9, 9, 9], [9, 9, 9, 9]])
    assert pairs(one_to_one(prefer(quality, candidate, distance))) == [(0, 0), (1, 1), (2, 2)]


def test_prefer_of_no_objects() -> None:
    nothing = torch.zeros(0, 3)
    assert prefer(nothing, nothing.bool(), nothing).shape == (0, 3)
    assert one_to_one(nothing).object.tolist() == [-1, -1, -1]


def random_quality(g: int, n: int, seed: int, kind: str) -> Tensor:
    """Draw distinct values, few different ones, equal ones for all objects, or mostly zeros."""
    rng = torch.Generator().manual_seed(seed)
    quality = torch.rand(g, n, generator=rng)
    if kind == "ties":
        return (quality * 3).round()
    if kind == "identical rows":
        return quality[:1].expand(g, n).clone() if g else quality
    if kind == "plateau":
        return torch.where(quality > 0.97, quality, 0.0)
    return quality


def dense_total(quality: Tensor) -> float:
    rows, columns = linear_sum_assignment(quality.double().numpy(), maximize=True)
    return float(quality.double().numpy()[rows, columns].sum())


def check_against_dense(quality: Tensor, found: Assignment) -> None:
    matching = pairs(found)
    assert len(matching) == len({g for g, _ in matching}) == min(quality.shape)
    assert found.degree.tolist() == (found.object >= 0).float().tolist()
    ours = sum(quality[pair].double().item() for pair in matching)
    assert ours == pytest.approx(dense_total(quality), abs=1e-9 * max(1, len(matching)))


kinds = st.sampled_from(["distinct", "ties", "identical rows", "plateau"])
sizes = st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 7, 31, 32, 33, 64, 300, 1000]))


@examples(30)
@given(sizes, seeds, kinds)
def test_reduced_problem_has_the_total_of_the_whole(
    size: tuple[int, int], seed: int, kind: str
) -> None:
    quality = random_quality(*size, seed, kind)
    check_against_dense(quality, one_to_one(quality))


@examples(30)
@given(sizes, seeds, kinds, st.sampled_from([0.0, 0.003, 0.03, 1.0]))
def test_problem_reduced_to_candidates_has_the_total_of_the_whole(
    size: tuple[int, int], seed: int, kind: str, share: float
) -> None:
    """Some objects have no candidates, share too few, or have all points as candidates."""
    rng = torch.Generator().manual_seed(seed + 1)
    candidate, distance = torch.rand(*size, generator=rng) < share, torch.rand(*size, generator=rng)
    quality = prefer(random_quality(*size, seed, kind), candidate, distance)
    check_against_dense(quality, one_to_one(quality, candidate))


def test_objects_without_candidates_beside_several_that_share_one() -> None:
    candidate = torch.zeros(5, 200, dtype=torch.bool)
    candidate[:3, 17] = True
    rng = torch.Generator().manual_seed(0)
    quality, distance = torch.rand(5, 200, generator=rng), torch.rand(5, 200, generator=rng)
    preferred = prefer(quality, candidate, distance)
    found = one_to_one(preferred, candidate)
    check_against_dense(preferred, found)
    assert found.object[17].item() in (0, 1, 2)


@pytest.mark.parametrize("best", [(3, 8, 40, 99), (0, 1, 2, 3), (64, 65)])
def test_of_a_few_equal_points_an_object_takes_the_first(best: tuple[int, ...]) -> None:
    quality = torch.linspace(0, 0.5, 100)[None]
    quality[0, list(best)] = 1.0
    assert pairs(one_to_one(quality)) == [(0, best[0])]
    assert pairs(best_of_each(quality)) == [(0, best[0])]


def looped_best(quality: Tensor, candidate: Tensor) -> list[tuple[int, int]]:
    """Apply the rule object by object; return (object, point) sorted by point."""
    owner: dict[int, int] = {}
    for g in range(len(quality)):
        mine = [n for n in range(quality.shape[1]) if candidate[g, n]]
        if not mine:
            continue
        n = max(mine, key=lambda n: quality[g, n].item())
        if n not in owner or quality[g, n] > quality[owner[n], n]:
            owner[n] = g
    return sorted(((g, n) for n, g in owner.items()), key=lambda pair: pair[1])


@examples(30)
@given(st.integers(0, 9), st.integers(0, 12), seeds, kinds, st.sampled_from([0.2, 1.0]))
def test_best_of_each_equals_the_rule_in_loops(
    g: int, n: int, seed: int, kind: str, share: float
) -> None:
    quality = random_quality(g, n, seed, kind) - 0.5
    candidate = torch.rand(g, n, generator=torch.Generator().manual_seed(seed)) < share
    found = best_of_each(quality, candidate)
    assert pairs(found) == looped_best(quality, candidate)
    assert found.degree.tolist() == (found.object >= 0).float().tolist()
    assert pairs(best_of_each(quality)) == looped_best(quality, torch.ones(g, n).bool())


@examples(30)
@given(st.integers(1, 9), st.integers(1, 40), seeds)
def test_argmax_is_never_better_and_is_equal_if_no_point_is_contested(
    g: int, n: int, seed: int
) -> None:
    quality = torch.rand(g, n, generator=torch.Generator().manual_seed(seed))
    exact, greedy = pairs(one_to_one(quality)), pairs(best_of_each(quality))
    assert total(quality, exact) >= total(quality, greedy) - 1e-6
    if len(set(quality.argmax(1).tolist())) == g:
        assert exact == greedy


def test_solvers_differ_for_an_object_that_loses_its_point() -> None:
    quality = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    everywhere, distance = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2)
    assert pairs(match(quality, everywhere, distance, "argmax")) == [(0, 0)]
    assert pairs(match(quality, everywhere, distance, "lsa")) == [(0, 0), (1, 1)]


def test_without_candidates_argmax_has_none_and_lsa_the_nearest() -> None:
    quality, distance = torch.tensor([[0.9, 0.1]]), torch.tensor([[5.0, 3.0]])
    nowhere = torch.zeros(1, 2, dtype=torch.bool)
    assert pairs(match(quality, nowhere, distance, "argmax")) == []
    assert pairs(match(quality, nowhere, distance, "lsa")) == [(0, 1)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_argmax_refuses_quality_that_is_not_finite(bad: float) -> None:
    quality = random_quality(2, 3, 0, "distinct")
    quality[1, 2] = bad
    with pytest.raises(ValueError, match="numeric"):
        best_of_each(quality)
    candidate = torch.ones(2, 3, dtype=torch.bool)
    candidate[1, 2] = False
    best_of_each(quality, candidate)
