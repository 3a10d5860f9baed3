"""Orders to stop, and how ranks agree on them."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors.world import LocalWorld
from gaplab.records import Cost, EpochDone
from gaplab.states import TrialState
from gaplab.trial.control import NO_CONTROL, NullControl, Stop, Stopped, any_rank, first_order

CPU = torch.device("cpu")
DONE = EpochDone("0123456789ab", 1, 2, {}, (), "", Cost())


def test_a_trial_without_control_continues() -> None:
    assert NO_CONTROL.order() is None
    assert NO_CONTROL.order() is None
    assert NO_CONTROL.may_continue(DONE)
    NO_CONTROL.beat()


def test_an_order_can_be_pickled() -> None:
    order = Stopped(Stop(TrialState.PREEMPTED, "spot"), Cost(1.0, 2.0, 3.0, 4.0))
    again = pickle.loads(pickle.dumps(order))
    assert (again.stop, again.cost) == (order.stop, order.cost)
    assert isinstance(pickle.loads(pickle.dumps(NO_CONTROL)), NullControl)


class ThreeRanks:
    """Rank `rank` of three; the flags and orders of the others are given."""

    size = 3

    def __init__(self, rank: int, flags: Tensor, orders: list[Stop | None]) -> None:
        self.rank, self._flags, self._orders = rank, flags, orders

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return (value + self._flags) / 3

    def gather(self, value: Any) -> list[Any]:
        orders = [*self._orders]
        orders.insert(self.rank, value)
        return orders if self.rank == 0 else []


@pytest.mark.parametrize("mine", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("others", [(0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (2.0, 1.0)])
def test_a_flag_of_any_rank_is_true_for_all(
    mine: tuple[bool, bool], others: tuple[float, float]
) -> None:
    world = ThreeRanks(1, torch.tensor(others), [])
    expected = tuple(a or b > 0 for a, b in zip(mine, others, strict=True))
    assert any_rank(world, CPU, *mine) == expected


def test_a_single_rank_exchanges_nothing() -> None:
    class Alone(LocalWorld):
        def all_reduce_mean(self, value: Tensor) -> Tensor:
            raise AssertionError("nothing to share")

    assert any_rank(Alone(), CPU, True, False) == (True, False)


A, B = Stop(TrialState.CANCELLED, "a"), Stop(TrialState.PREEMPTED, "b")


@pytest.mark.parametrize(
    ("rank", "mine", "others", "expected"),
    [
        (0, None, [A, B], A),
        (0, None, [None, B], B),
        (0, B, [A, None], B),
        (1, None, [A, B], Stop(TrialState.INTERRUPTED, "another worker received an order to stop")),
        (1, A, [B, None], A),
    ],
)
def test_rank_0_obeys_the_order_of_the_lowest_rank(
    rank: int, mine: Stop | None, others: list[Stop | None], expected: Stop
) -> None:
    assert first_order(ThreeRanks(rank, torch.zeros(1), others), mine) == expected
