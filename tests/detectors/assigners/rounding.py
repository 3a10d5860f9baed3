"""Changes to the last bits of values, as processors make them by the position in a tensor."""

import torch
from torch import Tensor


def shaken(values: Tensor, seed: int) -> Tensor:
    """Move each value by one representable number at random, up, down or not at all; 0 stays 0."""
    rng = torch.Generator().manual_seed(seed)
    direction = torch.randint(-1, 2, values.shape, generator=rng)
    moved = torch.nextafter(values, direction * torch.inf)
    return torch.where((direction == 0) | (values == 0), values, moved)
