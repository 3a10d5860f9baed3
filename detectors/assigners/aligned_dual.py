"""The two task-aligned branches of YOLOv10 and YOLO26."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Branch, Family, Strategy, Supervision
from detectors.assigners.tal import Aligned
from detectors.losses import ClsLoss


class TalOne(Aligned):
    """Assigns at most one point per object: the best of those that it was assigned."""

    name: Literal["tal_one"] = "tal_one"
    topk: int = Field(1, ge=1)
    """Number of points for which objects compete, before the best one is kept."""

    family: ClassVar[Family] = "o2o"
    branch: ClassVar[Branch] = "o2o"
    loss: ClassVar[ClsLoss] = "cross_entropy"
    kept: ClassVar[int | None] = 1


class TalMany(Aligned):
    """Assigns the points of the highest alignment, as `tal` does, with the loss of YOLO."""

    name: Literal["tal_many"] = "tal_many"
    topk: int = Field(10, ge=1)
    """Maximum number of points per object."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"
    loss: ClassVar[ClsLoss] = "cross_entropy"


class AlignedDual(Strategy):
    """The base of dual assignments whose branches rank points by the same alignment, see `tal`.

    Both branches have binary cross-entropy, with the degree of a point as its target.
    """

    alpha: float = Field(0.5, ge=0)
    """Exponent of the class score in the alignment."""
    beta: float = Field(6.0, ge=0)
    """Exponent of the IoU in the alignment."""
    o2m_topk: int = Field(10, ge=1)
    """Maximum number of points per object of the one-to-many branch."""
    o2o_topk: int
    grow_small: bool

    family: ClassVar[Family] = "dual"

    def supervised(self, one_weight: float, many_weight: float) -> dict[Branch, Supervision]:
        """Return the one-to-one branch, kept for inference, and the one-to-many branch."""
        alpha, beta, grow = self.alpha, self.beta, self.grow_small
        one = TalOne(alpha=alpha, beta=beta, topk=self.o2o_topk, grow_small=grow)
        many = TalMany(alpha=alpha, beta=beta, topk=self.o2m_topk, grow_small=grow)
        return {"o2o": Supervision(one, one_weight), "o2m": Supervision(many, many_weight)}
