"""The options of the procedural data set; see `shapes`."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from detectors.data.base import DataOptions
from detectors.options import UnfitError


class ShapesOptions(DataOptions):
    """Options of the layout and the drawing of images."""

    segmented: ClassVar[bool] = True
    name: Literal["shapes"] = "shapes"
    size: int = Field(96, ge=32, le=1024)
    """Height and width of an image, in pixels."""
    train_images: int = Field(1000, ge=1)
    """Images drawn for training."""
    val_images: int = Field(200, ge=1)
    """Images drawn for validation."""
    classes: int = Field(4, ge=1, le=4)
    """Number of classes: the first of ellipse, rectangle, triangle, cross."""
    min_objects: int = Field(2, ge=0, le=100)
    """Minimum number of objects per image; there may be fewer if they can't be placed."""
    max_objects: int = Field(6, ge=0, le=100)
    """Maximum number of objects per image."""
    min_side: float = Field(10.0, ge=6, le=1024)
    """Minimum of the long side of an object's box, in pixels; sides are log-uniform."""
    max_side: float = Field(56.0, ge=6, le=1024)
    """Maximum of the long side of an object's box, in pixels."""
    crowding: float = Field(0.35, ge=0, le=1)
    """Fraction of the objects that are placed beside or partly over an earlier one."""
    max_overlap: float = Field(0.55, ge=0, le=0.9)
    """Maximum IoU of two boxes in an image."""
    clutter: int = Field(3, ge=0, le=20)
    """Maximum number of distractor lines per image."""
    noise: float = Field(0.03, ge=0, le=1)
    """Standard deviation of the Gaussian pixel noise; 1 is the range from black to white."""
    contrast: float = Field(0.45, gt=0, le=0.5)
    """Distance of an object's colour from mid-grey; 1 is the range from black to white."""
    hue_jitter: float = Field(0.35, ge=0, le=1)
    """Standard deviation of an object's hue; 1 is the distance between the hues of two neighbouring
    classes. With small values the colour alone tells the class; from about 0.35 on, only colour and
    shape together do."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Seed of the training images; validation images use the next integer."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        rules = [
            ("min_objects", self.min_objects, "max_objects", self.max_objects),
            ("min_side", self.min_side, "max_side", self.max_side),
            ("max_side", self.max_side, "size", self.size),
        ]
        broken = [f"{a} ({x}) must be at most {b} ({y})" for a, x, b, y in rules if x > y]
        if broken:
            raise UnfitError(*broken)
        return self
