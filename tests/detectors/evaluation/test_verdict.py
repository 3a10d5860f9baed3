from math import inf, nan

import numpy as np
import pytest

from detectors.evaluation.verdict import NEED, Verdict, needs_nms

SMALLEST = float(np.spacing(NEED))


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-2.3, -1.5), "yes"),
        ((-1.4, -1 - SMALLEST), "yes"),
        ((-1.4, -1.0), "undecided"),
        ((-1.4, -0.6), "undecided"),
        ((-1.4, 0.6), "undecided"),
        ((-1 - SMALLEST, -0.6), "undecided"),
        ((-1.0, -0.6), "no"),
        ((-0.1, 0.3), "no"),
        ((1.5, 2.5), "no"),
        ((-1.0, -1.0), "no"),
        ((0.0, 0.0), "no"),
        (None, "undecided"),
    ],
)
def test_the_interval_decides(interval: tuple[float, float] | None, verdict: Verdict) -> None:
    assert needs_nms(interval) == verdict


@pytest.mark.parametrize(
    ("need", "verdict"), [(0, "yes"), (0.4, "yes"), (0.5, "undecided"), (0.8, "no"), (1, "no")]
)
def test_another_need(need: float, verdict: Verdict) -> None:
    assert needs_nms((-0.8, -0.5), need) == verdict


def test_without_any_need_a_loss_by_nms_is_no() -> None:
    assert needs_nms((0.0, 0.1), 0) == "no"


@pytest.mark.parametrize("interval", [(nan, 1.0), (-1.0, nan), (-inf, 0.0), (0.0, inf), (1.0, 0.0)])
def test_intervals_that_are_none(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="interval"):
        needs_nms(interval)


@pytest.mark.parametrize("need", [-0.1, nan, inf])
def test_needs_that_are_none(need: float) -> None:
    with pytest.raises(ValueError, match="need"):
        needs_nms((-2.0, -1.0), need)
