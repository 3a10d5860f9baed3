"""The table of one-to-one assigners."""

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
"""Name in a spec -> options. A new assignment needs a file, a line here and a row in the tests."""
