"""Label assignments. `ASSIGNERS` maps the name in a spec to the options of an assignment."""

from detectors.assigners.base import Strategy
from detectors.assigners.consistent_dual import ConsistentDual
from detectors.assigners.dual import Dual
from detectors.assigners.hybrid import Hybrid
from detectors.assigners.mixture import Mixture
from detectors.assigners.o2f import O2F
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.progressive_dual import ProgressiveDual

ASSIGNERS: dict[str, type[Strategy]] = {
    **O2M,
    **O2O,
    "o2f": O2F,
    "hybrid": Hybrid,
    "mixture": Mixture,
    "dual": Dual,
    "consistent_dual": ConsistentDual,
    "progressive_dual": ProgressiveDual,
}
"""Name in a spec -> options. A new assignment needs a file, a line here and a row in the tests."""
