"""Differences in words, and main effects of grids against a general linear model."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.results.comparison.compare import Group, compare
from gaplab.results.comparison.effects import EXPLAINED, explanation, in_words, main_effects
from gaplab.results.comparison.leaderboard import LeaderboardRow
from gaplab.states import TrialState
from tests.builders import leaderboard_row

KEYS = ("alpha", "k")


def row(alpha: Any, k: Any, seed: int = 0, ap: float = 30.0, **changes: Any) -> LeaderboardRow:
    config = {"alpha": alpha, "k": k, "seed": seed}
    return leaderboard_row(f"{alpha}-{k}-{seed}", seed=seed, ap=ap, config=config, **changes)


def explained(values: np.ndarray, design: list[Any]) -> float:
    """The sum of squares that a linear model of one indicator per level explains, in percent."""
    columns = np.array([[each == level for level in sorted(set(design))] for each in design])
    fit = columns @ np.linalg.lstsq(columns.astype(float), values, rcond=None)[0]
    return float(100 * ((fit - values.mean()) ** 2).sum() / ((values - values.mean()) ** 2).sum())


VALUES = st.floats(0, 100).map(lambda value: round(value, 2))
GRIDS = st.tuples(st.integers(2, 3), st.integers(2, 3), st.integers(1, 3)).flatmap(
    lambda sizes: st.tuples(
        st.just(sizes),
        st.lists(VALUES, min_size=int(np.prod(sizes)), max_size=int(np.prod(sizes)), unique=True),
    )
)


@given(GRIDS)
def test_shares_of_a_complete_grid(grid: tuple[tuple[int, int, int], list[float]]) -> None:
    sizes, aps = grid
    cells = list(product(*map(range, sizes)))
    rows = [row(a, k, seed, ap) for (a, k, seed), ap in zip(cells, aps, strict=True)]
    [found] = main_effects(compare(rows, KEYS))
    assert (found.balanced, found.measured) == (True, found.combinations)
    shares = {each.key: each.share["ap"] for each in found.effects}
    values = np.array(aps)
    for i, key in enumerate(KEYS):
        assert shares[key] == pytest.approx(explained(values, [cell[i] for cell in cells]))
        means = [values[[cell[i] == n for cell in cells]].mean() for n in range(sizes[i])]
        [effect] = [each for each in found.effects if each.key == key]
        assert effect.means["ap"] == pytest.approx(means)
        assert effect.levels == tuple(range(sizes[i]))
    together = explained(values, [cell[:2] for cell in cells])
    assert shares.get("within groups", 0.0) == pytest.approx(100 - together, abs=1e-6)
    assert sum(share for share in shares.values() if share) == pytest.approx(100)
    assert {metric for each in found.effects for metric in each.share} == set(EXPLAINED)


def test_an_incomplete_grid_says_so_and_has_no_interactions() -> None:
    rows = [row(alpha, k, ap=10.0 * alpha + k) for alpha in (1, 2) for k in (3, 4)]
    rows[3] = replace(rows[3], state=TrialState.RUNNING)
    [found] = main_effects(compare(rows, KEYS))
    assert (found.combinations, found.measured, found.balanced) == (4, 3, False)
    assert [each.key for each in found.effects] == ["alpha", "k"]
    assert "incomplete grid: 3 of 4 combinations have finished trials" in explanation(found)


def test_seeds_missing_from_some_groups() -> None:
    rows = [row(alpha, k, ap=10.0 * alpha + k) for alpha in (1, 2) for k in (3, 4)]
    [found] = main_effects(compare([*rows, row(1, 3, 1, ap=12.0)], KEYS))
    assert (found.combinations, found.measured, found.balanced) == (4, 4, False)
    assert "different numbers of trials" in explanation(found)
    assert "one trial per combination" not in explanation(found)


def test_one_seed_is_said() -> None:
    [found] = main_effects(compare([row(alpha, 3, ap=alpha) for alpha in (1, 2)], KEYS))
    assert explanation(found) == (
        "alpha explains most of the spread: 100.0 % of AP and 100.0 % of gap; one trial per "
        "combination: shares contain the spread over seeds"
    )


def test_equal_trials_have_no_shares() -> None:
    [found] = main_effects(compare([row(alpha, 3) for alpha in (1, 2)], KEYS))
    assert [each.share for each in found.effects] == [{"ap": None, "gap": None}]
    assert explanation(found) == ""


def test_values_that_some_trials_lack_are_a_level() -> None:
    rows = [row(alpha, 1, ap=ap) for alpha, ap in (("x", 1.0), (None, 2.0), (0.5, 3.0), (10, 4.0))]
    [found] = main_effects(compare(rows, KEYS))
    assert found.effects[0].levels == (0.5, 10, "x", None)
    assert found.effects[0].means["ap"] == (3.0, 4.0, 1.0, 2.0)


def test_what_is_not_compared_is_not_explained_together() -> None:
    rows = [row(1, 2), row(2, 2, ap=31.0), row(1, 2, dataset="cells")]
    assert [len(grid.groups) for grid in main_effects(compare(rows, KEYS))] == [1, 2]
    assert main_effects(compare([row(1, 2, state=TrialState.RUNNING)], KEYS)) == []


def two(*differences: float, seeds: int = 3, first: int = 0) -> Group:
    """The group of the lower AP; `differences` are those to the baseline."""
    rows = [row(1, 0, seed, ap=50.0 + seed) for seed in range(seeds)]
    rows += [row(2, 0, seed, ap=50.0 + seed + each) for seed, each in enumerate(differences, first)]
    return next(group for group in compare(rows, KEYS, to="alpha=1") if group.keys["alpha"] == 2)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (two(-2.0, -2.1, -1.9), "worse by 2.0 AP"),
        (two(2.0, 2.1, 1.9), "better by 2.0 AP"),
        (two(0.01, 0.011, 0.012), "better by 0.01 AP"),
        (two(-2.0, 3.0, 0.5), "no difference shown"),
        (two(-2.0, seeds=1), "one seed"),
        (two(-2.0, seeds=3), "one seed"),
        (two(-2.0, -2.0), "same each seed"),
        (two(-2.0, -2.1, first=7), "not paired"),
    ],
)
def test_differences_in_words(group: Group, words: str) -> None:
    assert in_words(group, "ap") == words


def test_words_for_other_metrics_and_the_baseline() -> None:
    assert in_words(two(-2.0, -2.1, -1.9), "gap") == "gap lower by 2.0"
    assert in_words(two(2.0, 2.1, 1.9), "gap") == "gap higher by 2.0"
    [alone] = compare([row(1, 2)], KEYS)
    assert in_words(alone, "ap") == "baseline"
    [running] = compare([row(1, 2, state=TrialState.RUNNING)], KEYS)
    assert in_words(running, "ap") == ""
