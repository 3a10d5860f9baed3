"""Data sets by the name a spec uses for them."""

from detectors.data.base import DataOptions
from detectors.data.coco import Coco
from detectors.data.crowdhuman import CrowdHuman
from detectors.data.shapes import Shapes

DATASETS: dict[str, type[DataOptions]] = {"shapes": Shapes, "coco": Coco, "crowdhuman": CrowdHuman}
"""To add one: its file, a line here, and its row in the tests."""
