"""ResNet (He et al. 2016) and ResNeXt (Xie et al. 2017), with torchvision's parameter names."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.models.backbone_base import Backbone, BackboneOptions, ImageNetBackbone
from detectors.models.deform import DeformConv, reset_offsets
from detectors.models.weights import load_weights
from detectors.options import LATER, UnfitError

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
PLANES, STRIDES = (64, 128, 256, 512), (4, 8, 16, 32)
"""Planes and strides of layer1 to layer4."""
OFFSETS = (".offsets.weight", ".offsets.bias")
"""Ends of the names of the parameters that only a deformable convolution has."""


class ResNet(BackboneOptions):
    """ResNet with maps C3, C4 and C5 at strides 8, 16 and 32, and optionally C2 at stride 4.

    ResNeXt-101 32x8d has depth 101, groups 32 and width_per_group 8; 64x4d has groups 64 and
    width_per_group 4. Batch norm without fixed statistics uses those of each worker's part of a
    batch.
    """

    name: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101] = 50
    """Number of layers."""
    groups: int = Field(1, ge=1)
    """Groups of the 3x3 convolution of a bottleneck (cardinality of ResNeXt)."""
    width_per_group: int = Field(64, ge=1)
    """Channels per group in the first stage; later stages have 2, 4 and 8 times as many."""
    stride_in: Literal["3x3", "1x1"] = "3x3"
    """Which convolution of a bottleneck has the stride: the 3x3 (torchvision), or the first 1x1
    (the Caffe weights that DeFCN and DATE use)."""
    finest: Literal[4, 8] = 8
    """Stride of the finest map; 4 for detectors with a single level (OneNet)."""
    weights: str = ""
    """Path of a file with the state dict of a torchvision ResNet; empty: random weights. A relative
    path starts at the working directory. A trial's id contains this text, not the content of the
    file: give other weights another file name."""
    deformable_stages: int = Field(0, ge=0, le=4, json_schema_extra=LATER)
    """Number of last stages whose 3x3 convolutions are deformable (DCNv2): 3 is layer2 to layer4,
    as published. Weights of a network without deformation fit: offsets start at 0, but all factors
    at 0.5, so the output of these convolutions is half of what it was, as in the released codes."""
    frozen_stages: int = Field(2, ge=0, le=5)
    """Number of stages whose weights are not trained: 1 is the stem, 2 the stem and layer1, 5
    everything."""
    bn: Literal["frozen", "statistics", "trained"] = "frozen"
    """What is fixed in batch norm. `frozen`: statistics, scale and shift (released code of 003 and
    004). `statistics`: only the statistics, while scale and shift are trained (released code of
    002). `trained`: nothing (CenterNet-style models of 001). In frozen stages all three are
    fixed."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = []
        if self.depth < 50 and (self.groups, self.width_per_group) != (1, 64):
            problems.append(
                "groups and width_per_group need bottlenecks: set depth: 50 or 101, "
                f"got {self.depth}"
            )
        if self.depth < 50 and self.deformable_stages:
            problems.append(
                f"deformable_stages needs bottlenecks: set depth: 50 or 101, got {self.depth}"
            )
        if self.deformable_stages and self.frozen_stages + self.deformable_stages > 5:
            problems.append(
                f"deformable_stages: {self.deformable_stages} includes a frozen stage; set "
                f"frozen_stages to at most {5 - self.deformable_stages}, got {self.frozen_stages}"
            )
        if self.bn != "trained" and not self.weights:
            problems.append(f"bn: {self.bn} needs weights: name a checkpoint or set bn: trained")
        if self.frozen_stages and not self.weights:
            problems.append(
                "frozen_stages needs weights: name a checkpoint or set frozen_stages: 0, "
                f"got {self.frozen_stages}"
            )
        if problems:
            raise UnfitError(*problems)
        return self

    @property
    def finest_stride(self) -> int:
        """See `BackboneOptions.finest_stride`."""
        return self.finest

    def build(self) -> Backbone:
        """See `BackboneOptions.build`. Raises WeightsError."""
        backbone = ResNetBackbone(self)
        if self.weights:
            load_weights(backbone, self.weights, heads=("fc.",), added=OFFSETS)
        return backbone


class ResNetBackbone(ImageNetBackbone):
    """See `ResNet`. Frozen parts have no gradient and stay in eval mode."""

    def __init__(self, options: ResNet) -> None:
        super().__init__()
        self._frozen_stages, self._bn = options.frozen_stages, options.bn
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = _layers(options)
        expansion = BasicBlock.expansion if options.depth < 50 else Bottleneck.expansion
        self._skipped = STRIDES.index(options.finest)
        self.strides = STRIDES[self._skipped :]
        self.channels = tuple(planes * expansion for planes in PLANES[self._skipped :])
        self._initialise()
        for module in self._frozen():
            module.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute C2 or C3 to C5 [B, channels[i], ceil(H / strides[i]), ...] of images."""
        c2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return [c2, c3, c4, self.layer4(c4)][self._skipped :]

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except for frozen parts and norms with fixed statistics."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        if self._bn == "statistics":
            for module in self._norms():
                module.eval()
        return self

    def _frozen(self) -> Iterator[nn.Module]:
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        if self._frozen_stages:
            yield from (self.conv1, self.bn1, *layers[: self._frozen_stages - 1])
        if self._bn == "frozen":
            yield from self._norms()

    def _norms(self) -> Iterator[nn.Module]:
        return (module for module in self.modules() if isinstance(module, nn.BatchNorm2d))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        reset_offsets(self)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(inputs, planes, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, planes, ceil(H / stride), ceil(W / stride)]."""
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.bn2(self.conv2(out)) + self.downsample(features)
        result: Tensor = self.relu(out)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 convolution has groups.

    It is deformable in the last `options.deformable_stages` stages.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, options: ResNet) -> None:
        super().__init__()
        groups, outputs = options.groups, planes * self.expansion
        width = planes * options.width_per_group // 64 * groups
        first, second = (stride, 1) if options.stride_in == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        if planes in PLANES[len(PLANES) - options.deformable_stages :]:
            self.conv2: nn.Conv2d = DeformConv(width, width, second, groups)
        else:
            self.conv2 = nn.Conv2d(width, width, 3, second, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, 4 planes, ceil(H / stride), ceil(W / stride)]."""
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + self.downsample(features)
        result: Tensor = self.relu(out)
        return result


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return the shortcut: the identity if the shapes are equal, otherwise a 1x1 convolution."""
    if inputs == outputs and stride == 1:
        return nn.Sequential()
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _layers(options: ResNet) -> Iterator[nn.Sequential]:
    """Yield layer1 to layer4."""
    block: Callable[[int, int, int], BasicBlock | Bottleneck] = BasicBlock
    if options.depth >= 50:
        block = partial(Bottleneck, options=options)
    inputs = PLANES[0]
    for planes, count in zip(PLANES, BLOCKS[options.depth], strict=True):
        first = block(inputs, planes, 1 if planes == PLANES[0] else 2)
        inputs = planes * first.expansion
        yield nn.Sequential(first, *(block(inputs, planes, 1) for _ in range(count - 1)))
