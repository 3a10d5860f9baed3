"""RoIAlign (He et al. 2017, "Mask R-CNN"), aligned to the centres of cells."""

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
    the border cells it has their values, and further outside it is 0.

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
    batch, channels, height, width = maps.shape
    cells = boxes.detach() / stride - 0.5
    x, wx = _positions(cells[:, 0::2], width, side, samples)
    y, wy = _positions(cells[:, 1::2], height, side, samples)
    start = image[:, None, None, None, None] * (height * width)
    index = start + y[:, :, None, :, None] * width + x[:, None, :, None, :]
    weight = wy[:, :, None, :, None] * wx[:, None, :, None, :]
    table = at_least_float32(maps).permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    bags, weights = index.flatten(0, 2).flatten(1), weight.flatten(0, 2).flatten(1)
    found = F.embedding_bag(bags, table, mode="sum", per_sample_weights=weights.to(table.dtype))
    return found.view(len(boxes), side, side, channels).permute(0, 3, 1, 2)


def _positions(ends: Tensor, size: int, side: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return the cells that the bins of K boxes read on one axis, and their weights.

    Args:
        ends: [K, 2], both ends of each box in cells; 0 is the centre of the first cell.
        size: number of cells of the axis.
        side: number of bins.
        samples: number of samples per bin; 0: adaptive.

    Returns:
        [K, side, N] int64 and float: cells and weights. The weights of a bin add up to at most 1.
    """
    first, length = ends[:, :1, None], (ends[:, 1:, None] - ends[:, :1, None]) / side
    count = torch.full_like(length, samples) if samples else length.ceil().clamp(min=0)
    most = samples or max(1, int(count.amax())) if len(ends) else 1
    number = torch.arange(most, device=ends.device, dtype=ends.dtype)
    bin_ = torch.arange(side, device=ends.device, dtype=ends.dtype)[:, None]
    at = first + (bin_ + (number + 0.5) / count.clamp(min=1)) * length
    used = (number < count) & (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    low = at.floor().clamp(max=max(size - 2, 0))
    share = (used / count.clamp(min=1)).to(at.dtype)
    cells = torch.stack([low, (low + 1).clamp(max=size - 1)], -1).long()
    weights = torch.stack([share * (1 - at + low), share * (at - low)], -1)
    return cells.flatten(2), weights.flatten(2)
