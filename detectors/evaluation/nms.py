"""Greedy class-wise non-maximum suppression, exact and without a Python loop over boxes."""

import torch
from torch import Tensor

from detectors.boxes import pairwise_iou

_BLOCK = 256
"""Boxes decided at once: large enough to hide call overhead, small beside the square of M."""


def nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    limit: int | None = None,
) -> Tensor:
    """Indices [K] int64 of the boxes that greedy NMS keeps, by falling score.

    boxes: [M, 4] xyxy; scores: [M]; labels: [M] int64. A box is suppressed when its IoU with a kept
    box of the same class and a higher score is above `iou_threshold`; of equal scores the lower
    index goes first. With `limit`, the first `limit` kept boxes: the same as a cut afterwards, but
    the rest is not worked out.

    A box depends on better boxes alone, so blocks are decided from the best to the worst: a block
    first loses what earlier kept boxes suppress, the rest is settled by `_survivors`.
    """
    kept = labels.new_empty(0, dtype=torch.int64)
    order = scores.argsort(descending=True, stable=True)
    for block in torch.split(order, _BLOCK):
        if limit is not None and len(kept) >= limit:
            break
        free = block
        if len(kept):
            free = block[~_suppresses(boxes, labels, (kept, block), iou_threshold).any(dim=0)]
        within = _suppresses(boxes, labels, (free, free), iou_threshold).triu(diagonal=1)
        kept = torch.cat([kept, free[_survivors(within)]])
    return kept[:limit]


def _suppresses(
    boxes: Tensor, labels: Tensor, pair: tuple[Tensor, Tensor], iou_threshold: float
) -> Tensor:
    """Whether box pair[0][i] would suppress box pair[1][j], if kept: [I, J] bool."""
    a, b = pair
    return (pairwise_iou(boxes[a], boxes[b]) > iou_threshold) & (labels[a][:, None] == labels[b])


def _survivors(suppresses: Tensor) -> Tensor:
    """Boxes [J] bool that greedy suppression keeps; suppresses: [J, J] bool, strictly upper.

    Repeats keep[j] = no kept i < j suppresses j, for all j at once, until nothing changes. Box 0 is
    right from the start, and once boxes 0..j-1 are right, box j is right after one more round and
    stays so: after at most J rounds the result is the greedy one, and nothing else is stable.
    """
    edges = suppresses.float()
    keep = edges.new_ones(len(edges))
    while True:
        update = (keep @ edges == 0).float()
        if torch.equal(update, keep):
            return keep.bool()
        keep = update
