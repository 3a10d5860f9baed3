"""Count host synchronisations, of single operations and of training steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detectors.engine import train_step
from detectors.synchronisations import count_synchronisations, host_seconds, on_host
from tests.detectors import miniature as mini

VALUES, MASK = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, True])
WAITING: dict[str, Callable[[], object]] = {
    "item": lambda: VALUES[0].item(),
    "float": lambda: float(VALUES[0]),
    "bool": lambda: bool(MASK.any()),
    "if": lambda: 1 if VALUES.sum() > 0 else 0,
    "tolist": VALUES.tolist,
    "cpu": VALUES.cpu,
    "nonzero": MASK.nonzero,
    "nonzero of a tuple": lambda: MASK.nonzero(as_tuple=True),
    "where": lambda: torch.where(MASK),
    "unique": lambda: torch.unique(VALUES),
    "unique_consecutive": lambda: torch.unique_consecutive(VALUES),
    "a mask": lambda: VALUES[MASK],
    "masked_select": lambda: VALUES.masked_select(MASK),
    "assignment to a mask": lambda: VALUES.clone().__setitem__(MASK, VALUES[:2]),
    "a list": lambda: VALUES[[0, 2]],
    "bincount": lambda: torch.arange(3).bincount(),
    "repeat by a tensor": lambda: VALUES.repeat_interleave(torch.tensor([1, 0, 2])),
    "new numbers": lambda: torch.tensor([1.0], device="cpu"),
    "new_tensor": lambda: VALUES.new_tensor([1.0]),
    "to a device": lambda: VALUES.to("cpu"),
    "equal": lambda: torch.equal(VALUES, VALUES),
}
DENSE: dict[str, Callable[[], object]] = {
    "where with values": lambda: torch.where(MASK, VALUES, 0.0),
    "gather": lambda: VALUES[torch.tensor([0, 2])],
    "scatter": lambda: VALUES.scatter(0, torch.tensor([1]), 5.0),
    "masked_fill": lambda: VALUES.masked_fill(MASK, 0.0),
    "sums": lambda: (VALUES * MASK).sum() / MASK.sum().clamp(min=1),
    "topk": lambda: VALUES.topk(2).values,
    "repeat by a number": lambda: VALUES.repeat_interleave(2),
    "copy without waiting": lambda: VALUES.to("cpu", non_blocking=True),
    "to numpy, where it is on the host": VALUES.numpy,
    "another type": lambda: VALUES.to(torch.float64),
    "constants": lambda: torch.full((3,), 1.0, device="cpu"),
}


@pytest.mark.parametrize("name", WAITING)
def test_an_operation_that_needs_values_or_copies_is_counted_once(name: str) -> None:
    with count_synchronisations() as found:
        WAITING[name]()
    assert found.total() == 1, found


@pytest.mark.parametrize("name", DENSE)
def test_an_operation_on_the_device_is_not_counted(name: str) -> None:
    with count_synchronisations() as found:
        DENSE[name]()
    assert not found, found


def test_the_backward_pass_is_counted() -> None:
    class Waiting(torch.autograd.Function):
        @staticmethod
        def forward(context: object, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:
            return gradient * gradient.sum().item()

    value = torch.ones(2, requires_grad=True)
    with count_synchronisations() as found:
        result: Tensor = Waiting.apply(value)  # type: ignore[no-untyped-call]
        torch.autograd.backward(result.sum())
    assert found.total() == 1


def test_work_on_the_host_is_not_counted() -> None:
    @on_host
    def inner() -> float:
        return VALUES[MASK].sum().item()

    with count_synchronisations() as found:
        assert inner() == 5.0
        with pytest.raises(RuntimeError):
            on_host(lambda: VALUES[:2] + VALUES)()
        inner()
        VALUES.tolist()
    assert found.total() == 1


def test_work_on_the_host_is_measured_where_it_begins() -> None:
    outer = on_host(on_host(lambda: VALUES.sort()))
    with host_seconds() as spent:
        VALUES.sort()
        assert spent == []
        outer()
        outer()
    outer()
    assert len(spent) == 2
    assert all(seconds >= 0 for seconds in spent)


def test_a_step_of_every_strategy_waits_twice_at_most(setup: str) -> None:
    """Once per assigner: to match on the host, or to find the positive points.

    All heads of a cascade, and all decoder layers of queries, are assigned together; proposals of a
    first stage are assigned for themselves. Scores of positive points are measured, too.
    """
    learner = mini.set_up(setup, mini.BRISK)
    learner.log_every = 100
    mini.steps(learner, 0, 1)
    batch = mini.batch([3, 0, 2])
    with count_synchronisations() as found:
        train_step(learner, batch, mini.progress(1))
    strategy = learner.strategy
    assignments = len(strategy.branches()) + len(strategy.auxiliary())
    assignments += len(learner.bare(batch.images).proposals)
    assert found.total() == assignments <= 2, found


def test_losses_are_read_every_so_many_steps() -> None:
    learner = mini.set_up("fcos", mini.BRISK)
    learner.log_every = 3
    batch, counts = mini.batch([1]), []
    for step in range(6):
        with count_synchronisations() as found:
            train_step(learner, batch, mini.progress(step))
        counts.append(found["tolist in engine.py: read_losses"])
    assert counts == [0, 0, 1, 0, 0, 1]
