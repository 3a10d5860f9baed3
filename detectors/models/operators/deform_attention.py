"""Multi-scale deformable attention (Zhu et al. 2021, "Deformable DETR")."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectors.models.operators.sampling import sample


def deform_attention(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute multi-scale deformable attention (Deformable DETR Eq. 3) between its projections.

        out(q, m) = sum_l sum_p weights(q, m, l, p) value_l(locations(q, m, l, p), m)

    for query q and head m, with levels l and sampling points p. A location is relative to the map
    of its level: (0, 0) is its upper left corner and (1, 1) its lower right one, so a cell's centre
    is at (index + 0.5) / size. Maps are interpolated bilinearly and 0 beyond their borders.

    Args:
        value: [B, S, M, D], the cells of all levels, row by row, for M heads of D channels.
        sizes: (height, width) of the L levels; their areas add up to S.
        locations: [B, Q, M, L, P, 2], (x, y).
        weights: [B, Q, M, L, P]; usually the softmax over the last two dimensions.

    Returns:
        [B, Q, M * D].

    Raises:
        ValueError: the sizes don't fit the value, or the locations.
    """
    areas = [height * width for height, width in sizes]
    if sum(areas) != value.shape[1] or len(sizes) != locations.shape[3]:
        raise ValueError(
            f"levels of {areas} cells do not fit {value.shape[1]} values and locations on "
            f"{locations.shape[3]} levels"
        )
    batch, queries, heads = locations.shape[:3]
    found = value.new_zeros(batch * heads, value.shape[3], queries)
    for level, part in enumerate(torch.split(value, areas, 1)):
        read = _read(part, sizes[level], locations[:, :, :, level])
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
        found = found + (read * weight[:, None]).sum(3)
    return found.view(batch, heads * value.shape[3], queries).transpose(1, 2)


def _read(value: Tensor, size: tuple[int, int], locations: Tensor) -> Tensor:
    """Interpolate one level at locations [B, Q, M, P, 2]: [B * M, D, Q, P]."""
    batch, _, heads, width = value.shape
    maps = value.permute(0, 2, 3, 1).reshape(batch * heads, width, *size)
    x, y = locations.transpose(1, 2).flatten(0, 1).unbind(-1)
    xy = torch.stack([x * size[1] - 0.5, y * size[0] - 0.5], -1)
    return sample(maps, xy)
