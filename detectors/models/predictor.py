"""The last layers of one branch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.models.decode import DECODERS, BoxCode
from detectors.models.gates import GateOptions, NoGate, gated
from detectors.models.points import Shape
from detectors.models.towers import init_small, small_conv
from detectors.structures import Points, Predictions

PRIOR = 0.01
"""Initial score of every class."""
NO_GATE = NoGate()
SCALED: tuple[BoxCode, ...] = ("softplus", "relu", "exp")
"""Encodings whose raw output is multiplied by a learned factor per level."""


@dataclass(frozen=True)
class BranchShape:
    """What one branch predicts."""

    anchors: tuple[Shape, ...]
    """Anchors per cell, in strides."""
    box: BoxCode
    """Encoding of boxes."""
    gate: GateOptions = NO_GATE
    centerness: bool = False
    """Whether it predicts centerness with a loss of its own."""
    centerness_from: str = "box"
    """The tower from which centerness is predicted: `cls` or `box`."""


class Predictor(nn.Module):
    """3x3 convolutions that compute scores and boxes from both towers, see `BranchShape`."""

    def __init__(self, branch: BranchShape, channels: int, num_classes: int, groups: int) -> None:
        super().__init__()
        self.branch, count = branch, len(branch.anchors)
        self.cls = nn.Conv2d(channels, count * num_classes, 3, 1, 1)
        self.box = nn.Conv2d(channels, count * 4, 3, 1, 1)
        init_small(self.cls)
        init_small(self.box)
        nn.init.constant_(self.cls.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        self.centerness = small_conv(channels, count) if branch.centerness else None
        self.gate = branch.gate.build(channels, groups, count)

    def forward(
        self, towers: Sequence[tuple[Tensor, Tensor]], scales: Tensor, points: Points
    ) -> Predictions:
        """Compute predictions at the N points from maps (cls, box) of all levels, in float32."""
        kind = scales.device.type
        with torch.autocast("cpu" if kind == "meta" else kind, enabled=False):
            return self._predict([(c.float(), b.float()) for c, b in towers], scales, points)

    def _predict(
        self, towers: Sequence[tuple[Tensor, Tensor]], scales: Tensor, points: Points
    ) -> Predictions:
        cls, box = ([pair[i] for pair in towers] for i in (0, 1))
        logits = self._flat([self.cls(x) for x in cls])
        raw = self._flat([self.box(x) for x in box])
        if self.branch.box in SCALED:
            raw = raw * scales[points.level][:, None]
        boxes = DECODERS[self.branch.box](raw, points)
        centerness = self._centerness(cls if self.branch.centerness_from == "cls" else box)
        if self.gate is None:
            return Predictions(logits, boxes, None, centerness)
        product = gated(logits, self._flat(self.gate(box)))
        return Predictions(product, boxes, logits, centerness)

    def _centerness(self, features: Sequence[Tensor]) -> Tensor | None:
        if self.centerness is None:
            return None
        return self._flat([self.centerness(x) for x in features])[..., 0]

    def _flat(self, maps: Sequence[Tensor]) -> Tensor:
        """Concatenate maps [B, anchors * C, h, w] to [B, N, C]; a cell's anchors are adjacent."""
        count = len(self.branch.anchors)
        return torch.cat([by_point(x, count) for x in maps], 1)


def by_point(maps: Tensor, anchors: int) -> Tensor:
    """Reshape maps [B, anchors * C, h, w] to [B, h * w * anchors, C]."""
    batch, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1)
    return rows.reshape(batch, height * width * anchors, channels // anchors)
