"""Hybrid epochs: one-to-many assignment in the first epochs, one-to-one in the others."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.fcos import Fcos
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.poto import Poto
from detectors.options import OneOf
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


class Hybrid(Assigner):
    """One branch, assigned by `first` in a part of the epochs, then by `then` (H-DETR; 002).

    The hybrid epochs of H-DETR. Queries have `first: {name: min_cost_many}` and
    `then: {name: min_cost}`. The defaults are for a dense detector, to which 002 section 4.3
    compares o2f. There is no released code in either paper. 002 gives neither the number of epochs
    nor the one-to-many rule: half of the epochs and the rule of FCOS are assumptions.
    """

    name: Literal["hybrid"] = "hybrid"
    first: Annotated[Assigner, OneOf(O2M)] = Fcos()
    """Assigner of the first epochs."""
    then: Annotated[Assigner, OneOf(O2O)] = Poto()
    """Assigner of the other epochs."""
    rho: float = Field(0.5, ge=0, le=1)
    """Fraction of the epochs assigned by `first`: epoch e of E, from 0, is one if e < rho * E."""

    family: ClassVar[Family] = "hybrid"
    branch: ClassVar[Branch] = "o2o"

    @property
    def needs_positions(self) -> bool:
        """See `Strategy.needs_positions`."""
        return self.first.needs_positions or self.then.needs_positions

    @field_validator("first", "then")
    @classmethod
    def _uses_focal_loss(cls, assigner: Assigner) -> Assigner:
        return require_focal_loss(assigner)

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`."""
        assigner = self.first if progress.epoch < self.rho * progress.epochs else self.then
        return assigner.assign_batch(points, predictions, targets, progress)


def require_focal_loss(assigner: Assigner) -> Assigner:
    """Return `assigner`. Raises ValueError unless its loss is focal loss."""
    if assigner.loss != "focal":
        name = assigner.model_dump()["name"]
        raise ValueError(f"must have focal loss, but {name} has {assigner.loss}; use another one")
    return assigner
