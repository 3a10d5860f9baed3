"""YOLO26: dual assignments whose weight moves to the one-to-one branch during training."""

from typing import Literal

from pydantic import Field

from detectors.assigners.aligned_dual import AlignedDual
from detectors.assigners.base import Branch, Supervision
from detectors.structures import Progress


class ProgressiveDual(AlignedDual):
    """Trains two branches by their alignment; the weight of the one-to-many branch decreases.

    The progressive loss of YOLO26, from its released code. In epoch e of E, from 0, the weight of
    the one-to-many branch is w = o2m_last + (o2m_first - o2m_last) * (1 - e / (E - 1)), and that of
    the one-to-one branch 1 - w. Both branches rank points as in `tal`. For the one-to-one branch,
    objects compete for their `o2o_topk` best points, and each then keeps the best one of those that
    it was assigned. Only the one-to-one branch is used at inference. The classification loss is
    binary cross-entropy, with the degree as target. Deviations of `tal` from YOLO apply.

    The weights depend on the progress of the training alone, so they continue after a resume. In
    YOLO26, the one-to-one branch has a head of its own on detached maps: see `consistent_dual`.
    """

    name: Literal["progressive_dual"] = "progressive_dual"
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

    def branches(self) -> dict[Branch, Supervision]:
        """Return the one-to-one branch, kept for inference, and the one-to-many branch.

        Their weights are those at the start of training; see `weights`.
        """
        return self.supervised(1 - self.o2m_first, self.o2m_first)

    def weights(self, progress: Progress) -> dict[Branch, float]:
        """See `Strategy.weights`; those at the start for a training of one epoch or step."""
        if self.weight_per == "epoch":
            done, last = progress.epoch, progress.epochs - 1
        else:
            done, last = progress.step, progress.steps - 1
        left = max(1 - done / max(1, last), 0.0)
        many = self.o2m_last + (self.o2m_first - self.o2m_last) * left
        return {"o2o": 1 - many, "o2m": many}
