"""Options of the anchor boxes per cell."""

from pydantic import Field, field_validator

from detectors.models.points import Shape, anchor_shapes
from detectors.options import Options


class AnchorOptions(Options):
    """One anchor per cell for every pair of scale and ratio; the defaults are RetinaNet's nine."""

    scales: tuple[float, ...] = Field((4.0, 5.04, 6.35), strict=False, min_length=1)
    """Square roots of the areas, in strides; by default 4 times 2^0, 2^(1/3) and 2^(2/3)."""
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), strict=False, min_length=1)
    """Ratios of height to width."""
    offset: float = Field(0.0, ge=0, lt=1)
    """Position of the anchors of cell (i, j) in strides: their centre is at ((j + offset) * stride,
    (i + offset) * stride). 0 in detectron2, mmdetection and the codes of 000, 001 and 004 (the
    paper of RetinaNet does not say); 0.5 is the centre of the cell."""

    @field_validator("scales", "ratios")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(value <= 0 for value in values):
            raise ValueError(f"must be positive, got {list(values)}")
        return values

    def shapes(self) -> tuple[Shape, ...]:
        """Return (width, height) of each anchor, in strides."""
        return anchor_shapes(self.scales, self.ratios)
