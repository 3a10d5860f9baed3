"""The section `run` of a spec."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gaplab.launch.decisions import RETRIED
from gaplab.spec.models import Policy


@given(first=st.floats(0, 3600), failures=st.integers(1, 101))
@settings(max_examples=30)
def test_backoff_doubles_up_to_five_minutes(first: float, failures: int) -> None:
    policy, wanted = Policy(backoff_seconds=first), first
    for _ in range(failures - 1):
        wanted = min(300.0, 2 * wanted)
    assert policy.backoff(failures) == pytest.approx(min(300.0, wanted))


def test_backoff_never_decreases() -> None:
    waits = [Policy(retries=100).backoff(failures) for failures in range(1, 102)]
    assert waits[:3] == [5.0, 10.0, 20.0]
    assert waits[-1] == 300.0
    assert all(a <= b for a, b in pairwise(waits))


def test_the_wait_may_be_zero() -> None:
    assert [Policy(backoff_seconds=0).backoff(n) for n in (1, 50)] == [0.0, 0.0]


def test_failures_of_the_input_or_of_storage_are_not_retried() -> None:
    assert set(RETRIED) == {"", "lost", "memory", "hang", "error"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"retries": -1},
        {"retries": 101},
        {"backoff_seconds": -1.0},
        {"backoff_seconds": float("nan")},
        {"on_failure": "pause"},
        {"identical": 0, "on_failure": "stop_after_n_identical"},
        {"at_once": 0},
        {"lease_seconds": 0.5},
        {"grace_seconds": -0.1},
        {"priority": 1001},
        {"retry": 1},
    ],
)
def test_invalid_values_are_rejected(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Policy.model_validate(wrong)


@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_identical_is_rejected_without_its_rule(on_failure: str) -> None:
    with pytest.raises(ValidationError, match="identical: only used with on_failure: stop_after"):
        Policy.model_validate({"identical": 4, "on_failure": on_failure})
    rule = Policy.model_validate({"identical": 4, "on_failure": "stop_after_n_identical"})
    assert rule.identical == 4
