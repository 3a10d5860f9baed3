"""The experiment, its protocol, and the section `run`."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from detectors.assigners import ASSIGNERS
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from gaplab.launch.decisions import RETRIED
from gaplab.spec.models import EvaluationOptions, Experiment, Policy
from gaplab.spec.protocols import protocol_key
from tests.builders import SECTIONS

PROTOCOL_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "score_floor": st.sampled_from([0.0, 0.01, 0.05]),
        "pre_nms_topk": st.sampled_from([100, 300, 1000]),
        "nms_iou": st.sampled_from([0.5, 0.6, 0.7]),
        "order": st.sampled_from(["nms_then_cut", "cut_then_nms"]),
        "max_dets": st.sampled_from([100, 500]),
    },
)


def protocol(value: Any) -> Protocol:
    return EvaluationOptions.model_validate({"protocol": value}).protocol


@pytest.mark.parametrize("name", list(ASSIGNERS))
def test_config_is_plain_json_that_rebuilds_the_experiment(name: str) -> None:
    changed = {"assignment": {"name": name}, "training": {"decay_at": [0.5, 0.75], "lr": 1}}
    experiment = Experiment.model_validate(SECTIONS | changed)
    config = experiment.config()
    assert json.loads(json.dumps(config)) == config
    rebuilt = Experiment.model_validate(config)
    assert rebuilt == experiment
    assert type(rebuilt.assignment) is ASSIGNERS[name]


def test_each_worker_needs_an_image_per_batch() -> None:
    fits = {"training": {"batch": 4}, "resources": {"workers": 4}}
    assert Experiment.model_validate(SECTIONS | fits).resources.workers == 4
    too_many = {"training": {"batch": 4}, "resources": {"workers": 5}}
    with pytest.raises(ValidationError, match=r"at least resources.workers \(5\), got 4"):
        Experiment.model_validate(SECTIONS | too_many)


ANCHORED = {"name": "fcos", "o2m_box": "anchor"}
DUAL = {"name": "dual", "o2m": {"name": "retinanet"}}


@pytest.mark.parametrize(
    ("detector", "assignment", "training"),
    [
        ({"name": "retinanet"}, {"name": "retinanet"}, {"loss": {"box": "deltas"}}),
        ({"name": "fcos", "box": "deltas"}, {"name": "anchor"}, {"loss": {"box": "deltas"}}),
        ({"name": "fcos", "box": "deltas"}, {"name": "anchor"}, {"loss": {"box": "giou"}}),
        (ANCHORED, DUAL, {"o2m_loss": {"box": "deltas"}}),
        ({"name": "fcos"}, {"name": "poto"}, {"o2m_loss": {"box": "deltas"}}),
    ],
)
def test_a_loss_of_deltas_fits_a_branch_that_predicts_them(
    detector: dict[str, Any], assignment: dict[str, Any], training: dict[str, Any]
) -> None:
    Experiment.model_validate(
        SECTIONS | {"detector": detector, "assignment": assignment, "training": training}
    )


@pytest.mark.parametrize(
    ("detector", "assignment", "training", "branches"),
    [
        ({"name": "fcos"}, {"name": "poto"}, {"loss": {"box": "deltas"}}, ["o2o"]),
        ({"name": "onenet"}, {"name": "min_cost"}, {"loss": {"box": "deltas"}}, ["o2o"]),
        ({"name": "fcos"}, DUAL, {"o2m_loss": {"box": "deltas"}}, ["o2m"]),
        ({"name": "fcos"}, DUAL, {"loss": {"box": "deltas"}}, ["o2o", "o2m"]),
        (ANCHORED, DUAL, {"loss": {"box": "deltas"}}, ["o2o"]),
    ],
)
def test_a_loss_of_deltas_for_other_boxes_is_an_error_beside_all_others(
    detector: dict[str, Any],
    assignment: dict[str, Any],
    training: dict[str, Any],
    branches: list[str],
) -> None:
    sections = {"detector": detector, "assignment": assignment}
    many = {"training": training | {"batch": 2}, "resources": {"workers": 3}}
    with pytest.raises(ValidationError) as raised:
        Experiment.model_validate(SECTIONS | sections | many)
    text = str(raised.value)
    for branch in ("o2o", "o2m"):
        line = f"deltas needs a detector that predicts deltas, but branch {branch} predicts"
        assert (line in text) == (branch in branches)
    assert "at least resources.workers (3), got 2" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assignment": {"name": "poto"}}, "assignment: poto needs the positions of points"),
        ({"assignment": DUAL}, "assignment.o2m: retinanet needs the positions of points"),
        ({"training": {"loss": {"box_by": "centerness"}}}, "box_by: centerness needs the pos"),
        ({"detector": {"name": "detr", "o2m_queries": 9}}, "detector.o2m_queries: needs an assig"),
        (
            {"detector": {"name": "deformable_detr", "o2m_from": "cross_attention"}},
            "detector.o2m_from: needs an assignment",
        ),
        ({"evaluation": {"protocol": "centernet"}}, "choose another protocol"),
        ({"evaluation": {"protocol": {"level_range": 1}}}, "level_range and spatial_range need"),
    ],
)
def test_what_needs_positions_is_refused_for_queries(changes: dict[str, Any], message: str) -> None:
    fitting = SECTIONS | {"detector": {"name": "detr"}, "assignment": {"name": "min_cost"}}
    Experiment.model_validate(fitting)
    with pytest.raises(ValidationError, match=message):
        Experiment.model_validate(fitting | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"name": "voc", "root": "x"}}, "objects of data .* have no masks; choose data"),
        ({"training": {"mosaic": 0.5}}, "training.mosaic: mixed images have no masks; set it to 0"),
        ({"training": {"mixup": 0.5}}, "training.mixup: mixed images have no masks"),
    ],
)
def test_masks_need_data_with_masks(changes: dict[str, Any], message: str) -> None:
    fitting = SECTIONS | {"detector": {"name": "fcos", "masks": {"name": "condinst"}}}
    Experiment.model_validate(fitting)
    with pytest.raises(ValidationError, match=message):
        Experiment.model_validate(fitting | changes)
    Experiment.model_validate(SECTIONS | changes)


def test_protocols_of_masks_need_a_detector_with_masks() -> None:
    measured = SECTIONS | {"evaluation": {"protocol": "condinst"}}
    with pytest.raises(ValidationError, match="measures masks, which the detector does not pred"):
        Experiment.model_validate(measured)
    Experiment.model_validate(
        measured | {"detector": {"name": "retinanet", "masks": {"name": "condinst"}}}
    )


@pytest.mark.parametrize("seed", [-1, 2**31, 0.0, True, "1"])
def test_the_seed_is_a_natural_number_below_2_to_the_31(seed: Any) -> None:
    with pytest.raises(ValidationError):
        Experiment.model_validate(SECTIONS | {"seed": seed})


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_preset_by_name_or_as_a_mapping(name: str) -> None:
    assert protocol(name) == protocol({"preset": name}) == PROTOCOLS[name]
    assert protocol(PROTOCOLS[name].model_dump()).preset == name


def test_no_protocol_is_the_default_preset() -> None:
    assert EvaluationOptions().protocol == protocol({}) == PROTOCOLS["default"]


@settings(deadline=None)
@given(PROTOCOL_VALUES)
def test_a_changed_preset_keeps_the_other_values_and_loses_its_name(values: dict[str, Any]) -> None:
    for base in PROTOCOLS.values():
        made = protocol({"preset": base.preset, **values})
        kept = {key: getattr(base, key) for key in Protocol.model_fields if key not in values}
        same = made.model_dump() == base.model_dump()
        assert made.model_dump(include=set(values)) == values
        assert same or made.preset != base.preset
        assert made.model_dump(include=set(kept) - {"preset"}) == {
            key: value for key, value in kept.items() if key != "preset"
        }


@settings(deadline=None)
@given(PROTOCOL_VALUES, PROTOCOL_VALUES)
def test_different_protocols_never_share_a_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = Protocol(**one), Protocol(**other)
    if first != second:
        assert protocol_key(first) != protocol_key(second)
    else:
        assert protocol_key(first) == protocol_key(second)


@settings(deadline=None)
@given(PROTOCOL_VALUES, st.sampled_from(["custom", "custom-00000000", "default"]))
def test_the_key_is_a_function_of_the_values(values: dict[str, Any], claimed: str) -> None:
    made = protocol(Protocol(**values).model_dump() | {"preset": claimed})
    assert made.preset == protocol_key(Protocol(**values))
    assert protocol(made.model_dump()) == made


@pytest.mark.parametrize("value", ["defcnn", {"preset": "defcnn"}, {"preset": 3}])
def test_an_unknown_preset_is_rejected(value: Any) -> None:
    with pytest.raises(ValidationError, match="unknown preset"):
        protocol(value)


def test_a_preset_keeps_its_name_if_another_has_equal_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROTOCOLS, "twin", Protocol(preset="twin"))
    assert protocol("twin").preset == "twin"
    assert protocol("default").preset == "default"
    assert protocol({"preset": "custom"}).preset == "default"


# --- the section `run` ----------------------------------------------------------------------


@given(first=st.floats(0, 3600), failures=st.integers(1, 101))
@settings(max_examples=30)
def test_backoff_doubles_up_to_five_minutes(first: float, failures: int) -> None:
    policy, wanted = Policy(backoff_seconds=first), first
    for _ in range(failures - 1):
        wanted = min(300.0, 2 * wanted)
    assert policy.backoff(failures) == pytest.approx(min(300.0, wanted))


def test_backoff_never_decreases() -> None:
    waits = [Policy(retries=100).backoff(failures) for failures in range(1, 102)]
    assert waits[:3] == [5.0, 10.0, 20.0]
    assert waits[-1] == 300.0
    assert all(a <= b for a, b in pairwise(waits))


def test_the_wait_may_be_zero() -> None:
    assert [Policy(backoff_seconds=0).backoff(n) for n in (1, 50)] == [0.0, 0.0]


def test_failures_of_the_input_or_of_storage_are_not_retried() -> None:
    assert set(RETRIED) == {"", "lost", "memory", "hang", "error"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"retries": -1},
        {"retries": 101},
        {"backoff_seconds": -1.0},
        {"backoff_seconds": float("nan")},
        {"on_failure": "pause"},
        {"identical": 0, "on_failure": "stop_after_n_identical"},
        {"at_once": 0},
        {"lease_seconds": 0.5},
        {"grace_seconds": -0.1},
        {"priority": 1001},
        {"retry": 1},
    ],
)
def test_invalid_values_are_rejected(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Policy.model_validate(wrong)


@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_identical_is_rejected_without_its_rule(on_failure: str) -> None:
    with pytest.raises(ValidationError, match="identical: only used with on_failure: stop_after"):
        Policy.model_validate({"identical": 4, "on_failure": on_failure})
    rule = Policy.model_validate({"identical": 4, "on_failure": "stop_after_n_identical"})
    assert rule.identical == 4
