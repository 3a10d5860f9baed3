import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from detectors.evaluation.bootstrap import Replicates
from gaplab.results.intervals import Interval, Metric, Resampled, mean_interval, paired

VALUES = st.floats(0, 100).map(lambda value: round(value, 3))


@given(st.lists(VALUES, min_size=2, max_size=9).filter(lambda each: len(set(each)) > 1))
def test_mean_interval_equals_scipys(values: list[float]) -> None:
    expected = scipy.stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values)
    )
    assert mean_interval(values) == pytest.approx(expected)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=9))
def test_paired_equals_scipys(pairs: list[tuple[float, float]]) -> None:
    mine, theirs = (list(each) for each in zip(*pairs, strict=True))
    found = paired(mine, theirs)
    assert found.mean == pytest.approx(np.mean(mine) - np.mean(theirs), abs=1e-9)
    if np.ptp(np.subtract(mine, theirs)) > 1e-9:
        expected = scipy.stats.ttest_rel(mine, theirs)
        assert found.p == pytest.approx(expected.pvalue, abs=1e-12)
        assert found.interval == pytest.approx(expected.confidence_interval(), abs=1e-9)


def test_no_interval_of_one_value() -> None:
    assert mean_interval([]) is mean_interval([3.0]) is None


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_no_interval_of_equal_values(value: float) -> None:
    assert mean_interval([value] * 3) is None


@pytest.mark.parametrize("theirs", [[0.5, 1.5], [1.0, 2.0], [0.9 + 1e-12, 1.9]])
def test_no_interval_and_no_p_of_equal_differences(theirs: list[float]) -> None:
    found = paired([1.0, 2.0], theirs)
    assert found.mean == pytest.approx(1.0 - theirs[0])
    assert (found.interval, found.p) == (None, None)


@pytest.mark.parametrize(
    ("low", "high", "real"),
    [(0.1, 2.0, True), (-2.0, -0.1, True), (-1.0, 1.0, False), (0.0, 1.0, False)],
)
def test_excludes_zero(low: float, high: float, real: bool) -> None:
    assert Interval(low, high).excludes_zero is real


def test_rounding_errors_are_no_difference() -> None:
    assert not Interval(1e-14, 1e-14).excludes_zero
    assert not Interval(-1e-14, -1e-14).excludes_zero


def test_over_images() -> None:
    steps = np.linspace(0, 10, 201)
    mine = Resampled("a", 20, Replicates(50 + steps, 40 + steps[::-1]))
    found = mine.intervals({"ap": 55.0, "ap_nms": 45.0, "gap": 10.0, "ar": 1.0})
    assert found["ap"] == pytest.approx((50.25, 59.75))
    assert found["ap_nms"] == pytest.approx((40.25, 49.75))
    assert found["gap"] == pytest.approx((0.5, 19.5))
    assert set(found) == {"ap", "ap_nms", "gap"}


def test_differences_over_images_are_paired() -> None:
    steps = np.linspace(0, 10, 201)
    mine = Resampled("a", 20, Replicates(50 + steps, 40 + steps))
    other = Resampled("a", 20, Replicates(20 + steps, 60 - steps))
    around: dict[Metric, float] = {"ap": 30.0, "ap_nms": -10.0, "gap": 40.0}
    found = mine.intervals(around, less=other)
    assert found["ap"] == pytest.approx((30.0, 30.0))
    assert found["ap_nms"] == pytest.approx((-19.5, -0.5))
    assert found["gap"] == pytest.approx((30.5, 49.5))
    assert mine.intervals(around, less=Resampled("b", 20, other.replicates)) == {}


@pytest.mark.parametrize(
    ("truths", "paired"),
    [(("a", "a"), True), (("a", "b"), False), (("", "b"), True), (("", ""), True)],
)
def test_differences_are_against_one_ground_truth(truths: tuple[str, str], paired: bool) -> None:
    """Older results, whose ground truth is unknown, are paired by their images."""
    replicates = Replicates(np.linspace(50, 60, 201), np.linspace(40, 50, 201))
    mine, other = (Resampled("a", 20, replicates, truth) for truth in truths)
    assert bool(mine.intervals({"ap": 0.0}, less=other)) is paired


@pytest.mark.parametrize("images", [1, 6, 19])
def test_few_images_give_no_interval(images: int) -> None:
    replicates = Replicates(np.linspace(50, 60, 201), np.linspace(40, 50, 201))
    few, enough = Resampled("a", images, replicates), Resampled("a", 20, replicates)
    around: dict[Metric, float] = {"ap": 55.0, "ap_nms": 45.0, "gap": 10.0}
    assert few.intervals(around) == few.intervals(around, less=few) == {}
    assert enough.intervals(around).keys() == {"ap", "ap_nms", "gap"}


@given(st.floats(0, 100), st.floats(0, 100))
def test_intervals_lie_around_the_measured_values(ap: float, bias: float) -> None:
    """Resamples have a bias; a difference has the difference of the two biases."""
    steps = np.linspace(-1, 1, 201)
    mine = Resampled("a", 20, Replicates(ap + bias + steps, 40 + steps))
    other = Resampled("a", 20, Replicates(ap - bias - steps, 40 + steps))
    assert mine.intervals({"ap": ap})["ap"] == pytest.approx((ap - 0.95, ap + 0.95))
    assert mine.intervals({"ap": 3.0}, less=other)["ap"] == pytest.approx((1.1, 4.9))


def test_the_module_is_imported_without_numpy() -> None:
    modules = ["numpy", "scipy", "torch"]
    code = (
        f"import sys, gaplab.results.intervals; print([m for m in {modules} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
