"""The spec that compares all assignments."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from detectors.assigners import ASSIGNERS
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import Outline, outline

SPEC = Path(__file__).parents[3] / "experiments" / "assignments.yaml"


@cache
def _outline(profile: str) -> Outline:
    return outline(load_spec(SPEC, profile))


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_every_assignment_is_trained_with_three_seeds(profile: str) -> None:
    trials = _outline(profile).sweep.trials
    found = [(trial.config["assignment"]["name"], trial.seed) for trial in trials]
    assert sorted(found) == sorted((name, seed) for name in ASSIGNERS for seed in range(3))


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_trials_differ_in_nothing_but_assignment_and_seed(profile: str) -> None:
    def others(config: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key not in ("assignment", "seed")}

    first, *rest = (others(trial.config) for trial in _outline(profile).sweep.trials)
    assert all(each == first for each in rest)
