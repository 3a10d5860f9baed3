"""Train detectors under many label assignments and measure how much they still need NMS.

The names below are imported when they are first used, so `import gaplab` is fast:

- `load_spec` reads a spec file, `expand` makes a sweep of it, `run_sweep` trains its trials.
- `open_home` opens the folder with the results, `Ledger` their database.
- `leaderboard` returns results as rows, `compare` groups them.
- `measure` measures detections that any other tool wrote.

Examples:
    >>> import gaplab
    >>> sweep = gaplab.expand(gaplab.load_spec("experiments/quickstart.yaml"))
    >>> sorted(trial.assignment for trial in sweep.trials)
    ['center', 'dual', 'fcos', 'o2f', 'poto']
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Ledger",
    "__version__",
    "compare",
    "expand",
    "leaderboard",
    "load_spec",
    "measure",
    "open_home",
    "run_sweep",
]

_MODULES = {
    "Ledger": "gaplab.ledger",
    "compare": "gaplab.results.comparison.compare",
    "expand": "gaplab.spec.sweep",
    "leaderboard": "gaplab.results.comparison.leaderboard",
    "load_spec": "gaplab.spec.files",
    "measure": "gaplab.results.measurement.measuring",
    "open_home": "gaplab.results.opened",
    "run_sweep": "gaplab.api",
}
"""Public name -> the module that defines it."""

if TYPE_CHECKING:
    from gaplab.api import run_sweep
    from gaplab.ledger import Ledger
    from gaplab.results.comparison.compare import compare
    from gaplab.results.comparison.leaderboard import leaderboard
    from gaplab.results.measurement.measuring import measure
    from gaplab.results.opened import open_home
    from gaplab.spec.files import load_spec
    from gaplab.spec.sweep import expand

    __version__: str
else:

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name == "__version__":
            found = import_module("importlib.metadata").version("gaplab")
        elif name in _MODULES:
            found = getattr(import_module(_MODULES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
