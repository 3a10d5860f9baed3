"""How a running trial is controlled: orders to stop, and the verdicts of a stopping rule."""

from dataclasses import dataclass
from typing import Protocol

import torch

from detectors.world import World
from gaplab.records import Cost, EpochDone, StepDone
from gaplab.states import TrialState


@dataclass(frozen=True)
class Stop:
    """An order to end attempts before their trial, or their sweep, is finished.

    Attributes:
        state: the state in which the attempts end.
        reason: why, in one line.
        signal: number of the signal that the driver received, if that is the reason.
    """

    state: TrialState
    reason: str
    signal: int | None = None


class Stopped(Exception):  # noqa: N818 - not an error
    """Raised when a trial has obeyed an order; its state is saved.

    Attributes:
        stop: the order.
        cost: what the attempt has cost, if known.
    """

    def __init__(self, stop: Stop, cost: Cost | None) -> None:
        super().__init__(stop, cost)
        self.stop, self.cost = stop, cost


class Control(Protocol):
    """What a trial asks while it runs. Every rank has one, so it must be possible to pickle it."""

    def order(self) -> Stop | None:
        """Return the order to stop, if there is one.

        Called after training steps (on a GPU, after those whose losses are read) and every batch of
        an evaluation, so it must be cheap.
        """
        ...

    def beat(self) -> None:
        """Receive a sign of life: a training step or a batch of an evaluation is done."""
        ...

    def report(self, step: StepDone) -> None:
        """Show a training step to the user, if it is convenient. Must return at once.

        Called on rank 0 only, after every training step; on a GPU, after those whose losses are
        read.
        """
        ...

    def may_continue(self, done: EpochDone) -> bool:
        """Return whether to train on after an epoch with new evaluations that isn't the last.

        Called on rank 0 only, after the checkpoint is saved and `done` emitted.
        """
        ...


class NullControl:
    """A control that never stops a trial."""

    def order(self) -> Stop | None:
        """Return None."""
        return None

    def beat(self) -> None:
        """Do nothing."""

    def report(self, step: StepDone) -> None:
        """Do nothing."""

    def may_continue(self, done: EpochDone) -> bool:
        """Return True."""
        return True


NO_CONTROL = NullControl()


def any_rank(world: World, device: torch.device, *flags: bool) -> tuple[bool, ...]:
    """Return for each flag whether it is true on any rank. All ranks must call this."""
    if world.size == 1:
        return flags
    values = torch.tensor(flags, dtype=torch.float32, device=device)
    return tuple((world.all_reduce_mean(values) > 0).tolist())


def first_order(world: World, own: Stop | None) -> Stop:
    """Return the order to obey once a rank has one. All ranks must call this.

    On rank 0 that is the order of the lowest rank that has one. The other ranks return their own
    order, or say that another worker has one.
    """
    orders = [stop for stop in world.gather(own) if stop is not None]
    other = Stop(TrialState.INTERRUPTED, "another worker received an order to stop")
    return next(iter(orders), own or other)
