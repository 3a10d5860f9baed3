"""The dense detector: trunk, pyramid, FCOS-shaped head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.assigners.base import Branch
from detectors.models.backbone_base import BackboneOptions
from detectors.models.backbones import BACKBONES, Tiny
from detectors.models.base import DetectorOptions
from detectors.models.head import FcosHead, HeadShape
from detectors.models.points import pyramid_points
from detectors.models.pyramid import FeaturePyramid
from detectors.options import OneOf
from detectors.structures import Points, Predictions


@dataclass(frozen=True)
class Output:
    """Predictions of every branch asked for, at the same points."""

    points: Points
    branches: dict[str, Predictions]


class FcosOptions(DetectorOptions):
    """A fully convolutional detector with one prediction a point (FCOS), without centerness."""

    name: Literal["fcos"] = "fcos"
    backbone: Annotated[BackboneOptions, OneOf(BACKBONES)] = Tiny()
    channels: int = Field(32, ge=8, multiple_of=8)
    """Channels of pyramid and towers."""
    tower_convs: int = Field(2, ge=1)
    """3x3 convolutions in each of the two towers."""
    extra_levels: int = Field(0, ge=0, le=3)
    """Pyramid levels coarser than the trunk's last map (P6, P7)."""
    groups: int = Field(8, ge=1)
    """Groups of the towers' group norm; must divide `channels`."""

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.channels % self.groups:
            raise ValueError(f"groups must divide channels ({self.channels}), got {self.groups}")
        return self

    def build(self, num_classes: int, branches: Sequence[Branch]) -> nn.Module:
        """See `DetectorOptions.build`."""
        return FcosDetector(self, num_classes, branches)


class FcosDetector(nn.Module):
    """See `FcosOptions`. The first of `branches` is the one kept for inference."""

    def __init__(self, options: FcosOptions, num_classes: int, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.backbone = options.backbone.build()
        self.pyramid = FeaturePyramid(
            self.backbone.channels, options.channels, options.extra_levels
        )
        coarsest = self.backbone.strides[-1]
        extra = [coarsest * 2 ** (i + 1) for i in range(options.extra_levels)]
        self.strides = (*self.backbone.strides, *extra)
        shape = HeadShape(options.channels, options.tower_convs, options.groups)
        self.head = FcosHead(shape, self.strides, num_classes, branches)

    def forward(self, images: Tensor, branches: Sequence[str] | None = None) -> Output:
        """[B, 3, H, W] uint8 RGB -> predictions of `branches`, by default of all.

        A branch that is not asked for costs nothing.
        """
        levels = self.pyramid(self.backbone(self.backbone.normalise(images)))
        sizes = [(x.shape[-2], x.shape[-1]) for x in levels]
        points = pyramid_points(sizes, self.strides, images.device)
        raw = self.head(levels, tuple(self.head.predictors) if branches is None else branches)
        return Output(
            points, {b: Predictions(lo, decode(points, ltrb)) for b, (lo, ltrb) in raw.items()}
        )


def decode(points: Points, ltrb: Tensor) -> Tensor:
    """Boxes xyxy from distances to their sides: [..., N, 4] pixels -> [..., N, 4] pixels."""
    return torch.cat([points.xy - ltrb[..., :2], points.xy + ltrb[..., 2:]], dim=-1)
