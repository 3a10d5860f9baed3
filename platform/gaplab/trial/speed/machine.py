"""Measure all that `gaplab bench` shows of one machine."""

import gc
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gaplab.trial.provenance import surroundings
from gaplab.trial.speed.loading import Loading, LoadingSpeed
from gaplab.trial.speed.setups import SETUPS, Setup
from gaplab.trial.speed.steps import Load, StepBench, StepSpeed
from gaplab.trial.speed.torchvision_fcos import images_per_second, importable

PRECISIONS = ("bf16", "fp32")
"""Values of `training.precision`."""


@dataclass(frozen=True)
class MachineSpeed:
    """What was measured on one machine."""

    load: Load
    steps: tuple[StepSpeed, ...]
    loading: LoadingSpeed
    torchvision: dict[str, float]
    """Precision -> images per second of torchvision's FCOS; empty: see `torchvision_note`."""
    torchvision_note: str = ""
    """Why torchvision's FCOS was not measured."""

    def plain(self) -> dict[str, Any]:
        """Return everything as plain JSON, with versions and machine as in the provenance."""
        load = {**asdict(self.load), "device": self.load.device.type, "size": [*self.load.size]}
        return {
            **surroundings(self.load.device),
            "load": load,
            "steps": [asdict(each) for each in self.steps],
            "loading": asdict(self.loading),
            "torchvision": {
                "images_per_second": self.torchvision,
                "note": self.torchvision_note,
            },
        }


def measure_machine(
    names: Sequence[str],
    precisions: Sequence[str],
    load: Load,
    show: Callable[[str], None] = lambda line: None,
    setups: Mapping[str, Setup] = SETUPS,
    *,
    compiled: bool = False,
) -> MachineSpeed:
    """Measure training steps, loading, and torchvision's FCOS if it can be imported.

    Args:
        names: what is trained, keys of `setups`.
        precisions: with each of these precisions.
        load: on which images, and where.
        show: called with what is measured next.
        setups: the table of what can be trained.
        compiled: whether each is also measured when `torch.compile` has compiled it.

    Raises:
        UserError: memory is too small, or nothing can be compiled.
    """
    found = []
    for precision in precisions:
        for name in names:
            for way in (False, True) if compiled else (False,):
                show(f"{'compiling' if way else 'measuring'} {name} in {precision}")
                bench = StepBench(name, precision, load, setups[name], compiled=way)
                found.append(bench.measure())
                del bench
                _free()
    show("measuring the loader")
    bench = StepBench(names[0], precisions[0], load, setups[names[0]])
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="gaplab-bench-") as folder:
        loading = Loading(load, Path(folder), cores).measure(bench)
    del bench
    _free()
    note, others = importable(), dict[str, float]()
    for precision in precisions if not note else ():
        show(f"measuring torchvision's FCOS in {precision}")
        others[precision] = images_per_second(precision, load)
        _free()
    return MachineSpeed(load, tuple(found), loading, others, note)


def _free() -> None:
    """Give the memory of the last detector back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
