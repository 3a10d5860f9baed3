"""Which failure of a worker explains the failure of its group."""

import pytest
from ray.exceptions import ActorDiedError

from detectors.data.base import DataError
from detectors.engine import NonFiniteLossError
from gaplab.launch.attempt import LostError
from gaplab.launch.ray.train import find_cause

DEAD, ELSEWHERE = ActorDiedError(), RuntimeError("Connection closed by peer")
WRONG, DIVERGED = DataError(["no such file"]), NonFiniteLossError("loss is not finite")


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([WRONG], WRONG),
        ([DEAD, WRONG], WRONG),
        ([ELSEWHERE, DIVERGED, DEAD], DIVERGED),
        ([ELSEWHERE], ELSEWHERE),
        ([MemoryError(), DEAD], MemoryError),
    ],
)
def test_a_known_fault_comes_first(
    failures: list[Exception], expected: Exception | type[Exception]
) -> None:
    found = find_cause(failures)
    assert found is expected or type(found) is expected


@pytest.mark.parametrize("failures", [[DEAD], [ELSEWHERE, DEAD], [DEAD, ELSEWHERE]])
def test_a_death_explains_lost_connections(failures: list[Exception]) -> None:
    found = find_cause(failures)
    assert isinstance(found, LostError)
    assert str(found) == str(DEAD)
