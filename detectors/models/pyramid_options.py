"""Options that FCOS and RetinaNet share: backbone, feature pyramid, two towers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from detectors.models.backbone_base import BackboneOptions
from detectors.models.backbones import BACKBONES, Tiny
from detectors.models.base import DetectorOptions
from detectors.models.condinst import MaskBranch
from detectors.models.dense import DenseDetector
from detectors.models.head import TowerHead, TowerShape
from detectors.models.mask_options import CondInst
from detectors.models.pyramid import FeaturePyramid
from detectors.options import LATER, OneOf


class PyramidOptions(DetectorOptions):
    """A detector with the same head on every level of a feature pyramid."""

    backbone: Annotated[BackboneOptions, OneOf(BACKBONES)] = Tiny()
    """The network that computes the maps for the pyramid."""
    channels: int = Field(32, ge=8, multiple_of=8)
    """Channels of the pyramid and the towers."""
    tower_convs: int = Field(2, ge=1)
    """Number of 3x3 convolutions per tower."""
    extra_levels: int = Field(0, ge=0, le=3)
    """Number of pyramid levels coarser than the last map of the backbone (P6, P7)."""
    extra_from: Literal["p5", "c5"] = "p5"
    """Input of the first extra level: the coarsest map of the pyramid (DeFCN, o2f, DATE) or of the
    backbone (RetinaNet in OneNet and Detectron2)."""
    groups: int = Field(8, ge=0)
    """Groups of group norm in the towers; must divide `channels`. 0: no norm."""
    tower_bias: bool = True
    """Whether the convolutions of the towers, and of the centerness path of o2f, have a bias: true
    in the released codes of 002, 003 and FCOS, false in those of 000, 001 and 004."""
    shared_towers: bool = True
    """Whether all branches share both towers, or each has its own (004 Table 9)."""
    detach_o2o: bool = Field(False, json_schema_extra=LATER)
    """Whether gradients of the one-to-one branch stop before what it shares with the one-to-many
    branch: backbone, neck, level scales and shared towers (YOLOv10, with `shared_towers: false`).
    No effect on assignments with a single branch."""
    masks: CondInst | None = Field(None, json_schema_extra=LATER)
    """How masks of objects are predicted: `{name: condinst}`; null: not at all. They are trained
    with `training.loss.mask_weight` and measured by protocols with `evaluator: masks`."""

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.groups and self.channels % self.groups:
            raise ValueError(f"groups must divide channels ({self.channels}), got {self.groups}")
        return self

    @property
    def segments(self) -> bool:
        """See `DetectorOptions.segments`."""
        return self.masks is not None

    def build(self, num_classes: int, branches: Sequence[str]) -> nn.Module:
        """See `DetectorOptions.build`."""
        backbone = self.backbone.build()
        neck = FeaturePyramid(backbone.channels, self.channels, self.extra_levels, self.extra_from)
        coarsest = backbone.strides[-1]
        extra = [coarsest * 2 ** (i + 1) for i in range(self.extra_levels)]
        strides = (*backbone.strides, *extra)
        detached = ("o2o",) if self.detach_o2o and len(branches) > 1 else ()
        shape = TowerShape(
            channels=self.channels,
            convs=self.tower_convs,
            groups=self.groups,
            bias=self.tower_bias,
            shared=self.shared_towers,
            detached=detached,
        )
        parameters = self.masks.parameters if self.masks else 0
        predicted = {name: replace(self.branch(name), masks=parameters) for name in branches}
        head = TowerHead(shape, predicted, len(strides), num_classes)
        if self.masks is None:
            return DenseDetector(backbone, neck, head, strides, predicted)
        masks = MaskBranch(self.masks, self.channels, len(strides), detached)
        return DenseDetector(backbone, neck, head, strides, predicted, masks)
