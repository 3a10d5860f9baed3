"""What `gaplab show` prints of a trial."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from gaplab.cli.showing import TrialDetails, details_json, print_details
from gaplab.ledger.views import AttemptView, EvaluationView, TrialView
from gaplab.records import ClassRecord

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TRIAL = TrialView(
    **{"id": "0123456789ab", "assignment": "poto", "family": "o2o", "dataset": "shapes"},
    config={"evaluation": {"protocol": {"preset": "default"}}},
    **{"seed": 0, "epochs": 3, "results_version": 1, "state": "succeeded", "created_at": NOW},
)
ATTEMPT = AttemptView(
    **{"id": 1, "trial": TRIAL.id, "sweep": "s", "number": 1, "state": "succeeded", "reason": ""},
    **{"started_at": NOW, "ended_at": NOW, "node": "n", "device": "cpu", "workers": 1, "gpus": 0},
    **{"cpu_seconds": 1.0, "gpu_seconds": 0.0, "wall_seconds": 2.0, "peak_memory_mib": 3.0},
    driver="default",
)
COCO = {
    **{"ap": 30.04, "ap_nms": 31.0, "gap": -0.96, "ap50": 50.0, "ap50_nms": 52.5, "ap50_gap": -2.5},
    **{"ap75": 20.0, "ap75_nms": 19.0, "ap75_gap": 1.0, "ar": 45.0, "ar_nms": 44.0, "ar_gap": 1.0},
    **{"ar1": 11.0, "ar1_nms": 12.0, "ar1_gap": -1.0, "ap_small": None, "ap_small_nms": None},
    **{"ap_small_gap": None, "ar10": 21.0, "ar10_nms": 20.0, "ar10_gap": 1.0, "score_gap": 5.25},
}
CROWD = {
    **{"ap": 80.0, "ap_nms": 85.0, "gap": -5.0, "mmr": 61.0, "mmr_nms": 55.5, "mmr_gap": 5.5},
    **{"recall": 95.0, "recall_nms": 93.0, "recall_gap": 2.0},
}


def evaluation(epoch: int = 1, **changes: Any) -> EvaluationView:
    classes = (ClassRecord("circle", 1.0, 2.0, -1.0), ClassRecord("star", None, None, None))
    values: dict[str, Any] = {"trial": TRIAL.id, "branch": "o2o", "primary": True}
    values |= {"protocol": "default", "metrics": COCO, "classes": classes}
    return EvaluationView(epoch=epoch, attempt=1, created_at=NOW, **(values | changes))


def printed(*evaluations: EvaluationView, width: int = 140) -> list[str]:
    """The lines, with single spaces between words."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_details(TrialDetails(TRIAL, [ATTEMPT], list(evaluations)), console)
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_a_table_of_evaluations() -> None:
    lines = printed(evaluation(1), evaluation(2, branch="o2m", primary=False))
    start = lines.index("AP AR")  # over NMS
    assert lines[start + 1] == "epoch branch protocol AP NMS gap AR NMS"
    assert "1 o2o default 30.0 31.0 -1.0 45.0 44.0" in lines
    assert "2 o2m default 30.0 31.0 -1.0 45.0 44.0" in lines


def test_metrics_of_crowds_have_a_table_of_their_own() -> None:
    lines = printed(evaluation(), evaluation(protocol="crowdhuman", metrics=CROWD))
    start = lines.index("AP mMR recall")  # over NMS
    assert lines[start + 1] == "epoch branch protocol AP NMS gap mMR NMS recall NMS"
    assert "1 o2o default 30.0 31.0 -1.0 45.0 44.0" in lines
    assert "1 o2o crowdhuman 80.0 85.0 -5.0 61.0 55.5 95.0 93.0" in lines


def test_eighty_columns_cut_no_number() -> None:
    lines = printed(evaluation(), evaluation(protocol="custom-0123abcd", metrics=CROWD), width=80)
    assert "1 o2o custom-0123abcd 80.0 85.0 -5.0 61.0 55.5 95.0 93.0" in lines
    assert "1 o2o default 30.0 31.0 -1.0 45.0 44.0" in lines
    assert any(line.startswith("epoch branch ") for line in lines)


def test_further_metrics_of_the_last_evaluation() -> None:
    lines = printed(
        evaluation(2, metrics=COCO | {"ap50": 99.0}),
        evaluation(3, rule={"max_dets": 300}),
        evaluation(3, branch="o2m", primary=False, metrics=COCO | {"ap50": 98.0}),
        evaluation(3, protocol="defcn", metrics=COCO | {"ap50": 97.0}),
    )
    start = lines.index("metric without with NMS gap")
    assert lines[start - 2] == "branch o2o, epoch 3, protocol default"
    end = next(n for n in range(start + 2, len(lines)) if not lines[n])
    assert lines[start + 2 : end] == [
        "AP50 50.0 52.5 -2.5",
        "AP75 20.0 19.0 +1.0",
        "AP small - - -",
        "AR@1 11.0 12.0 -1.0",
        "AR@10 21.0 20.0 +1.0",
        "AR@300 45.0 44.0 +1.0",
        "score_gap 5.2 - -",
    ]


def test_further_metrics_of_a_trial_evaluated_under_other_protocols_alone() -> None:
    lines = printed(evaluation(protocol="crowdhuman", metrics=CROWD))
    assert lines.count("branch o2o, epoch 1, protocol crowdhuman") == 2
    assert "mMR 61.0 55.5 +5.5" in lines
    assert "recall 95.0 93.0 +2.0" in lines


def test_no_further_metrics_no_table() -> None:
    lines = printed(evaluation(metrics={"ap": 1.0, "ap_nms": 2.0, "gap": -1.0}))
    assert "metric without with NMS gap" not in lines
    assert "1 o2o default 1.0 2.0 -1.0 - -" in lines


def test_classes_of_every_branch_under_the_trials_own_protocol() -> None:
    other = evaluation(2, branch="o2m", primary=False)
    lines = printed(evaluation(1), evaluation(2), other, evaluation(2, protocol="defcn"))
    assert lines.count("circle 1.0 2.0 -1.0") == 2
    assert lines.count("star - - -") == 2
    assert "branch o2m, epoch 2, protocol default" in lines
    assert "branch o2o, epoch 2, protocol defcn" not in lines


@pytest.mark.parametrize("uri", ["", "file:///home/a b/[red]trials/" + "x" * 200])
def test_where_the_candidates_are(uri: str) -> None:
    lines = printed(evaluation(1, candidates="file:///old"), evaluation(2, candidates=uri))
    found = [line for line in lines if line.startswith("candidates:")]
    assert found == ([f"candidates: {uri}"] if uri else [])


def test_nothing_evaluated_yet() -> None:
    assert "epoch branch protocol AP NMS gap AR NMS" in printed()


def test_json_has_everything() -> None:
    kept = evaluation(candidates="c", matches="m", rule={"nms_iou": 0.6})
    [found] = json.loads(details_json(TrialDetails(TRIAL, [ATTEMPT], [kept])))["evaluations"]
    assert (found["candidates"], found["matches"], found["rule"]) == ("c", "m", {"nms_iou": 0.6})
    assert found["metrics"] == COCO
