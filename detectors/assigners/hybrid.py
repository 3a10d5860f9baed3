"""Hybrid epochs: one-to-many first, one-to-one after."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.fcos import Fcos
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.poto import Poto
from detectors.options import OneOf
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class Hybrid(Assigner):
    """One branch that is taught by `first` for a share of the epochs, then by `then`.

    H-DETR's hybrid epoch scheme on a dense detector, with which 002 section 4.3 compares itself.
    Neither paper's code for it is released. 002 gives neither the share nor the one-to-many rule:
    half of the epochs and FCOS's rule are guesses.
    """

    name: Literal["hybrid"] = "hybrid"
    first: Annotated[Assigner, OneOf(O2M)] = Fcos()
    """Teaches the first epochs."""
    then: Annotated[Assigner, OneOf(O2O)] = Poto()
    """Teaches the others."""
    rho: float = Field(0.5, ge=0, le=1)
    """Share of the epochs taught by `first`: epoch e of E, from 0, is one of them if e < rho * E.
    """

    family: ClassVar[Family] = "hybrid"
    branch: ClassVar[Branch] = "o2o"

    @field_validator("first", "then")
    @classmethod
    def _trains_alike(cls, assigner: Assigner) -> Assigner:
        return need_focal(assigner)

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`."""
        teacher = self.first if progress.epoch < self.rho * progress.epochs else self.then
        return teacher.assign(points, predictions, targets, progress)


def need_focal(assigner: Assigner) -> Assigner:
    """`assigner` itself. Raises ValueError unless it is trained by focal loss."""
    if assigner.loss != "focal":
        name = assigner.model_dump()["name"]
        raise ValueError(f"must be trained by focal loss, {name} has {assigner.loss}: take another")
    return assigner
