"""A deformable convolution that predicts its own offsets."""

from torch import Tensor, nn

from detectors.models.operators.deform_conv import Geometry, deform_conv

CELLS = 9
"""Cells of the 3x3 kernel."""


class DeformConv(nn.Conv2d):
    """A modulated deformable 3x3 convolution with padding 1, without bias (DCNv2).

    A plain convolution of the same input, `offsets`, predicts for each cell of the kernel an offset
    (y, x) and the logit of a factor: first 18 channels, then 9, as in detectron2 and mmcv. It is
    initially 0, so offsets are 0, all factors 0.5, and the result is half of that of a plain
    convolution (DCNv2 section 3.2). The other parameters have the names and shapes of a plain one.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
        self.offsets = nn.Conv2d(inputs, 3 * CELLS, 3, stride, 1)
        self.geometry = Geometry(stride, 1, 1, groups)
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Set all parameters of `offsets` to 0."""
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        offset, logits = self.offsets(features).split([2 * CELLS, CELLS], 1)
        return deform_conv(features, offset, logits.sigmoid(), self.weight, None, self.geometry)


def reset_offsets(module: nn.Module) -> None:
    """Reset the offsets of all deformable convolutions in `module`."""
    for part in module.modules():
        if isinstance(part, DeformConv):
            part.reset_offsets()
