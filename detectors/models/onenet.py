"""OneNet: a detector with a single level of stride 4, like CenterNet."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.models.backbone_base import BackboneOptions
from detectors.models.backbones import BACKBONES, Tiny
from detectors.models.base import DetectorOptions
from detectors.models.deconv import Deconv
from detectors.models.dense import DenseDetector
from detectors.models.predictor import BranchShape, Predictor
from detectors.models.pyramid import TopDown
from detectors.options import LATER, OneOf
from detectors.structures import Points, Predictions


class OneNetOptions(DetectorOptions):
    """One 3x3 convolution and two predictors on one map of stride 4 (001 section 4; CenterNet).

    The published detector has channels 64, box pixels, and neck deconv with deformable
    convolutions. With `heads` > 1, heads are
    cascaded in training (001 section 4.1): head j has a convolution of its own, whose input is the
    map F_0 of the neck and the features F_{j-1} of the head before (F_0 twice for the first head);
    class and box convolutions are shared. There is no released code for several heads.

    CenterNet is `box: size_offset` with the assignment `centernet` and, in the training, the loss
    `{box: size_offset, box_weight: 1, normalizer: objects}`.

    Deviations: in CenterNet, class, size and offset have a 3x3 convolution each before their
    predictor, which is 1x1; an object whose centre cell belongs to a smaller object still trains
    size and offset there. The heads of 001 are initialised Xavier-uniform, ours like a plain
    convolution and small predictors.
    """

    name: Literal["onenet"] = "onenet"
    published: ClassVar[Mapping[str, Any]] = {
        "backbone": {"finest": 4, "bn": "trained", "frozen_stages": 0},
        "neck": "deconv",
        "neck_deformable": True,
        "channels": 64,
        "box": "pixels",
    }
    backbone: Annotated[BackboneOptions, OneOf(BACKBONES)] = Tiny()
    """A backbone whose finest map has stride 4: a ResNet needs `finest: 4`."""
    neck: Literal["top_down", "deconv"] = "top_down"
    """`deconv`: transposed convolutions, like CenterNet; `top_down`: lateral convolutions and
    nearest upsampling, like a feature pyramid."""
    neck_norm: Literal["batch", "group"] = "batch"
    """Norm of the neck `deconv`."""
    neck_deformable: bool = Field(False, json_schema_extra=LATER)
    """Whether the 3x3 convolutions of the neck `deconv` are deformable (DCNv2), as in the models
    `dcn` of OneNet and in CenterNet."""
    channels: int = Field(32, ge=8, multiple_of=8)
    """Channels of the neck's map and of the heads."""
    box: Literal["softplus", "relu", "pixels", "size_offset"] = "softplus"
    """How the raw output x encodes the distance to a side: softplus(x + 1) or max(x, 0) strides, or
    max(x, 0) pixels. `size_offset`: offset of the centre in its cell, and width and height, in
    strides (CenterNet; with the loss of the same name and the assignment `centernet`)."""
    heads: int = Field(1, ge=1, le=8)
    """Number of cascaded heads in training."""
    infer_head: int = Field(1, ge=1)
    """The head used at inference, counted from 1. Later heads are then not computed."""
    anchor_scale: float = Field(4.0, gt=0)
    """Side, in strides, of the square anchor at every point; see the detector `fcos`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.infer_head > self.heads:
            raise ValueError(f"infer_head: at most heads ({self.heads}), got {self.infer_head}")
        if self.backbone.finest_stride != 4:
            raise ValueError("backbone: its finest map must have stride 4; a resnet has finest: 4")
        if self.neck_deformable and self.neck != "deconv":
            raise ValueError("neck_deformable: true needs neck: deconv")
        return self

    def branch(self, name: str) -> BranchShape:
        """See `DetectorOptions.branch`."""
        return BranchShape(((self.anchor_scale, self.anchor_scale),), self.box)

    def build(self, num_classes: int, branches: Sequence[str]) -> nn.Module:
        """See `DetectorOptions.build`."""
        backbone = self.backbone.build()
        predicted = {name: self.branch(name) for name in branches}
        neck = self._neck(backbone.channels)
        head = CascadeHead(self, predicted, num_classes)
        return DenseDetector(backbone, neck, head, (4,), predicted)

    def _neck(self, inputs: Sequence[int]) -> nn.Module:
        if self.neck == "deconv":
            return Deconv(inputs, self.channels, self.neck_norm, deformable=self.neck_deformable)
        return TopDown(inputs, self.channels)


class CascadeHead(nn.Module):
    """The cascaded heads of `OneNetOptions`: all in training, else those up to `infer_head`."""

    def __init__(
        self, options: OneNetOptions, branches: Mapping[str, BranchShape], num_classes: int
    ) -> None:
        super().__init__()
        channels, self.infer_head = options.channels, options.infer_head
        wide = channels if options.heads == 1 else 2 * channels
        self.stages = nn.ModuleList(
            nn.Conv2d(wide, channels, 3, 1, 1) for _ in range(options.heads)
        )
        self.predictors = nn.ModuleDict()
        for name, branch in branches.items():
            self.predictors[name] = Predictor(branch, channels, num_classes, 1)
        self.register_buffer("_scale", torch.ones(1), persistent=False)

    def forward(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> dict[str, tuple[Predictions, ...]]:
        """See `detectors.models.dense.Head`."""
        features = self._features(levels[0])
        used = features if self.training else features[-1:]
        return {
            name: tuple(self.predictors[name]([(x, x)], self._scale, at) for x in used)
            for name, at in points.items()
        }

    def _features(self, base: Tensor) -> list[Tensor]:
        """Return F_1, F_2, ... of all heads in training, otherwise up to `infer_head`."""
        stages = self.stages if self.training else self.stages[: self.infer_head]
        found = [base]
        for stage in stages:
            inputs = base if len(self.stages) == 1 else torch.cat([base, found[-1]], 1)
            found.append(F.relu(stage(inputs)))
        return found[1:]
