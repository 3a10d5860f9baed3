"""DATE: a one-to-one and a one-to-many branch, trained together."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from detectors.assigners.base import Assigner, Branch, Family, Strategy, Supervision
from detectors.assigners.fcos import Fcos
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.poto import Poto
from detectors.options import OneOf, UnfitError


class Dual(Strategy):
    """Trains two branches, of which one-to-one is used at inference (DATE, H-DETR, Group DETR).

    Detectors with queries have `o2o: {name: min_cost}` and an `o2m` that needs no positions:
    `min_cost_many` (H-DETR, Group DETR; see there for the weights) or `ms_detr`. Their branches
    share all layers, or all but those of the class scores; see `detector.o2m_queries`.

    The loss is lambda_o2o * l_o2o + lambda_o2m * l_o2m (004 Eq. 1). Only the last convolutions
    differ between branches. DATE-F has POTO and FCOS, both with weight 1; DATE-R has POTO and
    RetinaNet with weight 2. The code of 004 for CrowdHuman has minimum cost instead of POTO.

    What each branch predicts, and its loss, are options of the detector and the training. The o2o
    loss of 004 is focal loss (weight 2), L1 (5) and GIoU (2). The o2m branch of DATE-F has
    centerness, the IoU loss and boxes encoded with exp (`detector.o2m_code`); its released code
    takes points from the whole box, whereas `fcos` uses the centre square by default. As in that
    code, both branches share the scales of the levels, also if the o2m branch predicts deltas to
    anchors (DATE-R). Its low-quality anchors follow mmdetection (`low_quality_owner: own` of
    `retinanet`).
    """

    name: Literal["dual"] = "dual"
    o2o: Annotated[Assigner, OneOf(O2O)] = Poto()
    """Assigner of the branch that is kept for inference."""
    o2m: Annotated[Assigner, OneOf(O2M)] = Fcos()
    """Assigner of the other branch."""
    lambda_o2o: float = Field(1.0, ge=0)
    """Weight of the loss of the one-to-one branch."""
    lambda_o2m: float = Field(1.0, ge=0)
    """Weight of the loss of the one-to-many branch."""

    family: ClassVar[Family] = "dual"

    @model_validator(mode="after")
    def _trains_a_branch(self) -> Self:
        if not (self.lambda_o2o or self.lambda_o2m):
            raise UnfitError(
                "lambda_o2o: is 0, and so is lambda_o2m: nothing would be trained; set one"
            )
        return self

    def branches(self) -> dict[Branch, Supervision]:
        """Return the one-to-one branch, kept for inference, and the one-to-many branch."""
        return {
            "o2o": Supervision(self.o2o, self.lambda_o2o),
            "o2m": Supervision(self.o2m, self.lambda_o2m),
        }
