"""Decode boxes from the raw regression output of a head.

`relu` and `pixels` have no gradient where the output is negative, and `deltas` has none where a
side is cut at `WIDEST`. This is as in the published codes, whose losses compare decoded boxes; the
losses `deltas` and `size_offset` compare encoded boxes, before any clamp.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.structures import Points

BoxCode = Literal["softplus", "relu", "exp", "pixels", "deltas", "size_offset", "relative"]
"""The encoding of boxes; see `DECODERS`. `relative`: centre and sides as fractions of the input,
for queries, whose head decodes them itself (see `detectors.models.queries.QueryDetector`)."""

WIDEST = math.log(1000 / 16)
"""Maximum of log(side of the box / side of the anchor), as in Detectron."""


def from_distances(points: Points, ltrb: Tensor) -> Tensor:
    """Return boxes xyxy [..., N, 4] from the distances of the points to their sides, in pixels."""
    return torch.cat([points.xy - ltrb[..., :2], points.xy + ltrb[..., 2:]], dim=-1)


def softplus(raw: Tensor, points: Points) -> Tensor:
    """Decode distances of log(1 + e^(x + 1)) strides: positive, and 1.3 strides for x = 0."""
    return from_distances(points, F.softplus(raw + 1) * points.stride[:, None])


def relu(raw: Tensor, points: Points) -> Tensor:
    """Decode distances of max(x, 0) strides (DeFCN, o2f, DATE, OneNet's FCOS)."""
    return from_distances(points, raw.relu() * points.stride[:, None])


def exp(raw: Tensor, points: Points) -> Tensor:
    """Decode distances of e^x pixels, independent of the stride (FCOS as first published)."""
    return from_distances(points, raw.exp())


def pixels(raw: Tensor, points: Points) -> Tensor:
    """Decode distances of max(x, 0) pixels (OneNet)."""
    return from_distances(points, raw.relu())


def deltas(raw: Tensor, points: Points) -> Tensor:
    """Decode shifts of the centre, in sides of the anchor, and logarithms of side ratios."""
    return apply_deltas(raw, points.anchors, WIDEST)


def apply_deltas(raw: Tensor, boxes: Tensor, widest: float) -> Tensor:
    """Return boxes [..., 4] xyxy, moved and resized by deltas [..., 4]; see `deltas`.

    Logarithms of side ratios are at most `widest`.
    """
    corner, far = boxes[..., :2], boxes[..., 2:]
    side = far - corner
    center = (corner + far) / 2 + raw[..., :2] * side
    half = raw[..., 2:].clamp(max=widest).exp() * side / 2
    return torch.cat([center - half, center + half], dim=-1)


def encode_deltas(boxes: Tensor, points: Points) -> Tensor:
    """Encode boxes [K, 4] as deltas to the anchors of K points; sides are at least 0.001 pixels."""
    anchors = points.anchors
    side, anchor_side = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    side = side.clamp(min=1e-3)
    shift = (boxes[:, 2:] + boxes[:, :2] - anchors[:, 2:] - anchors[:, :2]) / 2 / anchor_side
    return torch.cat([shift, (side / anchor_side).log()], dim=-1)


def size_offset(raw: Tensor, points: Points) -> Tensor:
    """Decode the offset of the centre in its cell, width and height, in strides (CenterNet).

    The offset is from the upper left corner of the cell; points are the centres of cells. Sides are
    at least 0.
    """
    stride = points.stride[:, None]
    center = points.xy + (raw[..., :2] - 0.5) * stride
    half = raw[..., 2:].clamp(min=0) * stride / 2
    return torch.cat([center - half, center + half], dim=-1)


def encode_size_offset(boxes: Tensor, points: Points) -> Tensor:
    """Encode boxes [K, 4] as CenterNet does: offset of the centre and sides, for K points."""
    stride = points.stride[:, None]
    offset = ((boxes[:, :2] + boxes[:, 2:]) / 2 - points.xy) / stride + 0.5
    return torch.cat([offset, (boxes[:, 2:] - boxes[:, :2]) / stride], dim=-1)


DECODERS: Mapping[BoxCode, Callable[[Tensor, Points], Tensor]] = {
    "softplus": softplus,
    "relu": relu,
    "exp": exp,
    "pixels": pixels,
    "deltas": deltas,
    "size_offset": size_offset,
}
"""Functions that map the raw output [B, N, 4], already multiplied by the learned factors of the
levels, and the points to boxes [B, N, 4]."""

ENCODERS: Mapping[str, Callable[[Tensor, Points], Tensor]] = {
    "deltas": encode_deltas,
    "size_offset": encode_size_offset,
}
"""Functions that map boxes [K, 4] and their K points to the raw output [K, 4] that decodes to them,
for losses that compare encoded boxes. The names are those of the decoders."""
