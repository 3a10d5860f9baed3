"""FCOS: one prediction per point."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from detectors.models.anchors import AnchorOptions
from detectors.models.gates import GATES, Centerness, GateOptions, NoGate
from detectors.models.predictor import BranchShape
from detectors.models.pyramid_options import PyramidOptions
from detectors.options import OneOf


class FcosOptions(PyramidOptions):
    """A fully convolutional detector with one prediction per point (FCOS; 002, 003, 004).

    The published detector has channels 256, tower_convs 4, extra_levels 2, groups 32 and box relu
    (exp in FCOS as first published and in the one-to-many branch of DATE). tower_bias is false in
    the codes of 001 and 004.
    """

    name: Literal["fcos"] = "fcos"
    published: ClassVar[Mapping[str, Any]] = {
        "channels": 256,
        "tower_convs": 4,
        "extra_levels": 2,
        "groups": 32,
        "box": "relu",
    }
    box: Literal["softplus", "relu", "exp", "deltas"] = "softplus"
    """How the raw output x encodes the distance to a side: softplus(x + 1) or max(x, 0) strides, or
    e^x pixels. x is first multiplied by a learned factor per level, which all branches share.
    `deltas`: shift of the centre and logarithms of side ratios, relative to the square anchor of
    the point (`anchor_scale`), without a factor per level (003 Table 1, "Anchor")."""
    gate: Annotated[GateOptions, OneOf(GATES)] = NoGate()
    """A learned factor of the score of one-to-one and one-to-few branches: the centerness path of
    o2f (002), 3D max filtering (003), or none."""
    centerness: bool = False
    """Whether one-to-many branches predict centerness with a loss of its own; at inference, the
    score is sqrt(class score * centerness)."""
    centerness_from: Literal["box", "cls"] = "box"
    """The tower that centerness is predicted from: `cls` in FCOS as first published and in DATE."""
    anchor_scale: float = Field(4.0, gt=0)
    """Side, in strides, of the square anchor at every point, for the assignments that use one
    (anchor, atss, retinanet; 4 in 003 Table 1, 8 in ATSS) and for `box: deltas`."""
    o2m_code: Literal["same", "softplus", "relu", "exp"] = "same"
    """`box` of the one-to-many branch, if `o2m_box` is `point`; `same`: like `box` (`exp` in
    DATE)."""
    o2m_box: Literal["point", "anchor"] = "point"
    """`anchor`: the one-to-many branch predicts box deltas to `o2m_anchors`, like RetinaNet
    (DATE-R). As in its released code, they are also multiplied by the factor per level."""
    o2m_anchors: AnchorOptions = AnchorOptions()
    """Anchors per cell, if `o2m_box` is `anchor`."""

    @model_validator(mode="after")
    def _gate_fits(self) -> Self:
        gate, groups = self.gate, self.groups or 1
        if isinstance(gate, Centerness) and gate.convs and gate.width % groups:
            raise ValueError(
                f"gate.width must be a multiple of groups ({groups}), got {gate.width}"
            )
        return self

    def branch(self, name: str) -> BranchShape:
        """See `DetectorOptions.branch`."""
        square = ((self.anchor_scale, self.anchor_scale),)
        if name != "o2m":
            return BranchShape(square, self.box, self.gate)
        if self.o2m_box == "anchor":
            shapes, offset = self.o2m_anchors.shapes(), self.o2m_anchors.offset
            return BranchShape(shapes, "deltas", scale_code=True, offset=offset)
        code = self.box if self.o2m_code == "same" else self.o2m_code
        return BranchShape(square, code, NoGate(), self.centerness, self.centerness_from)
