"""The last layers of one branch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.models.condinst import controller
from detectors.models.decode import DECODERS, ENCODERS, BoxCode
from detectors.models.gates import GateOptions, NoGate, gated
from detectors.models.layers import full_precision
from detectors.models.points import Shape
from detectors.models.towers import init_small, small_conv
from detectors.structures import Points, Predictions

PRIOR = 0.01
"""Initial score of every class."""
NO_GATE = NoGate()
SCALED: tuple[BoxCode, ...] = ("softplus", "relu", "exp")
"""Encodings whose raw output is always multiplied by a learned factor per level."""


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
    scale_code: bool = False
    """Whether the raw output of an encoding that is not in `SCALED` is also multiplied by it."""
    offset: float = 0.5
    """Position of points and anchors in their cell, in strides: 0.5 is the centre."""
    masks: int = 0
    """Number of parameters of a point's mask, see `condinst`; 0: no masks."""

    @property
    def scaled(self) -> bool:
        """Whether the raw output of boxes is multiplied by a learned factor per level."""
        return self.scale_code or self.box in SCALED


class Predictor(nn.Module):
    """3x3 convolutions that compute scores and boxes from both towers, see `BranchShape`.

    `groups` and `bias` are those of the towers; a gate has the same.
    """

    def __init__(
        self,
        branch: BranchShape,
        channels: int,
        num_classes: int,
        groups: int,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.branch, count = branch, len(branch.anchors)
        self.cls = nn.Conv2d(channels, count * num_classes, 3, 1, 1)
        self.box = nn.Conv2d(channels, count * 4, 3, 1, 1)
        init_small(self.cls)
        init_small(self.box)
        nn.init.constant_(self.cls.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        self.centerness = small_conv(channels, count) if branch.centerness else None
        self.gate = branch.gate.build(channels, groups, count, bias=bias)
        self.controller = controller(channels, count * branch.masks) if branch.masks else None

    def forward(
        self, towers: Sequence[tuple[Tensor, Tensor]], scales: Tensor, points: Points
    ) -> Predictions:
        """Compute predictions at the N points from maps (cls, box) of all levels, in float32."""
        with full_precision(scales.device):
            return self._predict([(c.float(), b.float()) for c, b in towers], scales, points)

    def _predict(
        self, towers: Sequence[tuple[Tensor, Tensor]], scales: Tensor, points: Points
    ) -> Predictions:
        cls, box = ([pair[i] for pair in towers] for i in (0, 1))
        logits = self._flat([self.cls(x) for x in cls])
        raw = self._flat([self.box(x) for x in box])
        if self.branch.scaled:
            raw = raw * scales[points.level][:, None]
        boxes = DECODERS[self.branch.box](raw, points)
        encoded = raw if self.branch.box in ENCODERS else None
        centerness = self._centerness(cls if self.branch.centerness_from == "cls" else box)
        masks = self._flat([self.controller(x) for x in box]) if self.controller else None
        if self.gate is None:
            return Predictions(logits, boxes, None, centerness, encoded, masks)
        product = gated(logits, self._flat(self.gate(box)))
        return Predictions(product, boxes, logits, centerness, encoded, masks)

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
