"""From a head's raw regression output to boxes."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.structures import Points

BoxCode = Literal["softplus", "relu", "exp", "pixels", "deltas"]
"""What the raw output means; see `DECODERS`."""

WIDEST = math.log(1000 / 16)
"""Largest logarithm of a box's side in sides of its anchor, as in Detectron."""


def around(points: Points, ltrb: Tensor) -> Tensor:
    """Boxes xyxy from distances to their sides: [..., N, 4] pixels -> [..., N, 4] pixels."""
    return torch.cat([points.xy - ltrb[..., :2], points.xy + ltrb[..., 2:]], dim=-1)


def softplus(raw: Tensor, points: Points) -> Tensor:
    """Sides at log(1 + e^(x + 1)) strides: positive everywhere, 1.3 strides at initialisation."""
    return around(points, F.softplus(raw + 1) * points.stride[:, None])


def relu(raw: Tensor, points: Points) -> Tensor:
    """Sides at max(x, 0) strides (DeFCN, o2f, DATE, OneNet's FCOS)."""
    return around(points, raw.relu() * points.stride[:, None])


def exp(raw: Tensor, points: Points) -> Tensor:
    """Sides at e^x pixels, whatever the stride (FCOS as first published)."""
    return around(points, raw.exp())


def pixels(raw: Tensor, points: Points) -> Tensor:
    """Sides at max(x, 0) pixels (OneNet)."""
    return around(points, raw.relu())


def deltas(raw: Tensor, points: Points) -> Tensor:
    """Centre shifts in sides of the anchor and logarithms of side ratios (RetinaNet)."""
    corner, far = points.anchors[:, :2], points.anchors[:, 2:]
    side = far - corner
    center = (corner + far) / 2 + raw[..., :2] * side
    half = raw[..., 2:].clamp(max=WIDEST).exp() * side / 2
    return torch.cat([center - half, center + half], dim=-1)


def encode_deltas(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `deltas`, [K, 4] twice -> [K, 4]; sides count as 0.001 pixels at least."""
    side, anchor_side = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    side = side.clamp(min=1e-3)
    shift = (boxes[:, 2:] + boxes[:, :2] - anchors[:, 2:] - anchors[:, :2]) / 2 / anchor_side
    return torch.cat([shift, (side / anchor_side).log()], dim=-1)


DECODERS: Mapping[BoxCode, Callable[[Tensor, Points], Tensor]] = {
    "softplus": softplus,
    "relu": relu,
    "exp": exp,
    "pixels": pixels,
    "deltas": deltas,
}
"""raw [B, N, 4], already scaled by its level's learned factor, and points -> boxes [B, N, 4]."""
