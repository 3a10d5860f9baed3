"""The contract of label assignment.

A *strategy* is what a spec names. It defines which branches (predictors) of a detector are trained
and which assigner supervises each, and whether a second assigner adds an auxiliary classification
loss. An *assigner* decides, for one image, which anchor points are positive for which object. Most
strategies are a single assigner.

Every assigner follows these rules:

- It is a pure function: no state, no randomness, no gradients. The same inputs give the same
  assignment on every rank and after every resume. Schedules depend on `Progress`.
- In an image without objects, all points are negative.
- A point is responsible for at most one object. (Each anchor of a cell is a point.)
- Matrices are object x point, [G, N]; there are no loops over objects or points.
- Where objects compete for a point, it goes to the first of those with equal values. Objects of the
  same box and class have exactly equal values. Values of other objects that are equal by their
  formula may differ in the last bit, by how the processor rounds. A one-to-one solution of largest
  total quality may be any of several with that total.
- One-to-one (o2o): an object has exactly one positive point, of degree 1, if there are at least as
  many points as objects; at most one with the options argmax and argmin, and at most one per
  level with per_level.
- One-to-many (o2m): an object has any number of positive points, each of degree 1.
- One-to-few (o2f): an object has at most one point of degree 1 (the certain point) and a few
  (ambiguous) points with a degree in (0, 1).
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
    """How one branch is trained."""

    assigner: "Assigner"
    weight: float
    """Weight in the total loss."""


class Strategy(Options):
    """The options of an assignment in a spec. `name` is the key in the table `ASSIGNERS`."""

    family: ClassVar[Family]

    @abstractmethod
    def branches(self) -> dict[Branch, Supervision]:
        """Return the branches to train; the first one is kept for inference."""

    def auxiliary(self) -> dict[Branch, Supervision]:
        """Return the branches with an auxiliary loss of their class logits (before any gate)."""
        return {}


class Assigner(Strategy):
    """A strategy with a single branch, which it supervises itself."""

    branch: ClassVar[Branch]
    loss: ClassVar[ClsLoss] = "focal"

    @abstractmethod
    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """Assign the N points of one image to its G objects.

        Args:
            points: the N anchor points.
            predictions: logits [N, C] and boxes [N, 4], detached.
            targets: the G objects.
            progress: the progress of the training.

        Returns:
            The assignment of the N points.
        """

    def branches(self) -> dict[Branch, Supervision]:
        """Return the branch, with weight 1."""
        return {self.branch: Supervision(self, 1.0)}
