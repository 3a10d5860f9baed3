"""Small detectors with queries, and images for them, that several test files use."""

from typing import Any

import torch
from torch import Tensor

from detectors.assigners import ASSIGNERS
from detectors.losses import LossOptions
from detectors.models import DETECTORS
from detectors.models.base import DetectorOptions
from detectors.models.dense import DenseDetector

QUERIES = 7
SMALL: dict[str, Any] = {
    "backbone": {"name": "tiny", "channels": (8, 16)},
    "channels": 16,
    "feedforward": 32,
    "queries": QUERIES,
}
NAMES = [name for name in DETECTORS if not DETECTORS[name].located]
LOSS = LossOptions(cls_weight=2, l1_weight=5, normalizer="objects")
MATCHING = ASSIGNERS["min_cost"].model_validate({"name": "min_cost", "l1_of": "center_sides"})


def small(name: str, **changes: Any) -> DetectorOptions:
    """Return the options of a detector of `NAMES`, small but for `changes`."""
    return DETECTORS[name].model_validate({"name": name, **SMALL, **changes})


def build(name: str, *branches: Any, **changes: Any) -> DenseDetector:
    """Build the detector of `small` for three classes, by default with the branch o2o."""
    torch.manual_seed(0)
    detector = small(name, **changes).build(3, branches or ("o2o",))
    assert isinstance(detector, DenseDetector)
    return detector


def images(height: int = 32, width: int = 40, batch: int = 2) -> Tensor:
    """Return images of random noise, the same ones for the same arguments."""
    rng = torch.Generator().manual_seed(1)
    return torch.randint(256, (batch, 3, height, width), generator=rng).to(torch.uint8)
