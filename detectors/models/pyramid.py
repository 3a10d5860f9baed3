"""Necks with a top-down path: each level receives the features of the coarser levels."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """FPN: 1x1 lateral convolutions, a top-down sum, and one 3x3 convolution per level.

    `extra` coarser levels follow. An extra level is a convolution with stride 2 of the level before
    it, with a ReLU in between from the second on (P7 from P6). The first one (P6) is computed from
    `source`: the last pyramid level `p5` (002, 003, 004) or the last map of the backbone `c5`
    (RetinaNet in detectron2 and in 001).
    """

    def __init__(
        self,
        inputs: Sequence[int],
        channels: int,
        extra: int,
        source: Literal["p5", "c5"] = "p5",
    ) -> None:
        super().__init__()
        self.source = source
        self.laterals = _laterals(inputs, channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in inputs)
        first = channels if source == "p5" else inputs[-1]
        widths = (first, *[channels] * extra)[:extra]
        self.extras = nn.ModuleList(nn.Conv2d(c, channels, 3, 2, 1) for c in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [B, inputs[i], h_i, w_i], finest first, to [B, channels, h_i, w_i] and the extras."""
        merged = _top_down(self.laterals, maps)
        levels = [output(x) for output, x in zip(self.outputs, merged, strict=True)]
        coarsest = levels[-1] if self.source == "p5" else maps[-1]
        for i, conv in enumerate(self.extras):
            coarsest = conv(F.relu(coarsest) if i else coarsest)
            levels.append(coarsest)
        return levels


class TopDown(nn.Module):
    """The finest level of an FPN: lateral convolutions, top-down sum, one 3x3 convolution (001)."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.laterals = _laterals(inputs, channels)
        self.output = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Merge maps [B, inputs[i], h_i, w_i], finest first, to one map [B, channels, h_0, w_0]."""
        return [self.output(_top_down(self.laterals, maps)[0])]


def _laterals(inputs: Sequence[int], channels: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(c, channels, 1) for c in inputs)


def _top_down(laterals: nn.ModuleList, maps: Sequence[Tensor]) -> list[Tensor]:
    """Add to the lateral convolution of each map the upsampled sum of the coarser ones."""
    merged = [lateral(x) for lateral, x in zip(laterals, maps, strict=True)]
    for i in range(len(merged) - 1, 0, -1):
        size = merged[i - 1].shape[-2:]
        merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=size, mode="nearest")
    return merged
