"""The contract of label assignment.

A *strategy* is what a spec names. It defines which branches (predictors) of a detector are trained
and which assigner supervises each, and whether a second assigner adds an auxiliary classification
loss. An *assigner* decides, for the images of a batch, which anchor points are positive for which
object. Most strategies are a single assigner.

A new assigner is a class with its options in a file of its own, a line in a table (`O2O`, `O2M` or
`ASSIGNERS`) and a row in `tests/contracts/test_assigners.py`. It implements one method,
`assign_batch`; `family`, `branch` and, if it is not focal loss, `loss` are its class variables.
`geometry` and `ranking` have what most rules consist of, `matching` solves one-to-one matchings.

Every assigner follows these rules:

- It is a pure function: no state, no randomness, no gradients. The same inputs give the same
  assignment on every rank and after every resume. Schedules depend on `Progress`.
- In an image without objects, all points are negative.
- The assignment of an image does not depend on the other images of the batch, to the last bit;
  `geometry.each_image` is for functions that a CPU rounds by position, such as powers.
- A point is responsible for at most one object. (Each anchor of a cell is a point.)
- Matrices are object x point, [B, G, N], where G is the largest number of objects of an image: rows
  without an object (`~targets.real`) hold any numbers and must get no point. There are no loops
  over images, objects or points, and nothing waits for the device: no `if` on a tensor, no
  `nonzero`, no indexing with a mask, no tensor made of Python numbers on the device. `matching`
  alone copies its matrix to the CPU.
- Where objects compete for a point, it goes to the first of those with equal values (with
  `low_quality_owner: own` of `retinanet` alone, to the last). Objects of the
  same box and class have exactly equal values. Values of other objects that are equal by their
  formula may differ in the last bit, by how the processor rounds. A one-to-one solution of largest
  total quality may be any of several with that total.
- One-to-one (o2o): an object has exactly one positive point, of degree 1, if there are at least as
  many points as objects; at most one with the options argmax and argmin, and at most one per
  level with per_level.
- One-to-many (o2m): an object has any number of positive points, each of degree 1.
- With soft targets (`tal` and the one-to-one branch of its kind), degrees are the quality of the
  predictions instead, in (0, 1], and an object whose predictions have no quality has no point.
- One-to-few (o2f): an object has at most one point of degree 1 (the certain point) and a few
  (ambiguous) points with a degree in (0, 1).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from detectors.losses import ClsLoss
from detectors.options import Options
from detectors.structures import (
    Assignment,
    Points,
    Predictions,
    Progress,
    TargetBatch,
    Targets,
)

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
    without_positions: ClassVar[str] = ""
    """The options with which it needs no positions, if it does with others: `prior: global`."""

    @abstractmethod
    def branches(self) -> dict[Branch, Supervision]:
        """Return the branches to train; the first one is kept for inference."""

    def weights(self, progress: Progress) -> dict[Branch, float]:
        """Return the weight of each branch in the total loss, at a stage of the training."""
        return {name: supervision.weight for name, supervision in self.branches().items()}

    @property
    def needs_positions(self) -> bool:
        """Whether it uses positions, strides or levels of points, which queries do not have."""
        all_of = [*self.branches().values(), *self.auxiliary().values()]
        return any(each.assigner.needs_positions for each in all_of)

    def auxiliary(self) -> dict[Branch, Supervision]:
        """Return the branches with an auxiliary loss of their class logits (before any gate)."""
        return {}


class Assigner(Strategy):
    """A strategy with a single branch, which it supervises itself."""

    branch: ClassVar[Branch]
    loss: ClassVar[ClsLoss] = "focal"
    one_per_cell: ClassVar[bool] = False
    """Whether it needs a detector with one point per cell."""

    @property
    def needs_positions(self) -> bool:
        """See `Strategy.needs_positions`; True unless a rule says otherwise."""
        return True

    @abstractmethod
    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """Assign the N points of every image to the objects of that image.

        Args:
            points: the N anchor points.
            predictions: finite logits [B, N, C] and boxes [B, N, 4], detached.
            targets: the objects of the B images.
            progress: the progress of the training.

        Returns:
            The assignment [B, N] of the points.
        """

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """Assign the N points of one image to its G objects.

        Args:
            points: the N anchor points.
            predictions: finite logits [N, C] and boxes [N, 4], detached.
            targets: the G objects.
            progress: the progress of the training.

        Returns:
            The assignment [N] of the points.
        """
        batch = Predictions(predictions.logits[None], predictions.boxes[None])
        objects = TargetBatch.of([targets], predictions.boxes.device)
        found = self.assign_batch(points, batch, objects, progress)
        weight = None if found.weight is None else found.weight[0]
        return Assignment(found.object[0], found.degree[0], weight)

    def branches(self) -> dict[Branch, Supervision]:
        """Return the branch, with weight 1."""
        return {self.branch: Supervision(self, 1.0)}
