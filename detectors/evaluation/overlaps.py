"""How candidates overlap the objects of their image and class.

Shape letters of a chunk: B images, W candidates and G objects (or regions) of the longest one.
"""

from collections.abc import Callable, Iterator

from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.evaluation.padding import padded, rank_in_group
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates

Measure = Callable[[Tensor, Tensor], Tensor]
"""Overlap [B, W, G] of boxes [B, W, 4] with boxes [B, G, 4]."""

_PAIRS = 1 << 20
"""Pairs of a candidate and an object looked at together; bounds the memory."""


def overlaps(
    candidates: Candidates, truth: GroundTruth, which: Tensor, measure: Measure = pairwise_iou
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """How candidates overlap the objects of their own image and class, a few images at a time.

    which: [G] bool, the objects of `truth` that are meant. Yields rows [B, W] int64, positions of
    an image's candidates in order; objects [B, G] int64, positions in `truth` of its objects in
    order, G at least 1; and what `measure` says of their boxes, [B, W, G] float. Beyond the end of
    a row the position is -1; there, and between classes, the overlap is 0. Every candidate is in
    exactly one chunk.
    """
    table = _by_image(truth, which)
    for rows in padded(candidates.image, len(truth), _PAIRS // table.shape[1]):
        objects = _narrow(table[candidates.image[rows[:, 0]]])
        there = (rows >= 0)[:, :, None] & (objects >= 0)[:, None]
        same = candidates.labels[rows][:, :, None] == truth.labels[objects][:, None]
        overlap = measure(candidates.boxes[rows], truth.boxes[objects])
        yield rows, objects, overlap * (there & same)


def _by_image(truth: GroundTruth, which: Tensor) -> Tensor:
    """Positions of the objects `which` [G] bool, a row an image, -1 beyond its end."""
    position = which.nonzero()[:, 0]
    image = truth.image[position]
    rank = rank_in_group(image)
    longest = int(rank.max()) + 1 if len(rank) else 1
    table = position.new_full((len(truth), longest), -1)
    table[image, rank] = position
    return table


def _narrow(table: Tensor) -> Tensor:
    """The table without the columns that no row reaches; at least one is left."""
    return table[:, : max(1, int((table >= 0).sum(dim=1).max()))]
