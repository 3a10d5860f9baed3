"""Bilinear interpolation by its formula, for oracles that loop."""

from typing import Any

import torch
from torch import Tensor


def hat(at: Tensor, cells: int) -> Tensor:
    """Return the weight of each cell of an axis at a position: [cells]."""
    return (1 - (at - torch.arange(cells)).abs()).clamp(min=0)


def bilinear(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Interpolate maps [C, H, W] at a position in cells: [C]; 0 beyond the borders."""
    return maps @ hat(x, maps.shape[2]) @ hat(y, maps.shape[1])


def assert_same(found: Tensor, reference: Tensor, *inputs: Tensor) -> None:
    """Compare values, and the gradients of all inputs, to 1e-5."""
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(found, reference, **close)
    pull = torch.randn(found.shape, generator=torch.Generator().manual_seed(9), dtype=found.dtype)
    mine, other = (torch.autograd.grad(y, inputs, pull) for y in (found, reference))
    for gradient, expected in zip(mine, other, strict=True):
        torch.testing.assert_close(gradient, expected, **close)
