from dataclasses import replace
from typing import Any

import pytest

from detectors.evaluation.gap import Gap
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.evaluation.selection import select_both
from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.results.measurement.check import Checked, check
from tests.detectors.evaluation import cases

PROTOCOL = Protocol(max_dets=20)


def checked(seed: int = 3, protocol: Protocol = PROTOCOL, **changes: Any) -> Checked:
    """Check our metrics of a random case, after `changes` to them."""
    found, truth = cases.random_case(seed)
    ours = cases.measure_gap(found, truth, protocol)
    columns = select_both(found, protocol, truth.sizes)
    return check(columns, truth, protocol, replace(ours, metrics=ours.metrics | changes))


@pytest.mark.parametrize("seed", range(4))
def test_ours_agree(seed: int) -> None:
    found = checked(seed)
    assert found.agrees
    assert found.difference < 1e-11
    assert found.compared > 30


@pytest.mark.parametrize(
    "changes", [{"ap": 0.0}, {"ap_nms": 0.0}, {"ar": 1.0}, {"ap_small": None}, {"gap": 1e-8}]
)
def test_a_difference_is_found(changes: dict[str, Any]) -> None:
    assert not checked(**changes).agrees


def test_ap_of_a_class_is_compared() -> None:
    found, truth = cases.random_case(3)
    ours = cases.measure_gap(found, truth, PROTOCOL)
    wrong = Gap(ours.metrics, (replace(ours.per_class[0], ap_nms=1.0), *ours.per_class[1:]))
    columns = select_both(found, PROTOCOL, truth.sizes)
    assert not check(columns, truth, PROTOCOL, wrong).agrees


def test_no_detections() -> None:
    _, truth = cases.random_case(3)
    ours = cases.measure_gap(Candidates.none(), truth, PROTOCOL)
    columns = [Candidates.none(), Candidates.none()]
    assert check(columns, truth, PROTOCOL, ours).gap.metrics["ap"] == 0


def test_another_definition_of_ap_is_refused() -> None:
    with pytest.raises(UserError, match="protocol crowdhuman measures the AP of CrowdHuman"):
        checked(protocol=PROTOCOLS["crowdhuman"])
