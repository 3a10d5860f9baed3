"""The contract of label assignment.

A *strategy* is what a spec names: it says which branches (predictors) a detector trains and which
assigner supervises each, and whether a second one joins in for classification alone (an auxiliary
loss). An *assigner* decides, for one image, which anchor points are positive for which object.
Most strategies are a single assigner.

Every assigner keeps to this:

- It is a pure function: no state, no randomness, no gradients; the same inputs give the same
  assignment on every rank and after every resume. A schedule reads `Progress`.
- An image without objects yields an all-negative assignment.
- A point is responsible for at most one object. (Anchors of one cell are points of their own.)
- Matrices are object x point, [G, N]; nothing loops over objects or points.
- Where objects compete for a point, it goes to the first of those with equal values. Objects of the
  same box and class have exactly equal values. Values of other objects that are equal by their
  formula may differ in the last bit, by how the processor rounds. A one-to-one solution of largest
  total quality may be any of several with that total.
- One-to-one (o2o): an object has exactly one positive point of degree 1 as long as there are at
  least as many points as objects; at most one where an option says so (argmax, argmin).
- One-to-many (o2m): any number, each of degree 1.
- One-to-few (o2f): at most one of degree 1 (the certain point) and a few of a degree in (0, 1).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from detectors.losses import ClsLoss
from detectors.options import Options
from detectors.structures import Assignment, Points, Predictions, Progress, Targets

Family = Literal["o2o", "o2m", "o2f", "hybrid", "mixture", "dual"]
Branch = Literal["o2o", "o2m", "o2f"]


@dataclass(frozen=True)
class Supervision:
    """How one branch is trained: by which assigner, and with which weight in the total loss."""

    assigner: "Assigner"
    weight: float


class Strategy(Options):
    """What a spec's `assignment.name` stands for. `name` is the key in the table `ASSIGNERS`."""

    family: ClassVar[Family]

    @abstractmethod
    def branches(self) -> dict[Branch, Supervision]:
        """The branches to train; the first is the one kept for inference."""

    def auxiliary(self) -> dict[Branch, Supervision]:
        """Branches whose classes alone (before any gate) are trained by a second assigner, too."""
        return {}


class Assigner(Strategy):
    """A strategy with a single branch, supervised by itself."""

    branch: ClassVar[Branch]
    loss: ClassVar[ClsLoss] = "focal"

    @abstractmethod
    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """Assign the N points of one image to its G objects.

        predictions: logits [N, C], boxes [N, 4], detached. Returns an Assignment over N points.
        """

    def branches(self) -> dict[Branch, Supervision]:
        """One branch, of full weight."""
        return {self.branch: Supervision(self, 1.0)}
