"""Mixture: a second assigner adds an auxiliary classification loss."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from detectors.assigners.base import Assigner, Branch, Family, Strategy, Supervision
from detectors.assigners.hybrid import require_focal_loss
from detectors.assigners.o2f import O2F
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.poto import Poto
from detectors.assigners.quality_atss import QualityAtss
from detectors.options import OneOf


class Mixture(Strategy):
    """One branch, supervised by `main`, with an auxiliary loss by `aux` (003 section 3.2.3).

    The mixture of POTO and an auxiliary loss in 003. As in its released code, the auxiliary loss is
    a classification loss. Its assignment and its loss use the class logits before the gate (the max
    filter of 3DMF), and it is divided by its own number of positives. It has no effect on
    inference. 003 Table 9 has other rules instead of `quality_atss`; there is no released code for
    them.
    """

    name: Literal["mixture"] = "mixture"
    main: Annotated[Assigner, OneOf({**O2O, **O2M, "o2f": O2F})] = Poto()
    """Assigner of the branch."""
    aux: Annotated[Assigner, OneOf(O2M)] = QualityAtss()
    """Assigner of the auxiliary loss."""
    lambda_aux: float = Field(1.0, ge=0)
    """Weight of the auxiliary loss."""

    family: ClassVar[Family] = "mixture"

    @field_validator("aux")
    @classmethod
    def _aux_uses_focal_loss(cls, aux: Assigner) -> Assigner:
        return require_focal_loss(aux)

    def branches(self) -> dict[Branch, Supervision]:
        """Return the branch of `main`."""
        return self.main.branches()

    def auxiliary(self) -> dict[Branch, Supervision]:
        """Return `aux` for the same branch."""
        return {self.main.branch: Supervision(self.aux, self.lambda_aux)}
