"""Compute how candidates overlap the objects of their image and class, in chunks of images.

Shape letters of a chunk: B images; W and G, the largest number of candidates and of objects (or
regions) of one image.
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
"""Maximum number of pairs of a candidate and an object in a chunk; limits the memory."""


def overlaps(
    candidates: Candidates,
    truth: GroundTruth,
    which: Tensor,
    measure: Measure = pairwise_iou,
    class_wise: bool = True,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Compute the overlaps of candidates with the objects of their image and class.

    Args:
        candidates: sorted by image.
        truth: the objects.
        which: bool, one per object of `truth`: the objects to compare with.
        measure: computes the overlap of two boxes.
        class_wise: False: compare with the objects of other classes, too.

    Yields:
        For a few images at a time, so that every candidate is in exactly one chunk: positions of
        the candidates of each image [B, W] int64; positions in `truth` of its objects [B, G] int64,
        G at least 1; and their overlaps [B, W, G] float. Positions beyond the end of a row are -1.
        There, and between different classes if `class_wise`, the overlap is 0.
    """
    table = _by_image(truth, which)
    for rows in padded(candidates.image, len(truth), _PAIRS // table.shape[1]):
        objects = _narrow(table[candidates.image[rows[:, 0]]])
        there = (rows >= 0)[:, :, None] & (objects >= 0)[:, None]
        if class_wise:
            there &= candidates.labels[rows][:, :, None] == truth.labels[objects][:, None]
        overlap = measure(candidates.boxes[rows], truth.boxes[objects])
        yield rows, objects, overlap * there


def _by_image(truth: GroundTruth, which: Tensor) -> Tensor:
    """Return the positions of the objects `which`, one row per image, padded with -1."""
    position = which.nonzero()[:, 0]
    image = truth.image[position]
    rank = rank_in_group(image)
    longest = int(rank.max()) + 1 if len(rank) else 1
    table = position.new_full((len(truth), longest), -1)
    table[image, rank] = position
    return table


def _narrow(table: Tensor) -> Tensor:
    """Return the table without the columns that are -1 in all rows; at least one column is left."""
    return table[:, : max(1, int((table >= 0).sum(dim=1).max()))]
