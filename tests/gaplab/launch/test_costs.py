"""Estimates from the costs of earlier trials."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.launch.costs import estimate, makespan
from gaplab.ledger.views import CostKey, MeanCost
from gaplab.records import TrialRecord


def trial(assignment: str = "poto", dataset: str = "shapes", epochs: int = 12) -> TrialRecord:
    return TrialRecord("0" * 12, {}, assignment, "o2o", dataset, 0, epochs, 1)


def test_the_cost_of_the_same_kind_of_trial_is_used_first() -> None:
    costs = {
        CostKey("shapes", "poto", 12): MeanCost(60.0, 50.0, 0.0, 3),
        CostKey("shapes", "fcos", 6): MeanCost(6.0, 6.0, 0.0, 1),
    }
    found = estimate([trial()], costs, at_once=1)
    assert (found.wall_seconds, found.cpu_seconds, found.unknown) == (60.0, 50.0, 0)


def test_a_new_assignment_costs_as_others_on_the_data_set_by_epochs() -> None:
    costs = {
        CostKey("shapes", "poto", 10): MeanCost(100.0, 90.0, 10.0, 2),
        CostKey("shapes", "fcos", 5): MeanCost(20.0, 15.0, 10.0, 1),
        CostKey("coco", "dual", 12): MeanCost(1e6, 1e6, 1e6, 1),
    }
    found = estimate([trial("dual", epochs=20)], costs, at_once=1)
    assert found.wall_seconds == pytest.approx(20 * (10 + 4) / 2)
    assert found.gpu_seconds == pytest.approx(20 * (1 + 2) / 2)


def test_trials_without_precedent_are_left_out() -> None:
    found = estimate([trial(dataset="coco"), trial()], {}, at_once=2)
    assert (found.unknown, found.wall_seconds, found.gpu_seconds) == (2, 0.0, 0.0)


@given(st.lists(st.integers(1, 9).map(float), max_size=6), st.integers(1, 3))
def test_makespan_equals_list_scheduling(jobs: list[float], slots: int) -> None:
    ends: list[list[float]] = [[] for _ in range(slots)]
    for job in jobs:
        min(ends, key=sum).append(job)
    assert makespan(jobs, slots) == max(map(sum, ends))
    best = min(
        (
            max(sum(j for j, p in zip(jobs, chosen, strict=True) if p == k) for k in range(slots))
            for chosen in itertools.product(range(slots), repeat=len(jobs))
        ),
        default=0.0,
    )
    assert best <= makespan(jobs, slots) <= sum(jobs)
