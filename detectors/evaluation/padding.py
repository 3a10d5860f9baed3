"""Padded matrices of rows of different length, such as the candidates of each image."""

from collections.abc import Iterator

import torch
from torch import Tensor


def padded(image: Tensor, images: int, cells: int) -> Iterator[Tensor]:
    """Return the positions of the candidates of each image, in chunks of consecutive images.

    Args:
        image: [M] int64, ascending, in [0, images).
        images: number of images.
        cells: maximum number of entries of a chunk; a chunk has at least one row.

    Yields:
        Matrices [B, W] int64. A row holds the positions of the candidates of one image in order,
        padded with -1; W is the length of the longest row of the chunk. Images without candidates
        have no row.
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
    """Return the rank of each entry in its group, from 0: [M] int64. group: [M] int64 >= 0."""
    order = group.argsort(stable=True)
    counts = torch.bincount(group)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(group)) - starts[group[order]]
    return rank
