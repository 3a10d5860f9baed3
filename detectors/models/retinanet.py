"""RetinaNet: several anchors per cell."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from detectors.models.anchors import AnchorOptions
from detectors.models.predictor import BranchShape
from detectors.models.pyramid_options import PyramidOptions


class RetinaNetOptions(PyramidOptions):
    """One prediction per anchor, with boxes as deltas to it (RetinaNet; 000 Tables 1 to 3).

    The published detector has channels 256, tower_convs 4, extra_levels 2 and groups 0 (no norm).
    All branches have the same anchors. Deltas are not scaled per level.
    """

    name: Literal["retinanet"] = "retinanet"
    published: ClassVar[Mapping[str, Any]] = {
        "channels": 256,
        "tower_convs": 4,
        "extra_levels": 2,
        "groups": 0,
    }
    anchors: AnchorOptions = AnchorOptions()
    """Anchors per cell."""

    def branch(self, name: str) -> BranchShape:
        """See `DetectorOptions.branch`."""
        return BranchShape(self.anchors.shapes(), "deltas", offset=self.anchors.offset)
