from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detectors.assigners import matching
from detectors.assigners.matching import Solver
from detectors.structures import Assignment, TargetBatch
from tests.detectors.assigners.ordering import all_matchings
from tests.detectors.batching import counted
from tests.examples import examples

seeds = st.integers(0, 10_000)


def pairs(found: Assignment) -> list[tuple[int, int]]:
    """Return (object, point) of every positive."""
    return [(g, n) for n, g in enumerate(found.object.tolist()) if g >= 0]


def total(quality: Tensor, matching: list[tuple[int, int]]) -> float:
    return sum(quality[g, n].item() for g, n in matching)


def in_batch(matrix: Tensor, padding: float) -> Tensor:
    """Put the matrix of an image between those of two others, the first of which has no objects."""
    row = matrix.new_full((1, matrix.shape[1]), padding)
    return torch.stack([torch.cat([row.expand_as(matrix), row]), *[torch.cat([matrix, row])] * 2])


def batch_of(matrix: Tensor) -> TargetBatch:
    """Return the objects of the images in `in_batch`."""
    return counted(0, len(matrix), len(matrix), rows=len(matrix) + 1)


def of_image(found: Assignment) -> Assignment:
    """Return the assignment of the image whose matrix was given; its copy must have the same."""
    assert (found.object[0] == -1).all()
    assert torch.equal(found.object[1], found.object[2])
    image, point = (found.object >= 0).nonzero(as_tuple=True)
    assert all(map(torch.equal, found.positives(), (image, point)))
    return Assignment(found.object[1], found.degree[1])


def match(
    quality: Tensor, candidate: Tensor, distance: Callable[[], Tensor], solver: Solver
) -> Assignment:
    """Solve the matching of an image within a batch whose padding looks best."""
    quality_BGN, candidate_BGN = in_batch(quality, 1e9), in_batch(candidate, True)
    targets = batch_of(quality)
    return of_image(
        matching.match(quality_BGN, candidate_BGN, lambda _: distance(), targets, solver)
    )


def one_to_one(quality: Tensor) -> Assignment:
    return of_image(matching.one_to_one(in_batch(quality, 1e9), batch_of(quality)))


def best_of_each(quality: Tensor, candidate: Tensor | None = None) -> Assignment:
    allowed = None if candidate is None else in_batch(candidate, True)
    return of_image(matching.best_of_each(in_batch(quality, 1e9), allowed, batch_of(quality)))


def test_a_contested_point_is_used_where_equal_matchings_differ() -> None:
    """Two objects may exchange points 0, 1 and 2; without point 2, the total is smaller.

    The third object has no candidate, so that the nearest of the best matchings is searched.
    """
    quality = torch.tensor([[0.75, 0, 1.0, 0], [0, 0.5, 0.75, 0], [0, 0, 0, 0]])
    distance = torch.tensor([[0.0] * 4, [0.0] * 4, [1.0, 1, 2, 1]])
    found = pairs(match(quality, quality > 0, lambda: distance, "lsa"))
    assert len(found) == 3
    assert total(quality, found) == 1.5


@examples(30)
@given(st.integers(0, 4), st.integers(1, 5), seeds, st.booleans())
def test_no_matching_has_a_larger_total(g: int, n: int, seed: int, tied: bool) -> None:
    quality = torch.rand(g, n, generator=torch.Generator().manual_seed(seed))
    quality = (quality * 3).round() if tied else quality
    found = one_to_one(quality)
    chosen = pairs(found)
    assert len(chosen) == min(g, n)
    assert len({obj for obj, _ in chosen}) == len(chosen)
    assert found.degree.tolist() == (found.object >= 0).float().tolist()
    best = max(total(quality, m) for m in all_matchings(g, n))
    assert total(quality, chosen) == pytest.approx(best)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_quality_that_is_not_finite_is_refused(bad: float) -> None:
    quality = random_quality(2, 3, 0, "distinct")
    quality[1, 2] = bad
    with pytest.raises(ValueError, match="numeric"):
        one_to_one(quality)


Aims = tuple[int, float, float]


def is_better(one: Aims, other: Aims) -> bool:
    """Return whether the first aim that differs by more than rounding is larger."""
    for a, b in zip(one, other, strict=True):
        if a != pytest.approx(b, rel=1e-9, abs=1e-30):
            return a > b
    return False


@examples(100)
@given(
    st.integers(1, 4),
    st.integers(1, 6),
    seeds,
    st.sampled_from([0, 1, 3, 2**24]),
    st.sampled_from([1.0, 1e-20, -1e5]),
    st.sampled_from([0.2, 0.5, 0.9]),
)
def test_most_candidates_come_first_then_quality_then_nearness(
    g: int, n: int, seed: int, steps: int, scale: float, share: float
) -> None:
    """Also with equal qualities, of which the distance then decides, and of any magnitude."""
    rng = torch.Generator().manual_seed(seed)
    quality = scale * torch.randint(0, steps + 1, (g, n), generator=rng)
    distance = 50 * torch.rand(g, n, generator=rng)
    candidate = torch.rand(g, n, generator=rng) < share

    def aims(matching: list[tuple[int, int]]) -> Aims:
        kept = [pair for pair in matching if candidate[pair]]
        away = [distance[pair].item() for pair in matching if not candidate[pair]]
        return len(kept), total(quality, kept), -float(sum(away))

    found = pairs(match(quality, candidate, lambda: distance, "lsa"))
    assert len(found) == min(g, n)
    assert not any(is_better(aims(each), aims(found)) for each in all_matchings(g, n))


def test_no_object_loses_its_only_candidate_to_improve_two_others() -> None:
    candidate = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    quality = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    distance = torch.tensor([[9.0, 9, 9, 1], [9, 9, 9, 9], [9, 9, 9, 9]])
    assert pairs(match(quality, candidate, lambda: distance, "lsa")) == [(0, 0), (1, 1), (2, 2)]


def test_the_way_of_the_loser_does_not_decide_who_keeps_a_candidate() -> None:
    """The first would go 1000 pixels, the second one pixel; the second has the higher quality."""
    candidate = torch.tensor([[1, 0, 0], [1, 0, 0]], dtype=torch.bool)
    quality, distance = torch.tensor([[0.50], [0.51]]).expand(2, 3), torch.ones(2, 3)
    distance[0] = 1000.0
    assert pairs(match(quality, candidate, lambda: distance, "lsa")) == [(1, 0), (0, 1)]


def test_an_object_takes_its_other_candidate_of_equal_quality_to_leave_a_near_point() -> None:
    candidate = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    for near in (0, 1):
        distance = torch.full((2, 3), 9.0)
        distance[1, near] = 1.0
        found = match(torch.zeros(2, 3), candidate, distance.clone, "lsa")
        assert sorted(pairs(found)) == [(0, 1 - near), (1, near)]


@pytest.mark.parametrize(("candidates", "calls"), [([[1, 0], [1, 1]], 0), ([[1, 0], [1, 0]], 1)])
def test_distances_are_computed_only_if_an_object_gets_no_candidate(
    candidates: list[list[int]], calls: int
) -> None:
    seen: list[Tensor] = []

    def distance() -> Tensor:
        seen.append(torch.ones(2, 2))
        return seen[-1]

    assert len(pairs(match(torch.ones(2, 2), torch.tensor(candidates) > 0, distance, "lsa"))) == 2
    assert len(seen) == 2 * calls


@pytest.mark.parametrize("solver", ["lsa", "argmax"])
def test_match_of_no_objects(solver: Solver) -> None:
    nothing = torch.zeros(0, 3)
    assert match(nothing, nothing.bool(), lambda: nothing, solver).object.tolist() == [-1, -1, -1]
    assert one_to_one(nothing).object.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("count", [2, 40])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_quality_of_a_candidate_that_is_not_finite_is_refused(bad: float, count: int) -> None:
    quality, distance = random_quality(count, 50, 0, "distinct"), torch.zeros(count, 50)
    candidate = torch.ones(count, 50, dtype=torch.bool)
    quality[1, 2] = bad
    with pytest.raises(ValueError, match="numeric"):
        match(quality, candidate, lambda: distance, "lsa")
    candidate[1, 2] = False
    match(quality, candidate, lambda: distance, "lsa")


def test_a_candidate_of_quality_minus_infinity_is_none() -> None:
    quality = torch.tensor([[-torch.inf, 0.1, 0.2], [0.5, 0.1, 0.3]])
    everywhere, distance = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3)
    solvers: tuple[Solver, ...] = ("lsa", "argmax")
    for solver in solvers:
        assert pairs(match(quality, everywhere, lambda: distance, solver)) == [(1, 0), (0, 2)]


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
    chosen = pairs(found)
    assert len(chosen) == len({g for g, _ in chosen}) == min(quality.shape)
    assert found.degree.tolist() == (found.object >= 0).float().tolist()
    ours = sum(quality[pair].double().item() for pair in chosen)
    assert ours == pytest.approx(dense_total(quality), abs=1e-9 * max(1, len(chosen)))


kinds = st.sampled_from(["distinct", "ties", "identical rows", "plateau"])
sizes = st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 7, 31, 32, 33, 64, 300, 1000]))


@examples(30)
@given(sizes, seeds, kinds)
def test_reduced_problem_has_the_total_of_the_whole(
    size: tuple[int, int], seed: int, kind: str
) -> None:
    quality = random_quality(*size, seed, kind)
    check_against_dense(quality, one_to_one(quality))


def dense_value(value: Tensor, found: list[tuple[int, int]]) -> tuple[float, float]:
    """Return the total of the matching, and the largest one by SciPy on the whole matrix."""
    rows, columns = linear_sum_assignment(value.numpy(), maximize=True)
    return sum(value[pair].item() for pair in found), float(value.numpy()[rows, columns].sum())


@examples(60)
@given(
    sizes,
    seeds,
    st.sampled_from([0, 1, 3, 1000]),
    st.sampled_from([2, 100, 1000]),
    st.sampled_from([0.0, 0.003, 0.03, 0.5, 1.0]),
    st.integers(0, 50),
)
def test_problem_reduced_to_candidates_is_the_whole_one(
    size: tuple[int, int], seed: int, steps: int, farthest: int, share: float, shared: int
) -> None:
    """Aims of whole numbers add up in one matrix exactly: 10^12 per candidate, 10^6 per quality.

    Some objects have no candidates, share too few, or have all points as candidates.
    """
    rng = torch.Generator().manual_seed(seed)
    quality = torch.randint(0, steps + 1, size, generator=rng).float()
    distance = torch.randint(0, farthest, size, generator=rng).float()
    candidate = torch.rand(*size, generator=rng) < share
    if shared:
        candidate[:, shared:] = False
    value = torch.where(candidate, 1e12 + 1e6 * quality.double(), -distance.double())
    found = pairs(match(quality, candidate, lambda: distance, "lsa"))
    assert len(found) == len({g for g, _ in found}) == min(size)
    ours, best = dense_value(value, found)
    assert ours == best


def test_objects_without_candidates_beside_several_that_share_one() -> None:
    candidate = torch.zeros(5, 200, dtype=torch.bool)
    candidate[:3, 17] = True
    rng = torch.Generator().manual_seed(0)
    quality, distance = torch.rand(5, 200, generator=rng), torch.rand(5, 200, generator=rng)
    found = match(quality, candidate, lambda: distance, "lsa")
    assert found.object[17] == quality[:3, 17].argmax()
    value = torch.where(candidate, 100.0 + 10 * quality.double(), -distance.double())
    ours, best = dense_value(value, pairs(found))
    assert ours == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("best", [(3, 8, 40, 99), (0, 1, 2, 3), (64, 65)])
def test_of_a_few_equal_points_an_object_takes_the_first(best: tuple[int, ...]) -> None:
    quality = torch.linspace(0, 0.5, 100)[None]
    quality[0, list(best)] = 1.0
    assert pairs(one_to_one(quality)) == [(0, best[0])]
    assert pairs(best_of_each(quality)) == [(0, best[0])]
    everywhere, distance = torch.ones(1, 100, dtype=torch.bool), torch.zeros(1, 100)
    assert pairs(match(quality, everywhere, lambda: distance, "lsa")) == [(0, best[0])]
    assert pairs(match(quality, ~everywhere, lambda: 1 - quality, "lsa")) == [(0, best[0])]


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
@given(st.integers(0, 9), st.integers(1, 12), seeds, kinds, st.sampled_from([0.2, 1.0]))
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
    assert pairs(match(quality, everywhere, lambda: distance, "argmax")) == [(0, 0)]
    assert pairs(match(quality, everywhere, lambda: distance, "lsa")) == [(0, 0), (1, 1)]


def test_without_candidates_argmax_has_none_and_lsa_the_nearest() -> None:
    quality, distance = torch.tensor([[0.9, 0.1]]), torch.tensor([[5.0, 3.0]])
    nowhere = torch.zeros(1, 2, dtype=torch.bool)
    assert pairs(match(quality, nowhere, lambda: distance, "argmax")) == []
    assert pairs(match(quality, nowhere, lambda: distance, "lsa")) == [(0, 1)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_argmax_has_no_finite_degree_if_a_quality_is_not(bad: float) -> None:
    """The loss is then not finite, which is an error of its own."""
    quality = random_quality(2, 3, 0, "distinct")
    quality[1, 2] = bad
    assert best_of_each(quality).degree.isnan().all()
    candidate = torch.ones(2, 3, dtype=torch.bool)
    candidate[1, 2] = False
    assert best_of_each(quality, candidate).degree.isfinite().all()
