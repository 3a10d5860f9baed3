"""Random samples: within their domains, stable, different, and correctly distributed."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gaplab.spec.sampling import (
    Choices,
    Integers,
    Reals,
    dimensions,
    draws,
    number_type,
    remarks,
    samples,
    uniform,
)
from gaplab.spec.search import Domain, SearchOptions

LR, K, BOX = "training.lr", "assignment.k", "detector.box"
PINNED: list[list[Any]] = [
    [0.000172237, 7, "relu", 0.58786, 0.8],
    [0.000890307, 3, "softplus", 0.45778, 1.5],
    [0.00033651, 9, "relu", 0.737387, 1.2],
]


def search(space: dict[str, Any], trials: int = 20, **more: Any) -> SearchOptions:
    return SearchOptions.model_validate({"space": space, "trials": trials} | more)


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.floats(1e-6, 1e3))
    high = low * draw(st.floats(1.01, 1e3))
    form = draw(st.sampled_from(["plain", "log", "step"]))
    if form == "step":
        return {"low": low, "high": high, "step": (high - low) / draw(st.floats(0.5, 20))}
    return {"low": low, "high": high} | ({"log": True} if form == "log" else {})


@st.composite
def integer_ranges(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(1, 50))
    found: dict[str, Any] = {"low": low, "high": low + draw(st.integers(1, 60))}
    extras: list[dict[str, Any]] = [{}, {"log": True}, {"step": draw(st.integers(1, 9))}]
    extra: dict[str, Any] = draw(st.sampled_from(extras))
    return found | extra


@settings(max_examples=30)
@given(ranges(), st.floats(0, 1, exclude_max=True))
def test_a_real_number_is_in_its_range(form: dict[str, Any], at: float) -> None:
    (found,) = dimensions({LR: Domain.model_validate(form)}).values()
    assert isinstance(found, Reals)
    value = found.at(at)
    assert form["low"] <= value <= form["high"]
    if "step" in form:
        steps = (value - form["low"]) / form["step"]
        assert steps == pytest.approx(round(steps), abs=1e-6)
        assert round(steps) == int(
            at * (int((form["high"] - form["low"]) / form["step"] + 1e-9) + 1)
        )
        return
    exact = (
        form["low"] ** (1 - at) * form["high"] ** at
        if form.get("log")
        else (1 - at) * form["low"] + at * form["high"]
    )
    assert value == pytest.approx(exact, rel=1e-5)


@settings(max_examples=30)
@given(integer_ranges(), st.floats(0, 1, exclude_max=True))
def test_an_integer_is_in_its_range(form: dict[str, Any], at: float) -> None:
    (found,) = dimensions({K: Domain.model_validate(form)}).values()
    assert isinstance(found, Integers)
    values = range(form["low"], form["high"] + 1, form.get("step", 1))
    assert type(found.at(at)) is int
    assert found.at(at) in values
    assert found.count == len(values)
    assert found.at(0.0) == values[0]
    assert found.at(1 - 2**-53) == values[-1]


def test_the_number_type_of_a_key_is_that_of_its_field() -> None:
    assert number_type("training.lr") is float
    assert number_type("assignment.k") is int
    assert number_type("evaluation.protocol.level_range") is int  # or null
    for key in ("detector.box", "detector.backbone.depth", "assignment", "no.such"):
        assert number_type(key) is None
    for key in ("detector.anchors.ratios", "assignment.level_range", "data.portrait"):
        assert number_type(key) is None


def test_samples_of_a_seed_never_change() -> None:
    """These values are part of trial ids: if they change, every search is trained again."""
    space = {
        LR: {"low": 1e-4, "high": 1e-2, "log": True},
        K: {"low": 1, "high": 9, "step": 2},
        BOX: {"choices": ["relu", "softplus"]},
        "assignment.alpha": {"low": 0.2, "high": 0.8},
        "assignment.radius": {"low": 0.5, "high": 2, "step": 0.1},
    }
    found = samples(search(space, 3))
    assert [list(each.values()) for each in found] == PINNED


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 30), st.integers(0, 30))
def test_more_trials_keep_the_earlier_samples(seed: int, few: int, more: int) -> None:
    space = {K: {"low": 1, "high": 9}, BOX: {"choices": ["relu", "softplus"]}}
    first = samples(search(space, few, seed=seed))
    assert samples(search(space, few + more, seed=seed))[: len(first)] == first


def test_neither_the_order_of_keys_nor_another_key_changes_a_value() -> None:
    one = {LR: {"low": 0.1, "high": 1}, K: {"low": 1, "high": 1000}}
    other = {BOX: {"choices": ["relu", "exp"]}, K: one[K], LR: one[LR]}
    pairs = zip(samples(search(one)), samples(search(other)), strict=True)
    assert all(a == {key: b[key] for key in one} for a, b in pairs)


def test_another_seed_gives_other_samples() -> None:
    space = {LR: {"low": 0.1, "high": 1}}
    assert samples(search(space)) != samples(search(space, seed=1))


@settings(max_examples=20)
@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
    st.integers(0, 5),
    st.integers(1, 40),
)
def test_a_small_space_is_exhausted(choices: list[int], span: int, trials: int) -> None:
    space = {"seed": {"choices": choices}, K: {"low": 1, "high": 2 + span}}
    every = set(itertools.product(choices, range(1, 3 + span)))
    found = samples(search(space, trials))
    pairs = [tuple(each.values()) for each in found]
    assert len(set(pairs)) == len(pairs) == min(trials, len(every))
    assert set(pairs) <= every
    notes = remarks(search(space, trials), trials - len(found))
    if trials > len(every):
        text = f"search: {trials} samples requested, but the space has only {len(every)}"
        assert notes == (text,)
    else:
        assert notes == ()


def test_a_range_narrower_than_the_rounding_is_exhausted() -> None:
    narrow = {LR: {"low": 0.1234561, "high": 0.1234569}}
    found = [each[LR] for each in draws(search(narrow))]
    assert sorted(found) == [
        0.1234561,
        0.1234569,
    ]  # all others are clipped to an end


def test_equal_choices_count_once() -> None:
    assert len(samples(search({BOX: {"choices": ["relu", "relu", "exp"]}}))) == 2


def test_uniform_numbers_are_uniform() -> None:
    """Chi-squared test with ten bins: with 9 degrees of freedom, 99.9 % are below 27.9."""
    drawn = [uniform(seed, n, key) for seed in (0, 1) for n in range(2000) for key in (LR, K)]
    counts = Counter(int(10 * each) for each in drawn)
    assert sum((counts[i] - 800) ** 2 / 800 for i in range(10)) < 27.9


def test_integers_on_a_log_scale_have_the_right_frequencies() -> None:
    found = Integers(1, 9, 1, log=True)
    counts = Counter(found.at((i + 0.5) / 10_000) for i in range(10_000))
    for value in range(1, 10):
        part = math.log((value + 0.5) / (value - 0.5)) / math.log(9.5 / 0.5)
        assert counts[value] / 10_000 == pytest.approx(part, abs=2e-4)


def test_choices_keep_their_types() -> None:
    values = ({"name": "poto"}, None, 1, 1.5, [1, 2])
    found = Choices(values)
    assert [found.at((i + 0.5) / 5) for i in range(5)] == list(values)


def test_without_a_search_there_are_no_remarks() -> None:
    assert remarks(None, 0) == ()
    with pytest.raises(ValidationError):
        search({})
