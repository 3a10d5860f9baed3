"""The table of backbones, and the smallest of them."""

from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from detectors.models.backbone_base import Backbone, BackboneOptions
from detectors.models.layers import conv_norm
from detectors.models.resnet import ResNet
from detectors.models.timm_backbone import Timm

GROUPS = 8
"""Groups of group norm in `TinyBackbone`."""


class Tiny(BackboneOptions):
    """A residual network for laptops: a stem with stride 2, then basic blocks for each stride."""

    name: Literal["tiny"] = "tiny"
    channels: tuple[int, ...] = Field((16, 32, 48), strict=False, min_length=2)
    """Channels of the maps with strides 4, 8, 16, ...; multiples of 8."""
    blocks: int = Field(1, ge=1)
    """Number of basic blocks per stride; the first one halves the size."""

    @field_validator("channels")
    @classmethod
    def _fit_the_norm(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        if any(count <= 0 or count % GROUPS for count in channels):
            raise ValueError(f"must be positive multiples of {GROUPS}, got {list(channels)}")
        return channels

    @property
    def finest_stride(self) -> int:
        """See `BackboneOptions.finest_stride`."""
        return 4

    def build(self) -> Backbone:
        """See `BackboneOptions.build`."""
        return TinyBackbone(self.channels, self.blocks)


class TinyBackbone(Backbone):
    """See `Tiny`."""

    def __init__(self, channels: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.channels = channels
        self.strides = tuple(4 * 2**i for i in range(len(channels)))
        self.stem = nn.Sequential(conv_norm(3, channels[0], 3, 2, groups=GROUPS), nn.ReLU())
        inputs = (channels[0], *channels[:-1])
        self.blocks = nn.ModuleList(BasicBlock(*io, 2) for io in zip(inputs, channels, strict=True))
        self.further = nn.ModuleList(
            nn.Sequential(*(BasicBlock(c, c, 1) for _ in range(blocks - 1))) for c in channels
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute maps [B, channels[i], ceil(H / strides[i]), ...] of images [B, 3, H, W]."""
        features, maps = self.stem(images), []
        for block, further in zip(self.blocks, self.further, strict=True):
            features = further(block(features))
            maps.append(features)
        return maps


class BasicBlock(nn.Module):
    """The basic block of ResNet: two 3x3 convolutions, the first with the stride, and a shortcut.

    With stride 1, the shortcut is the identity, and `outputs` must equal `inputs`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv_norm(inputs, outputs, 3, stride, groups=GROUPS), nn.ReLU())
        self.second = conv_norm(outputs, outputs, 3, 1, groups=GROUPS)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = conv_norm(inputs, outputs, 1, stride, groups=GROUPS)
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        out: Tensor = self.relu(self.second(self.first(features)) + self.shortcut(features))
        return out


BACKBONES: dict[str, type[BackboneOptions]] = {"tiny": Tiny, "resnet": ResNet, "timm": Timm}
