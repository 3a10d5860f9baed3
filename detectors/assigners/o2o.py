"""One-to-one assigners by the name a spec uses."""

from detectors.assigners.anchor import Anchor
from detectors.assigners.base import Assigner
from detectors.assigners.center import Center
from detectors.assigners.foreground import Foreground
from detectors.assigners.min_cost import MinCost
from detectors.assigners.poto import Poto

O2O: dict[str, type[Assigner]] = {
    "center": Center,
    "anchor": Anchor,
    "foreground": Foreground,
    "min_cost": MinCost,
    "poto": Poto,
}
"""The explicit table: adding an assignment is one file, one line here, one row in the tests."""
