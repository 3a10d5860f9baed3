"""The neck of CenterNet: learned upsampling with transposed convolutions."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from detectors.models.deform import DeformConv, reset_offsets

Norm = Literal["batch", "group"]
GROUPS = 8
"""Groups of group norm; must divide the channels."""


class Deconv(nn.Module):
    """Upsamples the last map of the backbone to the size of its finest map (released code of 001).

    There is one block per halving of the stride: 3x3 convolution, norm, ReLU, 4x4 transposed
    convolution with stride 2, norm, ReLU. A 1x1 lateral convolution of the next finer map of the
    backbone is added to its output. The channels are halved by each block, down to `channels`
    (256, 128, 64 for C5 to C2). A 3x3 convolution follows the last block. Weights are initialised
    Xavier-uniform.

    With `deformable`, the 3x3 convolution of a block is deformable (DCNv2). The code has both
    variants; the one without loses 3 AP (32.7 instead of 35.7 on COCO).

    Deviations: the text of 001 describes a plain FPN (`TopDown`). The code has batch norm, with
    statistics over each worker's part of the batch; `group` is for small batches. It initialises
    the convolutions that predict offsets like all others, ours are 0, as in DCNv2.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        channels: int,
        norm: Norm = "batch",
        *,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        finer = inputs[-2::-1]
        outputs = [channels * 2**i for i in reversed(range(len(finer)))]
        widths = zip((inputs[-1], *outputs), outputs, strict=False)
        self.blocks = nn.ModuleList(_block(*width, norm, deformable) for width in widths)
        self.laterals = nn.ModuleList(
            nn.Conv2d(c, width, 1) for c, width in zip(finer, outputs, strict=True)
        )
        self.output = nn.Conv2d(channels, channels, 3, 1, 1)
        for weight in (p for p in self.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(weight)
        reset_offsets(self)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Merge maps [B, inputs[i], h_i, w_i], finest first, into one map [B, channels, h_0, w_0].

        There are at least two maps; each is half as large as the one before, rounded up.
        """
        merged, *finer = reversed(maps)
        for block, lateral, x in zip(self.blocks, self.laterals, finer, strict=True):
            height, width = x.shape[-2:]
            merged = block(merged)[..., :height, :width] + lateral(x)
        return [self.output(merged)]


def _block(inputs: int, outputs: int, norm: Norm, deformable: bool) -> nn.Sequential:
    """Return a block that maps [B, inputs, h, w] to [B, outputs, 2 h, 2 w]."""
    conv = DeformConv(inputs, outputs) if deformable else _plain(inputs, outputs)
    return nn.Sequential(
        conv,
        _norm(outputs, norm),
        nn.ReLU(),
        nn.ConvTranspose2d(outputs, outputs, 4, 2, 1, bias=False),
        _norm(outputs, norm),
        nn.ReLU(),
    )


def _plain(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)


def _norm(channels: int, norm: Norm) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)
