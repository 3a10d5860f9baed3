"""Anchor points and anchor boxes of a feature pyramid."""

import math
from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from detectors.structures import Points

Shape = tuple[float, float]
"""Width and height of an anchor box, in strides."""


def anchor_shapes(scales: Sequence[float], ratios: Sequence[float]) -> tuple[Shape, ...]:
    """Return anchors of area scale^2 and height / width = ratio, for every ratio and scale."""
    return tuple((s / math.sqrt(r), s * math.sqrt(r)) for r in ratios for s in scales)


def pyramid_points(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device,
    anchors: Sequence[Shape] = ((4.0, 4.0),),
    offset: float = 0.5,
) -> Points:
    """Create the points of all levels, row by row, at (i + offset) * stride.

    Args:
        sizes: (height, width) of the map of each level.
        strides: strides of the levels.
        device: where the tensors are created.
        anchors: anchors per cell; every cell has one point for each, in this order.
        offset: position of points and anchors in their cell, in strides; 0.5 is the centre.
    """
    grids = [
        _grid(h, w, stride, offset, device) for (h, w), stride in zip(sizes, strides, strict=True)
    ]
    counts = [len(grid) * len(anchors) for grid in grids]
    stride = torch.tensor(strides, dtype=torch.float32, device=device)
    level = torch.cat([torch.full((n,), i, device=device) for i, n in enumerate(counts)])
    xy = torch.cat(grids).repeat_interleave(len(anchors), 0)
    half = torch.tensor(anchors, device=device).repeat(sum(map(len, grids)), 1) / 2
    half = half * stride[level][:, None]
    height, width = sizes[0]
    extent = (float(width * strides[0]), float(height * strides[0]))
    anchor_boxes = torch.cat([xy - half, xy + half], 1)
    return Points(xy, stride[level], level, anchor_boxes, extent, tuple(counts))


@lru_cache(maxsize=32)
def kept_points(
    sizes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    device: torch.device,
    anchors: tuple[Shape, ...],
    offset: float,
) -> Points:
    """Return `pyramid_points`, the same object for the same arguments if they were used lately."""
    return pyramid_points(sizes, strides, device, anchors, offset)


def whole_image(
    height: int, width: int, count: int, device: torch.device, groups: int = 1
) -> Points:
    """Create the points of `count` queries: one cell, and anchor, that covers the input."""
    full = partial(torch.full, (count,), device=device)
    zero, right, bottom = full(0.0), full(float(width)), full(float(height))
    return Points(
        torch.stack([right / 2, bottom / 2], 1),
        torch.maximum(right, bottom),
        zero.long(),
        torch.stack([zero, zero, right, bottom], 1),
        (float(width), float(height)),
        (count,),
        located=False,
        groups=groups,
    )


def _grid(height: int, width: int, stride: int, offset: float, device: torch.device) -> Tensor:
    y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * stride
    x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * stride
    return torch.cartesian_prod(y, x).flip(1)
