"""Anchor points of a pyramid."""

from collections.abc import Sequence

import torch

from detectors.structures import Points


def pyramid_points(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device
) -> Points:
    """Points at (i + 0.5) * stride for maps of `sizes` (height, width), row by row."""
    grids = [_grid(h, w, stride, device) for (h, w), stride in zip(sizes, strides, strict=True)]
    counts = torch.tensor([len(g) for g in grids], device=device)
    stride = torch.tensor(strides, dtype=torch.float32, device=device)
    level = torch.arange(len(grids), device=device).repeat_interleave(counts)
    return Points(torch.cat(grids), stride[level], level)


def _grid(height: int, width: int, stride: int, device: torch.device) -> torch.Tensor:
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
    return torch.cartesian_prod(y, x).flip(1)
