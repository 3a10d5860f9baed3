"""DATE: one-to-one and one-to-many side by side."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Assigner, Branch, Family, Strategy, Supervision
from detectors.assigners.fcos import Fcos
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.poto import Poto
from detectors.options import OneOf


class Dual(Strategy):
    """Two branches on shared towers; the one-to-many branch is dropped at inference (004 Eq. 1).

    l = lambda_o2o * l_o2o + lambda_o2m * l_o2m. Only the last convolutions are private. DATE-F has
    POTO and FCOS, both of weight 1; DATE-R has POTO and RetinaNet, which weighs 2. 004's code for
    CrowdHuman has the minimum cost in place of POTO.
    What each branch predicts and which losses it has are options of detector and training. 004's
    o2o loss is focal (2), L1 (5) and GIoU (2). DATE-F's o2m branch has centerness, the plain IoU
    loss and boxes decoded by exp (`detector.o2m_code`), and its released code takes points from the
    whole box, where `fcos` samples the centre square by default. As in that code, both share the
    levels' scales.
    """

    name: Literal["dual"] = "dual"
    o2o: Annotated[Assigner, OneOf(O2O)] = Poto()
    """Teaches the branch that is kept for inference."""
    o2m: Annotated[Assigner, OneOf(O2M)] = Fcos()
    """Teaches the other one."""
    lambda_o2o: float = Field(1.0, ge=0)
    """Weight of the loss of the one-to-one branch."""
    lambda_o2m: float = Field(1.0, ge=0)
    """Weight of the loss of the one-to-many branch."""

    family: ClassVar[Family] = "dual"

    def branches(self) -> dict[Branch, Supervision]:
        """The one-to-one branch, kept for inference, and the one-to-many branch."""
        return {
            "o2o": Supervision(self.o2o, self.lambda_o2o),
            "o2m": Supervision(self.o2m, self.lambda_o2m),
        }
