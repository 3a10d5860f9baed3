"""Options that DETR, Deformable DETR and Sparse R-CNN share."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from detectors.models.backbone_base import BackboneOptions
from detectors.models.backbones import BACKBONES, Tiny
from detectors.models.base import DetectorOptions
from detectors.models.predictor import BranchShape
from detectors.options import OneOf


class QueryOptions(DetectorOptions):
    """A detector that predicts at queries, which attend to each other."""

    located: ClassVar[bool] = False
    backbone: Annotated[BackboneOptions, OneOf(BACKBONES)] = Tiny()
    """The network that computes feature maps from images."""
    channels: int = Field(64, ge=8, multiple_of=8)
    """Channels of the maps and of the queries."""
    attention_heads: int = Field(4, ge=1)
    """Heads of every attention; must divide `channels`."""
    feedforward: int = Field(128, ge=1)
    """Hidden channels of the feed-forward part of a layer."""
    queries: int = Field(25, ge=1)
    """Number of queries: the maximum number of objects of an image."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of values that are set to 0 in training, in attention and after every part."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.channels % self.attention_heads:
            raise ValueError(
                f"attention_heads must divide channels ({self.channels}), "
                f"got {self.attention_heads}"
            )
        return self

    def branch(self, name: str) -> BranchShape:
        """See `DetectorOptions.branch`; queries have no anchors."""
        return BranchShape((), "relative")
