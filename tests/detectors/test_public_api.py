"""The names that `import detectors` offers: imported lazily, with examples that run."""

import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch

import detectors
from detectors.data.loader import train_batches
from detectors.engine import Learner, train_step
from detectors.structures import Progress
from detectors.world import LocalWorld
from tests.doctests import check_public_names, run_examples

DATA = detectors.DATASETS["shapes"].model_validate(
    {"size": 64, "train_images": 8, "val_images": 4, "max_side": 40.0}
)
DETECTOR = detectors.DETECTORS["fcos"].model_validate(
    {"backbone": {"name": "tiny", "channels": [8, 16]}, "channels": 16, "tower_convs": 1}
)
TRAINING = detectors.Training(epochs=2, batch=4)


def test_importing_detectors_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pydantic")
    code = f"import sys, detectors; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_public_names_are_those_of_their_modules() -> None:
    check_public_names(detectors, "RESULTS_VERSION")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'detectors' has no attribute 'trian'"):
        detectors.trian  # type: ignore[attr-defined]  # noqa: B018


def test_examples() -> None:
    functions = (detectors.build_detector, detectors.train, detectors.evaluate)
    for subject in (detectors, *functions):
        assert run_examples(subject) > 0


def test_training_is_the_loop_over_epochs_and_steps() -> None:
    """A learner of the same seed, trained step by step, has the same losses and weights."""
    assignment, data = detectors.ASSIGNERS["dual"](), DATA.load("train")
    losses: dict[int, Mapping[str, float]] = {}
    learner = detectors.train(
        detectors.build_detector(DETECTOR, assignment, 4, seed=3),
        assignment,
        data,
        TRAINING,
        seed=5,
        after_epoch=losses.__setitem__,
    )
    torch.manual_seed(3)
    model = DETECTOR.build(4, ("o2o", "o2m"))
    other = Learner.create(model, assignment, TRAINING, LocalWorld())
    for epoch in range(2):
        steps = [
            train_step(other, batch, Progress(other.step, 4, epoch, 2))
            for batch in train_batches(data, TRAINING, 5, epoch, rank=0, size=1)
        ]
        for part, mean in losses[epoch + 1].items():
            assert mean == pytest.approx(sum(step[part] for step in steps) / len(steps))
    assert list(losses) == [1, 2]
    weights = learner.averaged.state_dict()
    for name, value in other.averaged.state_dict().items():
        assert torch.equal(weights[name], value), name


def test_a_gap_of_every_branch_the_one_kept_at_inference_first() -> None:
    assignment = detectors.ASSIGNERS["dual"]()
    detector = detectors.build_detector(DETECTOR, assignment, 4)
    gaps = detectors.evaluate(detector, assignment, DATA.load("val"))
    assert list(gaps) == ["o2o", "o2m"]
    for gap in gaps.values():
        assert isinstance(gap, detectors.Gap)
        assert [each.name for each in gap.per_class] == list(DATA.load("val").classes)
    crowd = detectors.evaluate(
        detector, assignment, DATA.load("val"), detectors.PROTOCOLS["crowdhuman"]
    )
    assert "mmr" in crowd["o2o"].metrics
    assert "mmr" not in gaps["o2o"].metrics
