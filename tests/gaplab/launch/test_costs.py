"""Estimates from what trials have cost before."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.launch.costs import estimate, makespan
from gaplab.ledger.views import CostKey, MeanCost
from gaplab.records import TrialRecord


def trial(assignment: str = "poto", dataset: str = "shapes", epochs: int = 12) -> TrialRecord:
    return TrialRecord("0" * 12, {}, assignment, "o2o", dataset, 0, epochs, 1)


def test_own_kind_goes_before_the_data_set() -> None:
    costs = {
        CostKey("shapes", "poto", 12): MeanCost(60.0, 50.0, 0.0, 3),
        CostKey("shapes", "fcos", 6): MeanCost(6.0, 6.0, 0.0, 1),
    }
    found = estimate([trial()], costs, at_once=1)
    assert (found.wall_seconds, found.cpu_seconds, found.unknown) == (60.0, 50.0, 0)


def test_a_new_kind_is_scaled_by_epochs_from_its_data_set() -> None:
    costs = {
        CostKey("shapes", "poto", 10): MeanCost(100.0, 90.0, 10.0, 2),
        CostKey("shapes", "fcos", 5): MeanCost(20.0, 15.0, 10.0, 1),
        CostKey("coco", "dual", 12): MeanCost(1e6, 1e6, 1e6, 1),
    }
    found = estimate([trial("dual", epochs=20)], costs, at_once=1)
    assert found.wall_seconds == pytest.approx(20 * (10 + 4) / 2)
    assert found.gpu_seconds == pytest.approx(20 * (1 + 2) / 2)


def test_without_precedent_nothing_is_invented() -> None:
    found = estimate([trial(dataset="coco"), trial()], {}, at_once=2)
    assert (found.unknown, found.wall_seconds, found.gpu_seconds) == (2, 0.0, 0.0)


@given(st.lists(st.integers(1, 9).map(float), max_size=6), st.integers(1, 3))
def test_makespan_is_that_of_list_scheduling(jobs: list[float], places: int) -> None:
    ends: list[list[float]] = [[] for _ in range(places)]
    for job in jobs:
        min(ends, key=sum).append(job)
    assert makespan(jobs, places) == max(map(sum, ends))
    best = min(
        (
            max(sum(j for j, p in zip(jobs, chosen, strict=True) if p == k) for k in range(places))
            for chosen in itertools.product(range(places), repeat=len(jobs))
        ),
        default=0.0,
    )
    assert best <= makespan(jobs, places) <= sum(jobs)
