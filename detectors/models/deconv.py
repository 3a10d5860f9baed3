"""The neck of CenterNet: upsampling that is learnt."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "group"]
GROUPS = 8
"""Groups of group norm; must divide `channels`."""


class Deconv(nn.Module):
    """From the trunk's last map to its finest, one block a halving of the stride (001, code).

    A block is 3x3 convolution, norm, ReLU, then 4x4 transposed convolution of stride 2, norm, ReLU;
    to its output comes a 1x1 lateral of the trunk's next finer map. Blocks halve their width down
    to `channels` (256, 128, 64 for C5 to C2). A 3x3 convolution ends the neck.
    Deviations: 001's text has a plain FPN here (`TopDown`); this is its released code. There the
    3x3 of a block is deformable (DCNv2); ours is that code's variant without, which loses 3 AP
    (32.7 against 35.7). All weights start Xavier-uniform, as there. The code has batch norm, whose
    statistics are those of each worker's own share of a batch; `group` is for small batches.
    """

    def __init__(self, inputs: Sequence[int], channels: int, norm: Norm = "batch") -> None:
        super().__init__()
        finer = inputs[-2::-1]
        outputs = [channels * 2**i for i in reversed(range(len(finer)))]
        widths = zip((inputs[-1], *outputs), outputs, strict=False)
        self.blocks = nn.ModuleList(_block(*width, norm) for width in widths)
        self.laterals = nn.ModuleList(
            nn.Conv2d(c, width, 1) for c, width in zip(finer, outputs, strict=True)
        )
        self.output = nn.Conv2d(channels, channels, 3, 1, 1)
        for weight in (p for p in self.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, inputs[i], h_i, w_i], finest first -> one map [B, channels, h_0, w_0].

        Each map is half as large as the one before it, rounded up (at least two maps).
        """
        merged, *finer = reversed(maps)
        for block, lateral, x in zip(self.blocks, self.laterals, finer, strict=True):
            height, width = x.shape[-2:]
            merged = block(merged)[..., :height, :width] + lateral(x)
        return [self.output(merged)]


def _block(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    """[B, inputs, h, w] -> [B, outputs, 2 h, 2 w]."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
        _norm(outputs, norm),
        nn.ReLU(),
        nn.ConvTranspose2d(outputs, outputs, 4, 2, 1, bias=False),
        _norm(outputs, norm),
        nn.ReLU(),
    )


def _norm(channels: int, norm: Norm) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)
