"""The group of processes that train one detector, as an object that is passed on.

Code that depends on other ranks takes a `World`, so it runs without `torch.distributed` in tests.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def seed_torch(seed: int, epoch: int, rank: int) -> None:
    """Seed PyTorch's generator for an epoch; every epoch and rank has another seed.

    A resumed epoch draws the same numbers (for stochastic depth) as an uninterrupted one.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0]))


class World(Protocol):
    """Rank `rank` of a group of `size` processes. All of them must call each method."""

    rank: int
    size: int

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Return the mean of `value` over all ranks, without gradient."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks in rank order on rank 0; an empty list elsewhere."""
        ...


class LocalWorld:
    """A single process."""

    rank = 0
    size = 1

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Return `value` without its gradient."""
        return value.detach()

    def gather(self, value: Any) -> list[Any]:
        """Return `[value]`."""
        return [value]


class TorchWorld:
    """The default group of `torch.distributed`, which must be initialised."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Return the mean over ranks."""
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks on rank 0. They are pickled between our own processes."""
        gathered: list[Any] = [None] * self.size if self.rank == 0 else []
        device = "cpu" if dist.get_backend() == "gloo" else torch.cuda.current_device()
        with torch.device(device):
            dist.gather_object(value, gathered if self.rank == 0 else None)
        return gathered


def distributed(module: nn.Module) -> nn.Module:
    """Wrap a module whose gradients are averaged over the ranks of the default group.

    `static_graph` would be wrong: in the first step, DDP then averages only if the output is made
    of tuples, lists and mappings, and that of a detector is not.
    """
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def shard(batch_indices: Sequence[int], rank: int, size: int) -> list[int]:
    """Return the part of a global batch for `rank` of `size` workers; sizes differ by at most 1."""
    return list(batch_indices[rank::size])
