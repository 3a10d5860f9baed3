"""Data sets. `DATASETS` maps the name in a spec to the options of a data set."""

from detectors.data.base import DataOptions
from detectors.data.coco import Coco
from detectors.data.crowdhuman import CrowdHuman
from detectors.data.lvis import Lvis
from detectors.data.shapes import Shapes
from detectors.data.shapes_versions import ShapesV1, ShapesV1Crowd
from detectors.data.voc import Voc
from detectors.data.yolo import Yolo

DATASETS: dict[str, type[DataOptions]] = {
    "shapes": Shapes,
    "shapes-v1": ShapesV1,
    "shapes-v1-crowd": ShapesV1Crowd,
    "coco": Coco,
    "crowdhuman": CrowdHuman,
    "yolo": Yolo,
    "voc": Voc,
    "lvis": Lvis,
}
"""Name in a spec -> options. A new data set needs a file, a line here and a row in the tests."""
