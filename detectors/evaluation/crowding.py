"""How crowded objects are: the IoU with their nearest neighbour, and what NMS makes of them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.evaluation.crowd import recall_ceiling
from detectors.evaluation.overlaps import overlaps
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth, as_candidates

CROWDING = (0.1, 0.3, 0.5)
"""IoUs with the nearest neighbour above which objects are counted as crowded."""


def nearest_iou(truth: GroundTruth, class_wise: bool = True) -> NDArray[np.float64]:
    """Return the highest IoU of each object with another object of its image: [G] in [0, 1].

    NMS can only confuse objects that overlap. Crowd regions are neither objects nor neighbours;
    their IoU is 0, like that of an object without neighbours.

    Args:
        truth: the ground truth.
        class_wise: whether only objects of the same class are neighbours, as for class-wise NMS.
    """
    position = (~truth.crowd).nonzero()[:, 0]
    nearest = torch.zeros(len(truth.labels), dtype=torch.float64)
    candidates = as_candidates(truth)
    for rows, targets, iou in overlaps(candidates, truth, ~truth.crowd, class_wise=class_wise):
        own = position[rows]
        others = iou * (own[:, :, None] != targets[:, None])
        nearest[own[rows >= 0]] = others.amax(dim=2).double()[rows >= 0]
    return np.asarray(nearest.numpy())


@dataclass(frozen=True)
class Crowding:
    """How crowded the objects of a data set are."""

    above: dict[float, float]
    """IoU -> part of the objects, in [0, 1], that overlap another object of their class more."""
    recall_ceiling: float
    """Recall, in [0, 1], that NMS leaves to a detector that finds exactly the objects."""


def crowding(truth: GroundTruth, protocol: Protocol) -> Crowding:
    """Measure how crowded objects are, whatever their number per image.

    Args:
        truth: the ground truth.
        protocol: whose NMS is used. `max_dets` is not applied, so that only NMS can remove objects.

    Raises:
        ValueError: there is no object, or the protocol has no recall ceiling (see
            `recall_ceiling`).
    """
    truth.require_objects()
    nearest = nearest_iou(truth)[~truth.crowd.numpy()]
    above = {iou: float((nearest > iou).mean()) for iou in CROWDING}
    unlimited = protocol.model_copy(update={"max_dets": len(nearest)})
    return Crowding(above, recall_ceiling(truth, unlimited))
