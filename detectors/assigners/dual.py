"""DATE-F: one-to-one and one-to-many side by side."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Branch, Family, Strategy, Supervision
from detectors.assigners.fcos import Fcos
from detectors.assigners.poto import Poto


class Dual(Strategy):
    """Two branches on shared towers; the one-to-many branch is dropped at inference (004 Eq. 1).

    l = lambda_o2o * l_o2o (POTO) + lambda_o2m * l_o2m (FCOS). Only the last convolutions are
    private. Deviations: both branches use this project's focal and GIoU losses with the same
    weights (004 adds an L1 term to o2o and centerness to o2m), and the o2m branch samples
    the centre square where the released code takes the whole box. 004's o2m branch decodes with
    exp and has the plain IoU loss; here both branches share decoding and the GIoU loss. As in its
    code, both share the scales of the levels.
    """

    name: Literal["dual"] = "dual"
    alpha: float = Field(0.8, ge=0, le=1)
    """POTO's alpha, for the one-to-one branch."""
    radius: float = Field(1.5, gt=0)
    """Half side of the centre square in strides, for both branches."""
    range_factor: float = Field(8.0, gt=0)
    """FCOS's `range_factor`, for the one-to-many branch."""
    lambda_o2o: float = Field(1.0, ge=0)
    lambda_o2m: float = Field(1.0, ge=0)

    family: ClassVar[Family] = "dual"

    def branches(self) -> dict[Branch, Supervision]:
        """The one-to-one branch, kept for inference, and the one-to-many branch."""
        o2o = Poto(alpha=self.alpha, radius=self.radius)
        o2m = Fcos(radius=self.radius, range_factor=self.range_factor)
        return {
            "o2o": Supervision(o2o, self.lambda_o2o),
            "o2m": Supervision(o2m, self.lambda_o2m),
        }
