"""Modulated deformable convolution (Zhu et al. 2019, "Deformable ConvNets v2")."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.models.operators.sampling import at_least_float32, sample


class Geometry(NamedTuple):
    """How the kernel moves over the map, and what it connects, as in `torch.nn.Conv2d`."""

    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    def positions(self, size: Sequence[int], kernel: Sequence[int], like: Tensor) -> Tensor:
        """Return the (x, y) that each of the K cells of the kernel reads: [K, Ho, Wo, 2].

        Args:
            size: (height, width) of the map.
            kernel: (height, width) of the kernel.
            like: a tensor of the device and type to use.
        """
        y, x = (self._axis(*of, like) for of in zip(size, kernel, strict=True))
        shape = (len(y), len(x), y.shape[1], x.shape[1])
        rows, columns = y[:, None, :, None].expand(shape), x[None, :, None, :].expand(shape)
        return torch.stack([columns, rows], -1).flatten(0, 1)

    def _axis(self, size: int, kernel: int, like: Tensor) -> Tensor:
        """Return the positions on one axis: [kernel, outputs]."""
        reach = self.dilation * (kernel - 1) + 1
        count = (size + 2 * self.padding - reach) // self.stride + 1
        if count < 1:
            raise ValueError(f"a map of {size} cells is smaller than the kernel ({reach} cells)")
        start = torch.arange(count, device=like.device, dtype=like.dtype) * self.stride
        cell = torch.arange(kernel, device=like.device, dtype=like.dtype) * self.dilation
        return cell[:, None] + start - self.padding


PLAIN = Geometry()


def deform_conv(
    maps: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    geometry: Geometry = PLAIN,
) -> Tensor:
    """Compute a modulated deformable convolution (DCNv2 Eq. 1).

        y(p) = sum_k w_k x(p + p_k + offset_k(p)) mask_k(p),

    where k counts the K = kh * kw cells of the kernel row by row, p_k is the position of a cell, x
    is interpolated bilinearly and 0 beyond its borders. The channels of x are divided into D
    deformable groups, each with its own offsets and mask; D follows from the shape of `mask`.

    The order of channels is that of torchvision and mmcv: `offset` has, for each deformable group
    and cell, first y and then x, in cells of the map; `mask` has one channel for each.

    Args:
        maps: x, [B, C, H, W].
        offset: [B, 2 D K, Ho, Wo].
        mask: [B, D K, Ho, Wo].
        weight: w, [O, C / groups, kh, kw].
        bias: [O], added to y; None: 0.
        geometry: stride, padding, dilation and groups.

    Returns:
        y, [B, O, Ho, Wo].

    Raises:
        ValueError: the map is smaller than the kernel, or shapes don't fit.
    """
    at = geometry.positions(maps.shape[2:], weight.shape[2:], at_least_float32(offset))
    cells, *size = at.shape[:-1]
    deformable = mask.shape[1] // cells
    expected = [2 * deformable * cells, deformable * cells, *size, *size]
    if [offset.shape[1], mask.shape[1], *offset.shape[2:], *mask.shape[2:]] != expected:
        raise ValueError(
            f"offset {list(offset.shape)} and mask {list(mask.shape)} do not fit a kernel of "
            f"{cells} cells and an output of {size[0]}x{size[1]}"
        )
    columns = _columns(maps, offset, mask, at, deformable)
    kernel = weight.flatten(1)[:, :, None, None]
    return F.conv2d(columns, kernel, bias, groups=geometry.groups)


def _columns(maps: Tensor, offset: Tensor, mask: Tensor, at: Tensor, deformable: int) -> Tensor:
    """Return what each cell of the kernel reads, times the mask: [B, C K, Ho, Wo]."""
    batch, channels = maps.shape[:2]
    cells, height, width = at.shape[:3]
    shift = offset.reshape(batch * deformable, cells, 2, height, width).permute(0, 1, 3, 4, 2)
    xy = (at + shift.flip(-1)).flatten(1, 2)
    grouped = maps.reshape(batch * deformable, channels // deformable, *maps.shape[2:])
    found = sample(grouped, xy) * mask.reshape(batch * deformable, 1, cells * height, width)
    return found.reshape(batch, channels * cells, height, width).to(maps.dtype)
