"""Feature pyramid: every level sees what the coarser ones know."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """FPN: 1x1 laterals, a top-down sum, a 3x3 convolution a level, then `extra` coarser levels.

    An extra level is a stride-2 convolution of the one before it, after a ReLU from the second on
    (P6 from P5, P7 from P6).
    """

    def __init__(self, inputs: Sequence[int], channels: int, extra: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in inputs)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in inputs)
        self.extras = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(extra))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, inputs[i], h_i, w_i], finest first -> [B, channels, h_i, w_i] and the extras."""
        merged = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            size = merged[i - 1].shape[-2:]
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=size, mode="nearest")
        levels = [output(x) for output, x in zip(self.outputs, merged, strict=True)]
        for i, conv in enumerate(self.extras):
            levels.append(conv(F.relu(levels[-1]) if i else levels[-1]))
        return levels
