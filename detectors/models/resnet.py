"""ResNet (He et al. 2016) with torchvision's names, so that its published weights load."""

from collections.abc import Iterator
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.models.backbone_base import Backbone, BackboneOptions
from detectors.models.weights import load_weights

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet's pixels, in 0..255 RGB; torchvision's weights expect images normalised by them."""


class ResNet(BackboneOptions):
    """ResNet up to C5, giving C3, C4 and C5 at strides 8, 16 and 32.

    As in torchvision, a bottleneck's stride is in its 3x3 convolution ("v1.5"); the papers' trunks
    have it in the first 1x1. Batch norm that is not frozen uses the statistics of each worker's own
    share of a batch.
    """

    name: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101] = 50
    weights: str = ""
    """A torchvision ResNet's state dict on disk, or nothing: random weights. A relative path starts
    at the working directory. A trial's id counts this text, not the file's content: give other
    weights another file name."""
    frozen_stages: int = Field(2, ge=0, le=5)
    """Stages that keep their weights: 1 is the stem, 2 the stem and layer1, 5 everything."""
    frozen_bn: bool = True
    """Batch norm keeps its statistics, scale and shift everywhere."""

    @model_validator(mode="after")
    def _something_to_freeze(self) -> Self:
        if self.weights:
            return self
        if self.frozen_bn:
            raise ValueError("frozen_bn needs weights: name a checkpoint or set frozen_bn: false")
        if self.frozen_stages:
            raise ValueError(
                "frozen_stages needs weights: name a checkpoint or set frozen_stages: 0, "
                f"got {self.frozen_stages}"
            )
        return self

    def build(self) -> Backbone:
        """See `BackboneOptions.build`."""
        trunk = ResNetTrunk(self.depth, self.frozen_stages, self.frozen_bn)
        if self.weights:
            load_weights(trunk, self.weights, head="fc.")
        return trunk


class ResNetTrunk(Backbone):
    """See `ResNet`. Frozen parts get no gradient and stay in eval mode."""

    strides = (8, 16, 32)
    _mean: Tensor
    _std: Tensor

    def __init__(self, depth: int, frozen_stages: int, frozen_bn: bool) -> None:
        super().__init__()
        self._frozen_stages, self._frozen_bn = frozen_stages, frozen_bn
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block = BasicBlock if depth < 50 else Bottleneck
        n1, n2, n3, n4 = BLOCKS[depth]
        self.layer1 = _layer(block, 64, 64, n1, 1)
        self.layer2 = _layer(block, 64 * block.expansion, 128, n2, 2)
        self.layer3 = _layer(block, 128 * block.expansion, 256, n3, 2)
        self.layer4 = _layer(block, 256 * block.expansion, 512, n4, 2)
        self.channels = tuple(width * block.expansion for width in (128, 256, 512))
        self.register_buffer("_mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self._initialise()
        for module in self._frozen():
            module.requires_grad_(False).eval()

    def normalise(self, images: Tensor) -> Tensor:
        """See `Backbone.normalise`: with ImageNet's mean and deviation of each channel."""
        return (images.float() - self._mean) / self._std

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] normalised -> C3, C4, C5 [B, channels[i], ceil(H / strides[i]), ...]."""
        c2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]

    def train(self, mode: bool = True) -> Self:
        """As for any module, but for the frozen parts."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> Iterator[nn.Module]:
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        if self._frozen_stages:
            yield from (self.conv1, self.bn1, *layers[: self._frozen_stages - 1])
        if self._frozen_bn:
            yield from (module for module in self.modules() if isinstance(module, nn.BatchNorm2d))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, width, ceil(H / stride), ceil(W / stride)]."""
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.bn2(self.conv2(out)) + self.downsample(features)
        result: Tensor = self.relu(out)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the 3x3 has the stride."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, 4 width, ceil(H / stride), ceil(W / stride)]."""
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + self.downsample(features)
        result: Tensor = self.relu(out)
        return result


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The shortcut: nothing where sizes agree, else a 1x1 convolution."""
    if inputs == outputs and stride == 1:
        return nn.Sequential()
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _layer(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, count: int, stride: int
) -> nn.Sequential:
    rest = [block(width * block.expansion, width, 1) for _ in range(count - 1)]
    return nn.Sequential(block(inputs, width, stride), *rest)
