"""Ragged rows (the candidates of each image) as padded matrices, a few images at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor


def padded(image: Tensor, images: int, cells: int) -> Iterator[Tensor]:
    """Positions of the candidates of each image, in chunks of consecutive images.

    image: [M] int64, rising, in [0, images). Yields matrices [B, W] int64, every image in exactly
    one of them: row b lists the positions of one image's candidates in order, then -1; W is the
    longest row of the chunk, which has at most `cells` entries, or one row. Images without
    candidates are left out.
    """
    if not len(image):
        return
    counts = torch.bincount(image, minlength=images)
    starts = counts.cumsum(0) - counts
    rows = counts.nonzero()[:, 0]
    longest = int(counts.max())
    for chunk in torch.split(rows, max(1, cells // longest)):
        column = torch.arange(int(counts[chunk].max()))
        position = starts[chunk, None] + column
        yield torch.where(column < counts[chunk, None], position, -1)


def rank_in_group(group: Tensor) -> Tensor:
    """How many earlier entries of its group each entry has: [M] int64; group: [M] int64 >= 0."""
    order = group.argsort(stable=True)
    counts = torch.bincount(group)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(group)) - starts[group[order]]
    return rank
