"""Test training in bf16: the network runs under autocast, everything after it in float32."""

import pytest
import torch

from detectors.assigners import ASSIGNERS
from detectors.data.loader import Batch, train_batches
from detectors.data.shapes import Shapes
from detectors.engine import Learner
from detectors.models.fcos import FcosOptions
from detectors.models.output import Output
from detectors.structures import Progress
from detectors.training import Training
from detectors.world import LocalWorld
from tests.detectors import miniature as mini

STEPS, CLASSES = 30, 4
FIRST_STEP = 0.1
"""Largest relative difference of a loss part to that of float32; bf16 has 8 bits of precision, so
another point may be matched."""


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    data = Shapes(size=64, train_images=STEPS).load("train")
    return list(train_batches(data, Training(batch=1), seed=0, epoch=0, rank=0, size=1))


def laptop(name: str, precision: str) -> Learner:
    strategy = ASSIGNERS[name]()
    training = Training.model_validate({"precision": precision, "batch": 1})
    torch.manual_seed(0)
    model = FcosOptions().build(CLASSES, tuple(strategy.branches()))
    return Learner.create(model, strategy, training, LocalWorld())


def first_step(name: str, precision: str, batch: Batch) -> dict[str, float]:
    return mini.train_step(laptop(name, precision), batch, Progress(0, STEPS, 0, 1))


@pytest.mark.parametrize("name", ["centernet", "poto", "o2f", "mixture", "dual"])
def test_the_laptop_recipe_trains_without_nan(name: str, batches: list[Batch]) -> None:
    """A loss that is not finite would raise. Each kind of loss and of branches has a strategy."""
    learner = laptop(name, "bf16")
    parts = [
        mini.train_step(learner, batch, Progress(n, STEPS, 0, 1)) for n, batch in enumerate(batches)
    ]
    assert len(parts) == STEPS
    assert all(p.isfinite().all() for p in learner.bare.parameters())
    assert {p.dtype for p in learner.bare.parameters()} == {torch.float32}
    early, late = (sum(sum(p.values()) for p in part) for part in (parts[:10], parts[-10:]))
    assert late < early


@pytest.mark.parametrize("name", ASSIGNERS)
def test_losses_of_the_first_step_are_nearly_those_of_float32(
    name: str, batches: list[Batch]
) -> None:
    half, full = (first_step(name, precision, batches[0]) for precision in ("bf16", "fp32"))
    assert half != full
    assert half == pytest.approx(full, rel=FIRST_STEP)


def test_outputs_are_float32(setup: str) -> None:
    learner = mini.set_up(setup, mini.BRISK.model_copy(update={"precision": "bf16"}))
    seen: list[Output] = []
    learner.bare.register_forward_hook(lambda _, __, output: seen.append(output))
    mini.steps(learner, 0, 2)
    values = [
        value
        for output in seen
        for stages in output.branches.values()
        for stage in stages
        for value in vars(stage).values()
        if value is not None
    ]
    assert len(values) >= 4
    assert {value.dtype for value in values} == {torch.float32}
    convolved = {p.grad.dtype for p in learner.bare.parameters() if p.grad is not None}
    assert convolved == {torch.float32}
