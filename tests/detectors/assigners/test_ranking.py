from collections.abc import Sequence
from itertools import groupby
from math import inf
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.assigners.ranking import (
    above_threshold,
    best_counted,
    best_object,
    best_per_level,
    best_points,
    dynamic_counts,
)
from detectors.models.points import pyramid_points
from tests.examples import examples

POINTS = pyramid_points([(3, 4), (2, 2), (1, 1)], (4, 8, 16), torch.device("cpu"))
# Few values, many ties.
value = st.sampled_from([0.0, 0.1, 0.25, 0.7, 1.0])
Rows = list[list[float]]


def rows(width: int) -> st.SearchStrategy[Rows]:
    return st.lists(st.lists(value, min_size=width, max_size=width), max_size=4)


def matrix(values: Rows, width: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, width)


def first_best(values: Sequence[float], count: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda n: (-values[n], n))[:count])


def chosen(mask: Tensor) -> list[set[int]]:
    return [{n for n, yes in enumerate(row) if yes} for row in mask.tolist()]


@examples(30)
@given(st.integers(1, 9).flatmap(rows), st.integers(1, 12))
def test_best_points_are_the_first_of_a_stable_sort(values: Rows, count: int) -> None:
    width = len(values[0]) if values else 3
    found = best_points(matrix(values, width), count)
    assert found.shape == (len(values), width)
    assert chosen(found) == [first_best(row, count) for row in values]


@examples(30)
@given(rows(len(POINTS)), st.integers(1, 12))
def test_best_of_every_level_by_itself(values: Rows, count: int) -> None:
    """The levels have 12, 4 and 1 points: fewer than `count` are all taken."""
    expected: list[set[int]] = []
    for row in values:
        taken: set[int] = set()
        for _, group in groupby(range(len(POINTS)), key=POINTS.level.tolist().__getitem__):
            members = list(group)
            best = first_best([row[n] for n in members], count)
            taken |= {members[rank] for rank in best}
        expected.append(taken)
    assert chosen(best_per_level(matrix(values, len(POINTS)), POINTS, count)) == expected


@examples(30)
@given(rows(6), st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=4, max_size=4))
def test_the_threshold_is_a_mean_and_an_unbiased_deviation(
    values: Rows, candidate: list[list[bool]]
) -> None:
    given_values = matrix(values, 6)
    mask = torch.tensor(candidate[: len(values)], dtype=torch.bool).reshape(-1, 6)
    expected = []
    for row, allowed in zip(given_values.tolist(), mask.tolist(), strict=True):
        members = [v for v, yes in zip(row, allowed, strict=True) if yes]
        deviation = stdev(members) if len(members) > 1 else 0.0
        least = mean(members) + deviation if members else inf
        expected.append({n for n in range(6) if allowed[n] and row[n] >= least})
    assert chosen(above_threshold(given_values, mask)) == expected


@pytest.mark.parametrize("count", [1, 3, 7, 45])
def test_equal_candidates_all_stand_out(count: int) -> None:
    """In float32 the mean of equal values may round above them."""
    rng = torch.Generator().manual_seed(0)
    values = torch.rand(200, 1, generator=rng).expand(200, count)
    assert above_threshold(values, torch.ones(200, count, dtype=torch.bool)).all()


def test_a_lone_candidate_stands_out_and_none_of_no_candidates() -> None:
    values = torch.tensor([[0.1, 0.9], [0.0, 0.5], [0.3, 0.3]])
    candidate = torch.tensor([[True, False], [True, False], [False, False]])
    assert torch.equal(above_threshold(values, candidate), candidate)


@examples(30)
@given(
    rows(5).filter(bool),
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=4, max_size=4),
)
def test_best_object_point_by_point(values: Rows, candidate: list[list[bool]]) -> None:
    mask = torch.tensor(candidate[: len(values)], dtype=torch.bool).reshape(-1, 5)
    found = best_object(matrix(values, 5), mask)
    expected = []
    for n in range(5):
        rivals = [g for g in range(len(values)) if candidate[g][n]]
        expected.append(min(rivals, key=lambda g: (-values[g][n], g), default=-1))
    assert found.object.tolist() == expected
    assert found.object.dtype == torch.int64
    assert found.degree.tolist() == [float(g >= 0) for g in expected]
    assert found.weight is None


def test_one_value_for_all_points_of_an_object() -> None:
    candidate = torch.tensor([[True, True, False], [False, True, False]])
    assert best_object(torch.tensor([[-9.0], [-4.0]]), candidate).object.tolist() == [0, 1, -1]


@pytest.mark.parametrize("most", [1, 3, 9])
def test_best_counted_is_best_points_with_a_count_per_object(most: int) -> None:
    rng = torch.Generator().manual_seed(most)
    value = torch.randint(4, (2, 5, 6), generator=rng).float()
    count = torch.randint(1, most + 1, (2, 5), generator=rng)
    found = best_counted(value, count, most)
    for image in range(2):
        for g in range(5):
            assert torch.equal(found[image, g], best_points(value[image, g], int(count[image, g])))


def test_dynamic_counts_are_the_sums_of_the_best_ious_and_at_least_one() -> None:
    iou = torch.tensor([[0.9, 0.0, 0.8, 0.7], [0.1, 0.1, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]])
    assert dynamic_counts(iou, 3).tolist() == [2, 1, 3]
    assert dynamic_counts(iou, 10).tolist() == [2, 1, 4]
