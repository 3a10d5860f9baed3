"""Compare the losses of the first steps of every strategy with stored values.

A failure means that a change altered results. If that was intended, raise
`detectors.RESULTS_VERSION`, write `curves.json` again, and give the reason in the log.

    GAPLAB_UPDATE_CURVES=1 pytest tests/detectors/test_curves.py
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors import RESULTS_VERSION
from detectors.assigners import ASSIGNERS
from detectors.data.loader import train_batches
from detectors.data.shapes import Shapes
from detectors.engine import Learner
from detectors.models.fcos import FcosOptions
from detectors.structures import Progress
from detectors.training import Training
from detectors.world import LocalWorld
from tests.detectors import miniature as mini

CURVES = Path(__file__).with_name("curves.json")
UPDATE = os.environ.get("GAPLAB_UPDATE_CURVES") == "1"
EPOCHS, STEPS, SEED = 4, 2, 7
ROUNDING = 5e-4
"""Relative tolerance. Processors round differently and errors accumulate: a change of all weights
by 1e-7 grows to 4e-5 within these 8 steps."""

Curve = dict[str, list[float]]


def curve(name: str) -> Curve:
    """Compute the loss parts of 8 steps (4 epochs of 2) with default options on small data."""
    strategy, training = ASSIGNERS[name](), Training(epochs=EPOCHS, batch=4)
    data = Shapes(size=64, train_images=4 * STEPS).load("train")
    torch.manual_seed(SEED)
    model = FcosOptions().build(len(data.classes), tuple(strategy.branches()))
    learner = Learner.create(model, strategy, training, LocalWorld())
    parts = [
        mini.train_step(learner, batch, Progress(learner.step, STEPS * EPOCHS, epoch, EPOCHS))
        for epoch in range(EPOCHS)
        for batch in train_batches(data, training, SEED, epoch, rank=0, size=1)
    ]
    return {part: [step[part] for step in parts] for part in parts[0]}


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    """Read `curves.json`; with GAPLAB_UPDATE_CURVES=1 it is written first."""
    if UPDATE:
        curves = {name: curve(name) for name in ASSIGNERS}
        content = {"results_version": RESULTS_VERSION, "curves": curves}
        CURVES.write_text(json.dumps(content, indent=1) + "\n")
    read: dict[str, Any] = json.loads(CURVES.read_text())
    return read


@pytest.mark.parametrize("name", ASSIGNERS)
def test_losses_of_the_first_steps_are_unchanged(stored: dict[str, Any], name: str) -> None:
    found, expected = curve(name), stored["curves"][name]
    assert found.keys() == expected.keys()
    for part, losses in found.items():
        assert losses == pytest.approx(expected[part], rel=ROUNDING), f"{name} {part}"


def test_curves_belong_to_this_version_and_these_strategies(stored: dict[str, Any]) -> None:
    assert stored["results_version"] == RESULTS_VERSION
    assert list(stored["curves"]) == list(ASSIGNERS)
