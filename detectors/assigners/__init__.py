"""Label assignments by the name a spec uses."""

from detectors.assigners.base import Strategy
from detectors.assigners.center import Center
from detectors.assigners.dual import Dual
from detectors.assigners.fcos import Fcos
from detectors.assigners.o2f import O2F
from detectors.assigners.poto import Poto

ASSIGNERS: dict[str, type[Strategy]] = {
    "fcos": Fcos,
    "center": Center,
    "poto": Poto,
    "o2f": O2F,
    "dual": Dual,
}
"""The explicit table: adding an assignment is one file, one line here, one row in the tests."""
