"""Dense detectors, their label assignments, and how much they still need NMS. Pure PyTorch.

The names below are imported when they are first used:

- `ASSIGNERS`, `DATASETS`, `DETECTORS`, `PROTOCOLS`: what there is, by name. An entry of the first
  three is a class of options; an entry of `PROTOCOLS` is a protocol.
- `build_detector`, `train`, `evaluate`: from options to a measured gap.
- `load_detector`: a `TrainedDetector`, which detects objects in pictures, from a file of weights;
  `load_published` from a released checkpoint of DETR, Deformable DETR, Sparse R-CNN or POTO.

Examples:
    >>> import detectors
    >>> data = detectors.DATASETS["shapes"](size=64, train_images=16, val_images=4, max_side=40.0)
    >>> assignment = detectors.ASSIGNERS["poto"](alpha=0.5)
    >>> options = detectors.DETECTORS["fcos"](channels=16, tower_convs=1)
    >>> detector = detectors.build_detector(options, assignment, num_classes=4)
    >>> training = detectors.Training(epochs=2, batch=4, warmup_steps=2)
    >>> learner = detectors.train(detector, assignment, data.load("train"), training)
    >>> gaps = detectors.evaluate(learner.averaged.module, assignment, data.load("val"))
    >>> sorted(gaps["o2o"].metrics)[:3]
    ['ap', 'ap50', 'ap50_gap']
"""

from importlib import import_module
from typing import TYPE_CHECKING

from detectors.instructions import limit_instructions

__all__ = [
    "ASSIGNERS",
    "DATASETS",
    "DETECTORS",
    "PROTOCOLS",
    "RESULTS_VERSION",
    "Gap",
    "Learner",
    "Protocol",
    "TrainedDetector",
    "Training",
    "build_detector",
    "evaluate",
    "load_detector",
    "load_published",
    "train",
]

limit_instructions()

RESULTS_VERSION = 2
"""Part of every trial's id. It goes up when a change alters results; old rows are marked stale."""

_MODULES = {
    "ASSIGNERS": "detectors.assigners",
    "DATASETS": "detectors.data",
    "DETECTORS": "detectors.models",
    "PROTOCOLS": "detectors.evaluation.protocol",
    "Gap": "detectors.evaluation.gap",
    "Learner": "detectors.engine",
    "Protocol": "detectors.evaluation.protocol",
    "TrainedDetector": "detectors.trained",
    "Training": "detectors.training",
    "build_detector": "detectors.api",
    "evaluate": "detectors.api",
    "load_detector": "detectors.trained",
    "load_published": "detectors.published",
    "train": "detectors.api",
}
"""Public name -> the module that defines it."""

if TYPE_CHECKING:
    from detectors.api import build_detector, evaluate, train
    from detectors.assigners import ASSIGNERS
    from detectors.data import DATASETS
    from detectors.engine import Learner
    from detectors.evaluation.gap import Gap
    from detectors.evaluation.protocol import PROTOCOLS, Protocol
    from detectors.models import DETECTORS
    from detectors.published import load_published
    from detectors.trained import TrainedDetector, load_detector
    from detectors.training import Training
else:

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(_MODULES[name]), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
