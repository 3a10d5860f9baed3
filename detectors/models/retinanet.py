"""RetinaNet: a few anchors in every cell."""

from typing import Literal

from detectors.models.anchors import AnchorOptions
from detectors.models.predictor import BranchShape
from detectors.models.pyramid_options import PyramidOptions


class RetinaNetOptions(PyramidOptions):
    """A prediction for every anchor, boxes as deltas to it (RetinaNet; 000 Tables 1 to 3).

    Its published shape: channels 256, tower_convs 4, extra_levels 2, groups 0 (no norm). Every
    branch has the same anchors.
    """

    name: Literal["retinanet"] = "retinanet"
    anchors: AnchorOptions = AnchorOptions()
    """Anchors of every cell."""

    def branch(self, name: str) -> BranchShape:
        """See `PyramidOptions.branch`."""
        return BranchShape(self.anchors.shapes(), "deltas")
