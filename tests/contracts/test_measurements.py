"""Measurements of foreign detections: stored once per key, found by id or name, and rows."""

from dataclasses import replace
from typing import Any

import pytest

from detectors.evaluation.metrics import ClassGap
from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.views import Coverage, MeasurementView, RowFilter
from gaplab.records import MeasurementRecord
from gaplab.states import TrialState
from tests.builders import METRIC_VALUES, RULE, evaluation_record, measurement_record


def stored(ledger: Ledger) -> list[MeasurementRecord]:
    return [
        MeasurementRecord(**{k: v for k, v in vars(each).items() if k != "created_at"})
        for each in ledger.measurements()
    ]


def test_a_measurement_is_returned_as_it_was_written(ledger: Ledger) -> None:
    measured = measurement_record(
        metrics={**METRIC_VALUES, "ap_small": None, "mmr": 61.25},
        classes=(ClassGap("été", 1.5, 2.0, -0.5), ClassGap("b", None, None, None)),
        source={"detections": "/a b/é.json"},
        about={"findings": {"rows": 7, "suppressed": None}},
        matches="trials/m1/x.parquet",
        rule=RULE,
    )
    ledger.add_measurement(measured)
    assert stored(ledger) == [measured]
    assert ledger.stored_files() == {"trials/m1/x.parquet"}
    assert ledger.truths() == [measured.truth]


def test_the_same_key_is_one_row(ledger: Ledger) -> None:
    ledger.add_measurement(measurement_record(protocol="detr"))
    for ap in (1.0, 2.0):
        metrics = {**METRIC_VALUES, "ap": ap}
        ledger.add_measurement(measurement_record(metrics=metrics, name="new", family="o2o"))
    found = {each.protocol: each for each in ledger.measurements()}
    assert {each.name for each in found.values()} == {"new"}
    assert {each.family for each in found.values()} == {"o2o"}
    assert found["default"].metrics["ap"] == 2.0
    assert found["detr"].metrics["ap"] == METRIC_VALUES["ap"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"metrics": {"ap": 1.0}}, "no value for ap_nms, gap"),
        ({"metrics": {**METRIC_VALUES, "ar": float("nan")}}, "not finite: ar"),
    ],
)
def test_wrong_metrics_are_refused(ledger: Ledger, changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        ledger.add_measurement(measurement_record(**changes))
    assert ledger.measurements() == []


def test_a_protocol_has_one_rule(ledger: Ledger) -> None:
    ledger.add_measurement(measurement_record(rule=RULE))
    with pytest.raises(ValueError, match="with another rule"):
        ledger.add_measurement(measurement_record("m2", rule=RULE | {"nms_iou": 0.5}))
    assert len(ledger.measurements()) == 1


def test_measurements_are_found_by_id_or_name(ledger: Ledger) -> None:
    for identity, name in (("ab12", "yolo"), ("ab34", "detr"), ("cd56", "ab12")):
        ledger.add_measurement(measurement_record(identity, name=name))
    found: dict[str, list[MeasurementView]] = {
        text: ledger.find_measurements(text) for text in ("yolo", "ab3", "c", "x", "")
    }
    ids = {text: [each.id for each in held] for text, held in found.items()}
    assert ids == {"yolo": ["ab12"], "ab3": ["ab34"], "c": ["cd56"], "x": [], "": []}
    with pytest.raises(UserError, match="several are meant"):
        ledger.find_measurements("ab")


def test_measurements_are_rows_beside_trials(started: tuple[Ledger, int]) -> None:
    ledger, attempt = started
    ledger.record(evaluation_record(), attempt)
    measured = measurement_record(name="yolo", family="o2o", dataset="coco")
    ledger.add_measurement(measured)
    row, trial = sorted(ledger.rows(RowFilter()), key=lambda each: each.trial)
    assert trial.trial == "t1"
    assert (row.trial, row.assignment, row.family, row.dataset) == ("m1", "yolo", "o2o", "coco")
    assert (row.sweep, row.state, row.epoch, row.epochs) == ("", TrialState.SUCCEEDED, 0, 0)
    assert (row.truth, row.branch) == (measured.truth, "o2o")
    assert {name: getattr(row, name) for name in METRIC_VALUES} == METRIC_VALUES


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, True),
        ({"protocol": "detr"}, False),
        ({"dataset": "coco"}, True),
        ({"dataset": "voc"}, False),
        ({"assignment": "yolo"}, True),
        ({"assignment": "poto"}, False),
        ({"branch": "o2o"}, True),
        ({"branch": "o2m"}, False),
        ({"truth": "0123456789ab"}, True),
        ({"truth": "ba9876543210"}, False),
        ({"epoch": "best"}, True),
        ({"epoch": 3}, False),
        ({"sweep": "s1"}, False),
        ({"trials": ("t1",)}, False),
    ],
)
def test_rows_are_filtered(ledger: Ledger, changes: dict[str, Any], found: bool) -> None:
    ledger.add_measurement(measurement_record(name="yolo", family="o2o", dataset="coco"))
    assert bool(ledger.rows(replace(RowFilter(), **changes))) == found


def test_coverage_names_protocols_of_measurements(ledger: Ledger) -> None:
    ledger.add_measurement(measurement_record(protocol="detr", family="o2o"))
    assert ledger.coverage(RowFilter()) == [Coverage("detr", "o2o", 0, 0)]
    assert ledger.coverage(RowFilter(dataset="other")) == []
