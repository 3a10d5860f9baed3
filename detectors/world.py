"""The group of processes that train one detector, as an argument."""

from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def seed_torch(seed: int, epoch: int, rank: int) -> None:
    """What a model draws in training (stochastic depth): other numbers for every epoch and rank,
    the same ones after a resume.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0]))


class World(Protocol):
    """Rank `rank` of `size` equal processes; every method must be called by all of them."""

    rank: int
    size: int

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Mean of `value` over all ranks, the same on every rank. Carries no gradient."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """What every rank passed, in rank order, on rank 0; an empty list on the others."""
        ...


class LocalWorld:
    """A world of one."""

    rank = 0
    size = 1

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """`value` itself, without its gradient."""
        return value.detach()

    def gather(self, value: Any) -> list[Any]:
        """`[value]`."""
        return [value]


class TorchWorld:
    """The default `torch.distributed` group, which must have been initialised."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Mean over ranks."""
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, value: Any) -> list[Any]:
        """Values of all ranks on rank 0; they travel pickled between our own processes."""
        gathered: list[Any] = [None] * self.size if self.rank == 0 else []
        device = "cpu" if dist.get_backend() == "gloo" else torch.cuda.current_device()
        with torch.device(device):
            dist.gather_object(value, gathered if self.rank == 0 else None)
        return gathered
