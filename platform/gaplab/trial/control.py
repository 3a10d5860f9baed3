"""What a running trial listens to: orders to stop, and the verdict of a stopping rule."""

from dataclasses import dataclass
from typing import Protocol

import torch

from detectors.world import World
from gaplab.records import Cost, EpochDone
from gaplab.states import TrialState


@dataclass(frozen=True)
class Stop:
    """An order to end an attempt before the trial is finished; `reason` is one line."""

    state: TrialState
    reason: str


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A trial obeyed an order, and its state is saved. cost: what its attempt used, if known."""

    def __init__(self, stop: Stop, cost: Cost | None) -> None:
        super().__init__(stop, cost)
        self.stop, self.cost = stop, cost


class Control(Protocol):
    """Whom a trial asks while it runs; one on every rank, so it must be possible to pickle it."""

    def order(self) -> Stop | None:
        """An order to stop, if there is one. Asked after every step of training and every batch of
        an evaluation: it must be cheap.
        """
        ...

    def beat(self) -> None:
        """A step of training, or a batch of an evaluation, was made."""
        ...

    def may_go_on(self, done: EpochDone) -> bool:
        """Whether to train on after an epoch with new evaluations that isn't the last. Asked on
        rank 0 only, after its checkpoint is saved and `done` emitted.
        """
        ...


class Free:
    """A control that never stops anything."""

    def order(self) -> Stop | None:
        """None."""
        return None

    def beat(self) -> None:
        """Nothing."""

    def may_go_on(self, done: EpochDone) -> bool:
        """True."""
        return True


FREE = Free()


def agreed(world: World, device: torch.device, *mine: bool) -> tuple[bool, ...]:
    """Which of `mine` are true on any rank. All ranks must call this."""
    if world.size == 1:
        return mine
    flags = torch.tensor(mine, dtype=torch.float32, device=device)
    return tuple((world.all_reduce_mean(flags) > 0).tolist())


def first_of(world: World, mine: Stop | None) -> Stop:
    """The order of the lowest rank that has one, on rank 0; an order of their own on the others.

    All ranks must call this, after they have agreed that one of them has an order.
    """
    told = [stop for stop in world.gather(mine) if stop is not None]
    return next(iter(told), mine or Stop(TrialState.INTERRUPTED, "another worker was told to stop"))
