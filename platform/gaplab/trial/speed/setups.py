"""The detectors whose training steps are measured, and the table of their names."""

from dataclasses import dataclass, field
from typing import Any

from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Strategy
from detectors.cost import without_weights
from detectors.models import DETECTORS
from detectors.models.base import DetectorOptions
from detectors.training import Training

CLASSES = 80
"""As in COCO."""
# As with published weights: batch norm, stem and first stage are fixed.
RESNET = {"name": "resnet", "depth": 50, "weights": "left out"}
ONE_TO_MANY = {"fcos": "fcos", "retinanet": "retinanet"}
"""Detectors whose own assignment is one-to-many; others are trained with `min_cost`."""
MATCHED_LOSS = {"cls_weight": 2, "box_weight": 2, "l1_weight": 5, "normalizer": "objects"}


@dataclass(frozen=True)
class Setup:
    """A detector and its assignment, as in a spec."""

    detector: dict[str, Any]
    assignment: dict[str, Any]
    training: dict[str, Any] = field(default_factory=lambda: {"optimizer": "sgd"})

    def options(self) -> DetectorOptions:
        """Return the options of the detector, whose weights will be random."""
        model = DETECTORS[self.detector["name"]]
        return without_weights(model.model_validate(self.detector))

    def strategy(self) -> Strategy:
        """Return the options of the assignment."""
        return ASSIGNERS[self.assignment["name"]].model_validate(self.assignment)

    def recipe(self, batch: int, precision: str, *, compiled: bool = False) -> Training:
        """Return the options of the training.

        The learning rate is so small that no weight leaves the range of random ones.
        """
        given = {"lr": 1e-7, "batch": batch, "precision": precision, "compile": compiled}
        return Training.model_validate({**given, **self.training})


def _published(name: str, assignment: str) -> Setup:
    """Return a detector with ResNet-50 as published."""
    changes = dict(DETECTORS[name].published)
    backbone = {**RESNET, **changes.pop("backbone", {})}
    training = {"optimizer": "adamw", "loss": MATCHED_LOSS}
    return Setup(
        {"name": name, "backbone": backbone, **changes},
        {"name": assignment},
        training if assignment == "min_cost" else {"optimizer": "sgd"},
    )


SETUPS: dict[str, Setup] = {
    **{name: _published(name, ONE_TO_MANY.get(name, "min_cost")) for name in DETECTORS},
    "fcos-poto": _published("fcos", "poto"),
}
"""Name of a measurement -> what is trained: all detectors, with ResNet-50 as published."""
