"""Mixture: a second assigner that trains the classes, too."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from detectors.assigners.base import Assigner, Branch, Family, Strategy, Supervision
from detectors.assigners.hybrid import need_focal
from detectors.assigners.o2f import O2F
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.poto import Poto
from detectors.assigners.quality_atss import QualityAtss
from detectors.options import OneOf


class Mixture(Strategy):
    """One branch, taught by `main`, whose classes `aux` teaches beside it (003 section 3.2.3).

    003's mixture of POTO and an auxiliary loss. As in its released code the auxiliary loss is of
    classification alone and sees the class logits before the gate (3DMF's filter), in assignment
    and in loss, is divided by its own count of positives, and nothing of it is left at inference.
    003's Table 9 has other rules in place of `quality_atss`; no code is released for them.
    """

    name: Literal["mixture"] = "mixture"
    main: Annotated[Assigner, OneOf({**O2O, **O2M, "o2f": O2F})] = Poto()
    """Teaches the branch."""
    aux: Annotated[Assigner, OneOf(O2M)] = QualityAtss()
    """Teaches its classes, too."""
    lambda_aux: float = Field(1.0, ge=0)
    """Weight of the auxiliary loss."""

    family: ClassVar[Family] = "mixture"

    @field_validator("aux")
    @classmethod
    def _aux_is_focal(cls, aux: Assigner) -> Assigner:
        return need_focal(aux)

    def branches(self) -> dict[Branch, Supervision]:
        """That of `main`."""
        return self.main.branches()

    def auxiliary(self) -> dict[Branch, Supervision]:
        """`aux` on the same branch."""
        return {self.main.branch: Supervision(self.aux, self.lambda_aux)}
