"""The spec that compares ways to train queries with each other and with a dense detector."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gaplab.spec.files import load_spec
from gaplab.spec.sweep import outline

SPEC = Path(__file__).parents[3] / "experiments" / "queries.yaml"


@cache
def _configs(profile: str) -> list[dict[str, Any]]:
    return [trial.config for trial in outline(load_spec(SPEC, profile)).sweep.trials]


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_both_kinds_of_detectors_have_every_family_on_one_backbone(profile: str) -> None:
    configs = _configs(profile)
    assert len({str(config["detector"]["backbone"]) for config in configs}) == 1
    names = {"deformable_detr": {"min_cost", "min_cost_many", "o2f", "dual"}}
    names["fcos"] = {"poto", "fcos", "o2f", "dual"}
    for detector, expected in names.items():
        found = [c["assignment"]["name"] for c in configs if c["detector"]["name"] == detector]
        assert expected <= set(found)


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_the_loss_of_groups_is_the_mean_over_all_of_them(profile: str) -> None:
    (grouped,) = (c for c in _configs(profile) if c["detector"].get("o2m_groups", 1) > 1)
    detector, assignment = grouped["detector"], grouped["assignment"]
    groups = detector["o2m_groups"]
    assert detector["o2m_queries"] == groups * detector["queries"]
    assert assignment["o2m"]["repeats"] == 1
    assert assignment["lambda_o2o"] == pytest.approx(1 / (groups + 1), abs=1e-4)
    assert assignment["lambda_o2m"] == pytest.approx(groups / (groups + 1), abs=1e-4)


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_the_hybrid_branch_has_the_ratio_of_queries_and_repeats_of_h_detr(profile: str) -> None:
    many = [c for c in _configs(profile) if c["detector"].get("o2m_queries")]
    (hybrid,) = (c for c in many if c["detector"]["o2m_groups"] == 1)
    assert hybrid["detector"]["o2m_queries"] == 5 * hybrid["detector"]["queries"]
    assert hybrid["assignment"]["o2m"]["repeats"] == 6
    assert hybrid["training"]["o2m_loss"]["normalizer"] == "positives"
