"""YOLO26: dual assignments whose weight moves to the one-to-one branch during training."""

from typing import ClassVar, Literal

from pydantic import Field

from detectors.assigners.base import Branch, Family, Strategy, Supervision
from detectors.assigners.tal import Tal, TalOne
from detectors.structures import Progress


class ProgressiveDual(Strategy):
    """Trains two branches by their alignment; the weight of the one-to-many branch decreases.

    The progressive loss of YOLO26, from its released code. In epoch e of E, from 0, the weight of
    the one-to-many branch is w = o2m_last + (o2m_first - o2m_last) * (1 - e / (E - 1)), and that of
    the one-to-one branch 1 - w. Both branches rank points as in `tal`. For the one-to-one branch,
    objects compete for their `o2o_topk` best points, and each then keeps the best one of those that
    it was assigned. Only the one-to-one branch is used at inference.

    The weights depend on the progress of the training alone, so they continue after a resume. In
    YOLO26, the one-to-one branch has a head of its own on detached maps, and the loss is binary
    cross-entropy: see `consistent_dual`.
    """

    name: Literal["progressive_dual"] = "progressive_dual"
    alpha: float = Field(0.5, ge=0)
    """Exponent of the class score in the alignment."""
    beta: float = Field(6.0, ge=0)
    """Exponent of the IoU in the alignment."""
    o2m_topk: int = Field(10, ge=1)
    """Maximum number of points per object of the one-to-many branch."""
    o2o_topk: int = Field(7, ge=1)
    """Number of points per object of the one-to-one branch for which objects compete."""
    grow_small: bool = True
    """Whether a side below the finest stride counts as twice that stride in the test whether a
    point lies inside the box."""
    o2m_first: float = Field(0.8, ge=0, le=1)
    """Weight of the loss of the one-to-many branch at the start of training."""
    o2m_last: float = Field(0.1, ge=0, le=1)
    """Weight of the loss of the one-to-many branch at the end of training."""
    weight_per: Literal["epoch", "step"] = "epoch"
    """Whether the weights change after each epoch (released code) or after each step."""

    family: ClassVar[Family] = "dual"

    def branches(self) -> dict[Branch, Supervision]:
        """Return the one-to-one branch, kept for inference, and the one-to-many branch.

        Their weights are those at the start of training; see `weights`.
        """
        alpha, beta, grow = self.alpha, self.beta, self.grow_small
        one = TalOne(alpha=alpha, beta=beta, topk=self.o2o_topk, grow_small=grow)
        many = Tal(alpha=alpha, beta=beta, topk=self.o2m_topk, grow_small=grow)
        first = self.o2m_first
        return {"o2o": Supervision(one, 1 - first), "o2m": Supervision(many, first)}

    def weights(self, progress: Progress) -> dict[Branch, float]:
        """See `Strategy.weights`; those at the start for a training of one epoch or step."""
        if self.weight_per == "epoch":
            done, last = progress.epoch, progress.epochs - 1
        else:
            done, last = progress.step, progress.steps - 1
        left = max(1 - done / max(1, last), 0.0)
        many = self.o2m_last + (self.o2m_first - self.o2m_last) * left
        return {"o2o": 1 - many, "o2m": many}
