"""RoIAlign (He et al. 2017, "Mask R-CNN"), aligned to the centres of cells."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.models.operators.sampling import at_least_float32


def roi_align(
    maps: Tensor, boxes: Tensor, image: Tensor, stride: float, *, side: int = 7, samples: int = 2
) -> Tensor:
    """Return the features of boxes, resampled to side x side bins (detectron2's RoIAlignV2).

    A box is divided into side x side equal bins. The feature of a bin is the mean of bilinear
    samples on a regular grid of n_y x n_x positions inside of it:

        f(i, j) = 1 / (n_y n_x) sum_ab v(y1 + (i + (a + .5) / n_y) h, x1 + (j + (b + .5) / n_x) w)

    with the bin's sides h and w. v interpolates between the centres of cells. Up to one cell beyond
    the border cells it has their values, and further outside it is 0. With `samples`, boxes
    that are not finite read 0, too.

    Gradients flow to the maps only, as in detectron2; positions have none.

    Args:
        maps: [B, C, H, W], H and W at least 1.
        boxes: [K, 4] xyxy, pixels.
        image: [K] int64, the image of each box, in [0, B).
        stride: pixels per cell of the map.
        side: number of bins per side.
        samples: n_y and n_x; 0: one per cell of the map, ceil(h) and ceil(w) for each box.

    Returns:
        [K, C, side, side].
    """
    level = torch.zeros_like(image)
    return roi_align_levels([(maps, stride)], boxes, image, level, side=side, samples=samples)


def roi_align_levels(
    levels: Sequence[tuple[Tensor, float]],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    *,
    side: int = 7,
    samples: int = 2,
) -> Tensor:
    """Return the features of boxes, each read from one level of a pyramid; see `roi_align`.

    Nothing waits for the device if `samples` is given. Levels without a box have gradients of 0.

    Args:
        levels: maps [B, C, H_l, W_l] of each level, and pixels per cell.
        boxes: [K, 4] xyxy, pixels.
        image: [K] int64, the image of each box, in [0, B).
        level: [K] int64, the level of each box.
        side: number of bins per side.
        samples: samples per bin and axis, see `roi_align`.

    Returns:
        [K, C, side, side].
    """
    sizes = [(maps.shape[2], maps.shape[3]) for maps, _ in levels]
    height, width = (_of_level(level, axis) for axis in zip(*sizes, strict=True))
    cells = boxes.detach() / _of_level(level, [stride for _, stride in levels])[:, None] - 0.5
    x, wx = _positions(cells[:, 0::2], width, side, samples)
    y, wy = _positions(cells[:, 1::2], height, side, samples)
    before = [sum(h * w for h, w in sizes[:i]) for i in range(len(sizes) + 1)]
    start = image * before[-1] + _of_level(level, before[:-1])
    row = start[:, None, None] + y * width[:, None, None]
    index = row[:, :, None, :, None] + x[:, None, :, None, :]
    weight = wy[:, :, None, :, None] * wx[:, None, :, None, :]
    rows = [at_least_float32(maps).flatten(2).transpose(1, 2) for maps, _ in levels]
    table = torch.cat(rows, 1).flatten(0, 1)
    found = _sum_rows(table, index.flatten(0, 2).flatten(1), weight.flatten(0, 2).flatten(1))
    return found.view(boxes.shape[0], side, side, table.shape[1]).permute(0, 3, 1, 2)


def _sum_rows(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return weighted sums of rows of a table [R, C], for index and weight [M, N]: [M, C]."""
    weight = weight.to(table.dtype)
    if torch.compiler.is_exporting():  # ONNX has no operator for bags
        return (weight[..., None] * table[index]).sum(1)
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)


def _of_level(level: Tensor, values: Sequence[float]) -> Tensor:
    """Return the value of the level of each box [K]; made on the device, without waiting for it."""
    kind = torch.float32 if any(isinstance(value, float) for value in values) else torch.int64
    each = [torch.full((), value, dtype=kind, device=level.device) for value in values]
    return torch.stack(each)[level]


def _positions(ends: Tensor, size: Tensor, side: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return the cells that the bins of K boxes read on one axis, and their weights.

    Args:
        ends: [K, 2], both ends of each box in cells; 0 is the centre of the first cell.
        size: [K] int64, the number of cells of the axis of each box's map.
        side: number of bins.
        samples: number of samples per bin; 0: adaptive.

    Returns:
        [K, side, N] int64 and float: cells and weights. The weights of a bin add up to at most 1.
    """
    first, length = ends[:, :1, None], (ends[:, 1:, None] - ends[:, :1, None]) / side
    count = torch.full_like(length, samples) if samples else length.ceil().clamp(min=0)
    most = samples or (max(1, int(count.amax())) if len(ends) else 1)
    number = torch.arange(most, device=ends.device, dtype=ends.dtype)
    bin_ = torch.arange(side, device=ends.device, dtype=ends.dtype)[:, None]
    at = first + (bin_ + (number + 0.5) / count.clamp(min=1)) * length
    last = (size - 1).to(ends.dtype)[:, None, None]
    used = (number < count) & (at >= -1) & (at <= last + 1)
    at = torch.where(used, at, 0.0).clamp(min=0).minimum(last)
    low = at.floor().minimum((last - 1).clamp(min=0))
    share = (used / count.clamp(min=1)).to(at.dtype)
    cells = torch.stack([low, (low + 1).minimum(last)], -1).long()
    weights = torch.stack([share * (1 - at + low), share * (at - low)], -1)
    return cells.flatten(2), weights.flatten(2)
