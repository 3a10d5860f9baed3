"""FCOS: one prediction at every point."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from detectors.models.anchors import AnchorOptions
from detectors.models.gates import GATES, Centerness, GateOptions, NoGate
from detectors.models.predictor import BranchShape
from detectors.models.pyramid_options import PyramidOptions
from detectors.options import LATER, OneOf


class FcosOptions(PyramidOptions):
    """A fully convolutional detector with one prediction a point (FCOS; 002, 003, DATE-F, DATE-R).

    Its published shape: channels 256, tower_convs 4, extra_levels 2, groups 32, box relu (exp in
    FCOS as first published and in DATE's one-to-many branch).
    """

    name: Literal["fcos"] = "fcos"
    box: Literal["softplus", "relu", "exp"] = "softplus"
    """From the raw output x to a side's distance: softplus(x + 1) or max(x, 0) strides, or e^x
    pixels; x is scaled by a learned factor of its level, which all branches share."""
    gate: Annotated[GateOptions, OneOf(GATES)] = NoGate()
    """A learned second factor of the score of one-to-one and one-to-few branches: o2f's centerness
    path (002), 3D max filtering (003), or none."""
    centerness: bool = False
    """One-to-many branches predict centerness, trained by itself; at inference the score is
    sqrt(class score * centerness)."""
    centerness_from: Literal["box", "cls"] = "box"
    """The tower it is predicted from: `cls` in FCOS as first published and in DATE."""
    anchor_scale: float = Field(4.0, gt=0)
    """Side in strides of the square anchor at every point, for assignments that need one (anchor,
    atss, retinanet; 003 Table 1 has 4, ATSS 8). Nothing else looks at it."""
    o2m_code: Literal["same", "softplus", "relu", "exp"] = Field("same", json_schema_extra=LATER)
    """The same for the one-to-many branch of points; `same`: as `box` (DATE has `exp` there)."""
    o2m_box: Literal["point", "anchor"] = "point"
    """`anchor`: the one-to-many branch is RetinaNet's, with `o2m_anchors` and box deltas (DATE-R).
    """
    o2m_anchors: AnchorOptions = AnchorOptions()
    """Anchors of a cell where `o2m_box` is `anchor`."""

    @model_validator(mode="after")
    def _gate_fits(self) -> Self:
        gate, groups = self.gate, self.groups or 1
        if isinstance(gate, Centerness) and gate.convs and gate.width % groups:
            raise ValueError(
                f"gate.width must be a multiple of groups ({groups}), got {gate.width}"
            )
        return self

    def branch(self, name: str) -> BranchShape:
        """See `PyramidOptions.branch`."""
        square = ((self.anchor_scale, self.anchor_scale),)
        if name != "o2m":
            return BranchShape(square, self.box, self.gate)
        if self.o2m_box == "anchor":
            return BranchShape(self.o2m_anchors.shapes(), "deltas")
        code = self.box if self.o2m_code == "same" else self.o2m_code
        return BranchShape(square, code, NoGate(), self.centerness, self.centerness_from)
