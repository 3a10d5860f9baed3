"""Verdicts on claims, against SciPy's tests and brute force."""

from math import isclose, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gaplab.results.verdicts import LEVEL, Evidence, Limit, Quantity, holm, judge
from tests.examples import FUZZ

seeds = st.lists(st.floats(-50, 50), min_size=3, max_size=8).filter(
    lambda values: max(values) - min(values) > 0.01
)


@given(seeds, st.floats(-60, 60))
def test_without_an_error_of_images_it_is_the_t_test(values: list[float], limit: float) -> None:
    quantity = Quantity(tuple(values))
    greater = stats.ttest_1samp(values, limit, alternative="greater")
    less = stats.ttest_1samp(values, limit, alternative="less")
    assert quantity.above(limit) == pytest.approx(greater.pvalue, abs=1e-9)
    assert quantity.below(limit) == pytest.approx(less.pvalue, abs=1e-9)
    low, high = greater.confidence_interval(0.975)[0], less.confidence_interval(0.975)[1]
    assert quantity.interval() == pytest.approx((low, high))


def test_with_equal_seeds_it_is_the_normal_distribution_of_the_images() -> None:
    quantity = Quantity((2.0, 2.0, 2.0), image_error=1.0)
    assert quantity.interval() == pytest.approx((2 - 1.959964, 2 + 1.959964))
    assert quantity.above(0) == pytest.approx(stats.norm.sf(2))


@given(seeds, st.floats(0.01, 10), st.floats(-60, 60))
def test_with_both_errors_it_lies_between_the_two_tests(
    values: list[float], error: float, limit: float
) -> None:
    quantity = Quantity(tuple(values), error)
    assert quantity.error**2 == pytest.approx(np.var(values, ddof=1) / len(values) + error**2)
    errors = (quantity.mean - limit) / quantity.error
    ends = sorted([stats.norm.sf(errors), stats.t.sf(errors, len(values) - 1)])
    assert ends[0] - 1e-9 <= quantity.above(limit) <= ends[1] + 1e-9
    assert quantity.above(limit) + quantity.below(limit) == pytest.approx(1)
    low, high = quantity.interval()
    assert quantity.above(low) == pytest.approx(0.025) == quantity.below(high)


@pytest.mark.parametrize(
    ("value", "limit", "verdict"),
    [
        (1.0, Limit(low=0), "holds"),
        (-1.0, Limit(low=0), "fails"),
        (0.01, Limit(low=0), "undecided"),
        (0.7, Limit(low=0.5), "holds"),
        (0.3, Limit(low=0.5), "fails"),
        (-1.0, Limit(high=0), "holds"),
        (1.0, Limit(high=0), "fails"),
        (0.01, Limit(-0.5, 0.5), "holds"),
        (1.0, Limit(-0.5, 0.5), "fails"),
        (-1.0, Limit(-0.5, 0.5), "fails"),
        (0.49, Limit(-0.5, 0.5), "undecided"),
    ],
)
def test_every_kind_of_limit(value: float, limit: Limit, verdict: str) -> None:
    quantity = Quantity((value - 0.02, value, value + 0.02))
    [(found, p)] = judge([Evidence((quantity,), limit)])
    assert found == verdict
    assert (p <= LEVEL / 2) is (verdict != "undecided")


def test_a_chain_holds_if_every_step_does_and_fails_if_one_fails() -> None:
    up, down = Quantity((0.9, 1.0, 1.1)), Quantity((-1.1, -1.0, -0.9))
    flat = Quantity((-0.1, 0.0, 0.1))
    for steps, expected in [
        ((up, up), "holds"),
        ((up, down), "fails"),
        ((up, flat), "undecided"),
        ((flat, down), "fails"),
    ]:
        chain = Evidence(steps, Limit(low=0))
        assert judge([chain])[0][0] == expected
        assert chain.deciding is min(steps, key=lambda each: each.mean)


def brute_holm(ps: list[float]) -> list[float]:
    """The largest, over the p values up to this one, of p times the number that are not smaller."""
    return [
        max(min(1.0, p * sum(other >= p for other in ps)) for p in ps if p <= mine) for mine in ps
    ]


@given(st.lists(st.floats(0, 1), max_size=6, unique=True))
def test_holm(ps: list[float]) -> None:
    assert all(map(isclose, holm(ps), brute_holm(ps)))


def test_more_claims_need_more_evidence() -> None:
    one = Evidence((Quantity((0.5, 0.6, 0.8)),), Limit(low=0))
    assert judge([one])[0][0] == "holds"
    assert {verdict for verdict, _ in judge([one] * 40)} == {"undecided"}
    assert judge([]) == []


def test_wrong_verdicts_are_as_rare_as_stated() -> None:
    """Ten claims whose quantity lies exactly at the limit, from normal seeds and images."""
    random, wrong, runs = np.random.default_rng(0), 0, 1000 if FUZZ else 100
    for _ in range(runs):
        shared = random.normal(0, 0.3)
        claims = [
            Evidence((Quantity(tuple(shared + random.normal(0, 0.5, 3)), 0.3),), Limit(low=0))
            for _ in range(10)
        ]
        wrong += any(verdict != "undecided" for verdict, _ in judge(claims))
    error = sqrt(LEVEL * (1 - LEVEL) / runs)
    assert wrong / runs < LEVEL + 2 * error


@pytest.mark.parametrize("values", [(1.0,), (1.0, 1.0, 1.0)])
def test_evidence_without_spread_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="two different values"):
        judge([Evidence((Quantity(values),), Limit(low=0))])
