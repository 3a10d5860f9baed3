"""YOLOv10: a one-to-one and a one-to-many branch that are assigned by the same metric."""

from typing import Literal

from pydantic import Field

from detectors.assigners.aligned_dual import AlignedDual
from detectors.assigners.base import Branch, Supervision


class ConsistentDual(AlignedDual):
    """Trains two branches by the alignment t = s^alpha * u^beta of their own predictions.

    The consistent dual assignments of YOLOv10 (section 3.1): both branches have the same alpha and
    beta, see `tal`; the one-to-many branch assigns 10 points per object, the one-to-one branch the
    best one. Of several objects with the same best point, the one with the highest IoU gets it, and
    the others get none. Only the one-to-one branch is used at inference. The classification loss is
    binary cross-entropy, with the degree as target. Deviations of `tal` from YOLO apply.

    In YOLOv10, the one-to-one branch has a head of its own, and its gradients do not reach backbone
    and neck: `detector.shared_towers: false` and `detector.detach_o2o: true`.
    """

    name: Literal["consistent_dual"] = "consistent_dual"
    o2o_topk: int = Field(1, ge=1)
    """Number of points per object of the one-to-one branch for which objects compete. Each then
    keeps the best one of those that it was assigned."""
    grow_small: bool = False
    """Whether a side below the finest stride counts as twice that stride in the test whether a
    point lies inside the box (YOLO26)."""
    lambda_o2o: float = Field(1.0, ge=0)
    """Weight of the loss of the one-to-one branch."""
    lambda_o2m: float = Field(1.0, ge=0)
    """Weight of the loss of the one-to-many branch."""

    def branches(self) -> dict[Branch, Supervision]:
        """Return the one-to-one branch, kept for inference, and the one-to-many branch."""
        return self.supervised(self.lambda_o2o, self.lambda_o2m)
