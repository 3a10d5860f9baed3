"""Compare a training step of FCOS at 800x1333 with that of torchvision, in the same run.

torchvision is no dependency, and its operators don't load beside another build of PyTorch. Its
training step needs none of them, so it is enough to have its code:

    pip install --no-deps --target FOLDER torchvision==VERSION
    PYTHONPATH=FOLDER pytest -s tests/benchmarks/test_torchvision.py

Times are CPU seconds of one thread.
"""

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import repeat
from statistics import median

import pytest
import torch

from gaplab.trial.speed import torchvision_fcos
from gaplab.trial.speed.steps import Load, StepBench, noise_batch

OPERATORS = ("nms", "qnms")
"""What torchvision can't be imported without."""
LOAD = Load(torch.device("cpu"), side=800, batch=1, steps=1)
ROUNDS = 3


def declare_operators() -> None:
    """Declare the operators of torchvision, unless its build fits that of PyTorch."""
    if torchvision_fcos.importable():
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in OPERATORS:
            torch.library.define(f"torchvision::{operator}", schema)
        for name in [each for each in sys.modules if each.startswith("torchvision")]:
            del sys.modules[name]


def cpu_seconds(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.timeout(3600)
def test_step_against_torchvision() -> None:
    torch.set_num_threads(1)
    declare_operators()
    bench, batch = StepBench("fcos", "fp32", LOAD), noise_batch(LOAD)
    theirs = torchvision_fcos.training_step("fp32", LOAD)

    def our_step() -> None:
        bench.timed(repeat(batch, 1))

    ratios = []
    for _ in range(ROUNDS + 1):  # they alternate, so that other load affects both
        ours, other = cpu_seconds(our_step), cpu_seconds(lambda: theirs(None))
        sys.stdout.write(f"\nours {ours:.2f} s, torchvision {other:.2f} s\n")
        ratios.append(other / ours)
    found = median(ratios[1:])  # the first round warms up
    sys.stdout.write(f"\n{found:.2f} times as fast as torchvision's fcos_resnet50_fpn\n")
    assert found > 0.95
