"""Bilinear sampling of maps at positions in pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(maps: Tensor, xy: Tensor) -> Tensor:
    """Interpolate maps bilinearly at positions; beyond their borders, maps are 0.

    A map has its values at whole positions: 0 is the first column or row. In between,

        v(x, y) = sum_ij max(0, 1 - |x - j|) max(0, 1 - |y - i|) maps[i, j].

    At whole positions, where v has a kink, the gradient by the position is that of one side.

    Args:
        maps: [B, C, H, W], H and W at least 1.
        xy: [B, ..., 2], columns and rows; two dimensions between.

    Returns:
        [B, C, ...], in float32 at least.
    """
    height, width = maps.shape[-2:]
    x, y = at_least_float32(xy).unbind(-1)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(at_least_float32(maps), grid, align_corners=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()
