"""The page of `gaplab show` about a trial."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from detectors.evaluation.metrics import POSITIVES, ClassGap
from gaplab.cli.render.terminal import FULL, PlainConsole
from gaplab.cli.show import TrialDetails, details_json, located, print_details
from gaplab.ledger.views import AttemptView, EvaluationView
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from tests.builders import attempt_view, evaluation_view, trial_view

TRIAL = trial_view(
    "0123456789ab", config={"evaluation": {"protocol": {"preset": "default"}}}, seed=0
)
ATTEMPT = attempt_view(
    TRIAL.id, node="n", cpu_seconds=1.0, gpu_seconds=0.0, wall_seconds=2.0, peak_memory_mib=3.0
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
    classes = (ClassGap("circle", 1.0, 2.0, -1.0), ClassGap("star", None, None, None))
    return evaluation_view(TRIAL.id, epoch, **({"metrics": COCO, "classes": classes} | changes))


def raw(found: TrialDetails, width: int = 140) -> list[str]:
    file = io.StringIO()
    print_details(found, PlainConsole(file=file, width=width))
    return file.getvalue().splitlines()


def printed(*evaluations: EvaluationView, width: int = 140) -> list[str]:
    """The lines, with single spaces between words."""
    return plain(raw(TrialDetails(TRIAL, [ATTEMPT], list(evaluations)), width))


def plain(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines]


def test_a_table_of_evaluations() -> None:
    lines = printed(evaluation(1), evaluation(2, branch="o2m", primary=False))
    start = lines.index("AP AR")  # over NMS
    assert lines[start + 1] == "epoch branch protocol AP NMS gap AR NMS"
    assert "1 o2o default 30.0 31.0 -1.0 45.0 44.0" in lines
    assert "2 o2m default 30.0 31.0 -1.0 45.0 44.0" in lines


def test_metrics_of_crowds_have_their_own_table() -> None:
    lines = printed(evaluation(), evaluation(protocol="crowdhuman", metrics=CROWD))
    start = lines.index("AP mMR recall")  # over NMS
    assert lines[start + 1] == "epoch branch protocol AP NMS gap mMR NMS recall NMS"
    assert "1 o2o default 30.0 31.0 -1.0 45.0 44.0" in lines
    assert "1 o2o crowdhuman 80.0 85.0 -5.0 61.0 55.5 95.0 93.0" in lines


def test_no_number_is_cut_in_eighty_columns() -> None:
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


def test_further_metrics_of_a_trial_that_was_only_measured_under_other_protocols() -> None:
    lines = printed(evaluation(protocol="crowdhuman", metrics=CROWD))
    assert lines.count("branch o2o, epoch 1, protocol crowdhuman") == 2
    assert "mMR 61.0 55.5 +5.5" in lines
    assert "recall 95.0 93.0 +2.0" in lines


def test_no_table_without_further_metrics() -> None:
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
def test_where_the_candidates_are_stored(uri: str) -> None:
    lines = printed(evaluation(1, candidates="file:///old"), evaluation(2, candidates=uri))
    found = [line for line in lines if line.startswith("candidates:")]
    assert found == ([f"candidates: {uri}"] if uri else [])


EPOCHS: dict[str, Any] = {
    "losses": {1: {"o2o.cls": 0.25, "o2o.box": 1 / 3}, 2: {"o2o.cls": 0.125}},
    "positives": {
        1: {f"{b}.{name}": n / 7 for b in ("o2o", "o2m") for n, name in enumerate(POSITIVES, 1)}
    },
}


def test_losses_and_positives_of_every_epoch() -> None:
    """Also those that `show` prints after it has found the files of the trial."""
    details = TrialDetails(TRIAL, [ATTEMPT], [evaluation()], **EPOCHS)
    for found in (details, located(details, Storage("/home"))):
        assert isinstance(found, TrialDetails)
        lines = [" ".join(line.split()) for line in raw(found)]
        assert "1 0.25 0.3333" in lines
        assert "2 0.125 -" in lines
        start = lines.index("epoch branch score iou rank first relative score gap")
        values = "0.143 0.286 0.429 0.571 0.714 0.857"
        assert lines[start + 2 : start + 4] == [f"1 o2o {values}", f"1 o2m {values}"]


def test_a_trial_without_evaluations() -> None:
    assert "epoch branch protocol AP NMS gap AR NMS" in printed()


# Attempts: where and with which code they ran, and why they ended

CODE = {
    **{"commit": "1a2b3c4d" + "0" * 32, "dirty": False, "digest": "", "uri": "", "left_out": []},
    **{"note": "", "sources": "aaaaaaaaaaaaaaaa"},
}
URI = "file:///home/a b/[red]code/5e6f7a8b00000000.diff"
DIRTY = {**CODE, "dirty": True, "digest": "5e6f7a8b00000000", "uri": URI}


def provenance(code: dict[str, Any] = CODE, **changes: Any) -> dict[str, Any]:
    around = {"sources": code["sources"], "packages": {"torch": "2.13.0"}, "data": "d1"}
    return {"code": code, **around, **changes}


def attempt(number: int, **changes: Any) -> AttemptView:
    values = {"id": 100 + number, "number": number, "provenance": provenance(), **changes}
    return replace(ATTEMPT, **values)


def shown(*attempts: AttemptView, width: int = 140) -> list[str]:
    return plain(raw(TrialDetails(TRIAL, list(attempts), []), width))


def test_an_attempt_of_a_clean_checkout() -> None:
    lines = shown(attempt(1, gpu_seconds=3600.0, device="NVIDIA [red] H200"))
    assert "attempt state code node device wall CPU GPU memory" in lines
    assert "1 succeeded 1a2b3c4d n NVIDIA [red] H200 2 s 1 s 1 h 00 min 3 MiB" in lines
    assert not [line for line in lines if line.startswith(("attempt 1", "code", "not the same"))]


def test_settings_that_differ_between_attempts() -> None:
    """Also those of an attempt that ended before it reported anything."""
    configs = [
        {"seed": 0, "resources": {"workers": n}, "checkpoints": {"best": True}} for n in (1, 2)
    ]
    first = attempt(1, config=configs[0], provenance={})
    lines = shown(first, attempt(2, config=configs[1]), attempt(3, config=configs[1]))
    start = lines.index("not the same in all attempts:")
    assert lines[start + 1].split() == ["resources.workers:", "1", "(1),", "2", "(2,", "3)"]
    assert not any("seed:" in line or "best:" in line for line in lines[start:])


def test_an_attempt_of_a_ledger_without_provenance() -> None:
    assert "1 succeeded - n cpu 2 s 1 s 3 MiB" in shown(ATTEMPT)


def test_a_running_attempt() -> None:
    costs = dict.fromkeys(("cpu_seconds", "gpu_seconds", "wall_seconds", "peak_memory_mib"))
    lines = shown(attempt(1, state=TrialState.RUNNING, **costs))
    assert "1 running 1a2b3c4d n cpu - - -" in lines


def test_why_attempts_ended() -> None:
    lines = shown(
        attempt(1, state=TrialState.FAILED, fault="memory", reason="CUDA [red]out of memory"),
        attempt(
            2, state=TrialState.INTERRUPTED, reason="the driver was stopped", notes=["no epoch 3"]
        ),
        attempt(3),
    )
    start = lines.index("attempt 1 failed (memory): CUDA [red]out of memory")
    assert lines[start + 1 : start + 3] == [
        "attempt 2: no epoch 3",
        "attempt 2 interrupted: the driver was stopped",
    ]


def test_the_changes_of_a_dirty_checkout() -> None:
    code = DIRTY | {"left_out": [".env", "a.key"], "note": "2 more untracked files"}
    lines = shown(attempt(1, provenance=provenance(code)))
    assert "1 succeeded 1a2b3c4d dirty n cpu 2 s 1 s 3 MiB" in lines
    assert (
        f"code of attempt 1: changes 5e6f7a8b00000000 on top of 1a2b3c4d: {URI}; "
        "changed but not kept: .env, a.key; 2 more untracked files"
    ) in lines


def test_code_without_a_commit() -> None:
    code = CODE | {"commit": "", "dirty": None, "note": "not a git repository"}
    lines = shown(attempt(1, provenance=provenance(code)))
    assert "1 succeeded =aaaaaaaa n cpu 2 s 1 s 3 MiB" in lines
    assert "code of attempt 1: not a git repository" in lines


def test_unknown_changes() -> None:
    code = CODE | {"dirty": None, "note": "git took longer than 5 s"}
    lines = shown(attempt(1, provenance=provenance(code)))
    assert "1 succeeded 1a2b3c4d ? n cpu 2 s 1 s 3 MiB" in lines


def test_attempts_with_different_code() -> None:
    other = DIRTY | {"sources": "bbbbbbbbbbbbbbbb"}
    lines = shown(attempt(1), attempt(2, provenance=provenance(other)), attempt(3))
    line = "attempts ran with different code: 1a2b3c4d (1, 3), 1a2b3c4d dirty 5e6f7a8b00000000 (2)"
    assert lines.count(line) == 1


def test_two_versions_of_a_checkout_with_the_same_modules() -> None:
    lines = shown(attempt(1), attempt(2, provenance=provenance(DIRTY)))
    [line] = [line for line in lines if line.startswith("attempts ran with different code")]
    assert line.endswith("; the modules of gaplab and detectors were the same")


def test_code_that_two_attempts_share_is_one_line() -> None:
    dirty = provenance(DIRTY)
    lines = shown(attempt(1, provenance=dirty), attempt(2, provenance=dirty))
    assert [line[:22] for line in lines if "code of" in line] == ["code of attempt 1, 2: "]
    assert not [line for line in lines if "different" in line]


def test_a_worker_with_other_modules_than_its_driver() -> None:
    lines = shown(attempt(1), attempt(2, provenance=provenance(sources="b" * 16)))
    [line] = [line for line in lines if "other modules" in line]
    assert line.startswith("attempt 2: its worker ")
    assert not [line for line in shown(attempt(1)) if "other modules" in line]


def test_differences_between_attempts() -> None:
    newer = provenance(packages={"torch": "2.14.0"}, gpu={"name": "H200"}, data="d2")
    lines = shown(
        attempt(1), attempt(2, provenance=newer), attempt(3), attempt(4, provenance={"code": CODE})
    )
    start = lines.index("not the same in all attempts:")
    assert lines[start + 1 : start + 4] == [
        "packages.torch: 2.13.0 (1, 3), 2.14.0 (2)",
        "data: d1 (1, 3), d2 (2)",
        "gpu.name: - (1, 3), H200 (2)",
    ]
    # The worker of attempt 4 reported nothing, so it is not compared with its driver.
    assert not [line for line in lines if "other modules" in line]
    assert "not the same in all attempts:" not in shown(attempt(1), attempt(2))


def test_only_the_last_attempts_are_printed() -> None:
    attempts = [attempt(n, state=TrialState.FAILED, reason=f"x{n}") for n in range(1, 14)]
    lines = shown(*attempts)
    assert "3 earlier attempts: see --json" in lines
    assert "attempt 3 failed: x3" not in lines
    assert "attempt 4 failed: x4" in lines
    found = json.loads(details_json(TrialDetails(TRIAL, attempts, [])))
    assert [a["reason"] for a in found["attempts"]] == [f"x{n}" for n in range(1, 14)]


def test_the_table_of_attempts_fits_a_hundred_columns() -> None:
    seconds = dict.fromkeys(("cpu_seconds", "gpu_seconds", "wall_seconds"), 360_060.0)
    node = "ip-172-131-122-111.eu-central-1.compute.internal"
    wide = attempt(
        12,
        state=TrialState.INTERRUPTED,
        node=node,
        device="NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        peak_memory_mib=123456.0,
        provenance=provenance(DIRTY),
        **seconds,
    )
    for width, most in ((100, 100), (FULL, 200)):
        lines = raw(TrialDetails(TRIAL, [wide], []), width)
        start = next(n for n, line in enumerate(lines) if "attempt" in line and "node" in line)
        table = lines[start : next(n for n in range(start, len(lines)) if "code of" in lines[n])]
        assert max(map(len, table)) <= most
        for word in (TrialState.INTERRUPTED, "1a2b3c4d", "dirty", "100 h 01 min", "123456 MiB"):
            assert [line for line in table if word in line], word
        assert "…" not in "".join(table)


def test_a_trial_without_attempts() -> None:
    assert "attempt state code node device wall CPU memory" in shown()


def test_json_has_everything() -> None:
    kept = evaluation(candidates="c", matches="m", rule={"nms_iou": 0.6})
    one = attempt(1, fault="memory", notes=["n"], provenance=provenance(DIRTY))
    whole = json.loads(details_json(TrialDetails(TRIAL, [one], [kept], **EPOCHS)))
    for key, values in EPOCHS.items():
        assert whole[key] == {str(epoch): each for epoch, each in values.items()}
    [found], [tried] = whole["evaluations"], whole["attempts"]
    assert (tried["fault"], tried["notes"]) == ("memory", ["n"])
    assert tried["provenance"] == provenance(DIRTY)
    assert (found["candidates"], found["matches"], found["rule"]) == ("c", "m", {"nms_iou": 0.6})
    assert found["metrics"] == COCO
