"""Exact suppression of duplicates for many images at once: greedy NMS and max filtering."""

import torch
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.evaluation.padding import padded
from detectors.evaluation.protocol import Protocol
from detectors.structures import Candidates

_BLOCK = 64
"""Number of candidates of an image that are decided at once."""
_PAIRS = 1 << 16
"""Number of pairs compared at once, enough to hide the overhead of calls. Four times as many are
faster on some machines, but slower where large blocks of memory are allocated anew each time."""


def survivors(candidates: Candidates, protocol: Protocol, limit: int | None = None) -> Tensor:
    """Return the positions of the candidates that the protocol's suppression leaves.

    A candidate can only be suppressed by a better one of its image, which comes earlier.

    Args:
        candidates: sorted by image and descending score.
        protocol: its suppression is applied.
        limit: maximum number of survivors per image; the others are not computed.

    Returns:
        [K] int64, ascending.
    """
    if not len(candidates):
        return candidates.image
    rule = _greedy if protocol.suppression == "nms" else _filtered
    widest = int(candidates.image.bincount().max())
    together = max(1, _PAIRS // min(widest, _BLOCK) ** 2)
    chunks = padded(candidates.image, int(candidates.image[-1]) + 1, together * widest)
    return torch.cat([rule(candidates, rows, protocol, limit) for rows in chunks])


def _greedy(candidates: Candidates, rows: Tensor, protocol: Protocol, limit: int | None) -> Tensor:
    """Greedy NMS: a candidate is suppressed by a better one that is kept.

    Whether it is kept depends on better candidates only, so blocks are decided from the best to the
    worst. In each block, candidates suppressed by earlier blocks are removed, then `_settle`
    decides the rest.
    """
    most = rows.shape[1] if limit is None else limit
    kept, counts = torch.full_like(rows, -1), rows.new_zeros(len(rows))
    for block in torch.split(rows, _BLOCK, dim=1):
        open_ = ((counts < most) & (block[:, 0] >= 0)).nonzero()[:, 0]
        if not len(open_):
            break
        better, judged = kept[open_, : int(counts[open_].max())], block[open_]
        free = (judged >= 0) & ~_suppresses(candidates, better, judged, protocol).any(dim=1)
        within = _suppresses(candidates, judged, judged, protocol).triu(diagonal=1)
        keep = _settle(within, free)
        place = counts[open_, None] + keep.cumsum(dim=1) - 1
        kept[open_[:, None].expand_as(place)[keep], place[keep]] = judged[keep]
        counts[open_] += keep.sum(dim=1)
    kept = kept[:, :most]
    return kept[kept >= 0]


def _filtered(
    candidates: Candidates, rows: Tensor, protocol: Protocol, limit: int | None
) -> Tensor:
    """Max filtering: a candidate is suppressed by any better one, kept or not."""
    most = rows.shape[1] if limit is None else limit
    kept = torch.zeros_like(rows, dtype=torch.bool)
    for start in range(0, rows.shape[1], _BLOCK):
        open_ = (kept.sum(dim=1) < most).nonzero()[:, 0]
        if not len(open_):
            break
        judged, better = rows[open_, start : start + _BLOCK], rows[open_, : start + _BLOCK]
        related = _suppresses(candidates, better, judged, protocol)
        earlier = better[:, :, None] < judged[:, None]
        kept[open_, start : start + _BLOCK] = (judged >= 0) & ~(related & earlier).any(dim=1)
    return rows[kept & (kept.cumsum(dim=1) <= most)]


def _suppresses(c: Candidates, better: Tensor, judged: Tensor, protocol: Protocol) -> Tensor:
    """Return whether better[b, i] suppresses judged[b, j], provided it is kept: [B, I, J] bool.

    better: [B, I], judged: [B, J] int64 positions; -1 for none, which suppresses nothing.
    """
    related = (better >= 0)[:, :, None]
    if protocol.class_wise:
        related = related & (c.labels[better][:, :, None] == c.labels[judged][:, None])
    if protocol.level_range is not None:
        apart = (c.levels[better][:, :, None] - c.levels[judged][:, None]).abs()
        related = related & (apart <= protocol.level_range)
    if protocol.spatial_range is not None:
        related = related & _near(c, better, judged, protocol.spatial_range)
    if protocol.suppression == "nms":
        related = related & (pairwise_iou(c.boxes[better], c.boxes[judged]) > protocol.nms_iou)
    return related.expand(-1, -1, judged.shape[1])


def _near(c: Candidates, better: Tensor, judged: Tensor, side: int) -> Tensor:
    """Return whether points lie within `side` x `side` cells around those of judged: [B, I, J].

    The cells are those of the level of judged. A point of another level is moved to the nearest
    cell (Eq. 5 of POTO interpolates bilinearly, which needs whole score maps).
    """
    own = c.strides[judged][:, None]
    reach = (side - 1) / 2 * own + torch.maximum(c.strides[better][:, :, None], own) / 2
    apart = (c.points[better][:, :, None] - c.points[judged][:, None]).abs()
    return apart.amax(dim=-1) < reach


def _settle(suppresses: Tensor, free: Tensor) -> Tensor:
    """Return which of the free candidates greedy suppression keeps: [B, J] bool.

    The rule "keep j if no kept i < j suppresses it" is applied to all j at once until nothing
    changes. Candidate 0 is correct from the start, and once 0 to j - 1 are correct, j is correct
    after one more round. After at most J rounds the result is therefore that of the greedy
    algorithm.

    Args:
        suppresses: [B, J, J] bool, strictly upper triangular.
        free: [B, J] bool, the candidates that earlier blocks don't suppress.
    """
    edges, keep = suppresses.float(), free
    while True:
        update = free & (torch.bmm(keep[:, None].float(), edges)[:, 0] == 0)
        if torch.equal(update, keep):
            return keep
        keep = update
