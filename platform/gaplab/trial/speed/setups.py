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
PYRAMID = {"backbone": RESNET, "channels": 256, "tower_convs": 4, "extra_levels": 2}
QUERY_LOSS = {"cls_weight": 2, "box_weight": 2, "l1_weight": 5, "normalizer": "objects"}


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


_FCOS = {"name": "fcos", **PYRAMID, "groups": 32, "box": "relu"}
SETUPS: dict[str, Setup] = {
    "fcos": Setup(_FCOS, {"name": "fcos"}),
    "fcos-poto": Setup(_FCOS, {"name": "poto"}),
    "retinanet": Setup({"name": "retinanet", **PYRAMID, "groups": 0}, {"name": "retinanet"}),
    "detr": Setup(
        {
            "name": "detr",
            "backbone": RESNET,
            "channels": 256,
            "attention_heads": 8,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "feedforward": 2048,
            "queries": 100,
            "dropout": 0.1,
        },
        {"name": "min_cost"},
        {"optimizer": "adamw", "loss": QUERY_LOSS},
    ),
}
"""Name of a measurement -> what is trained: detectors with ResNet-50 as published."""
