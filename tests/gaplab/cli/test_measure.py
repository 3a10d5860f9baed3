"""`gaplab measure`: what it prints, refuses and keeps, and how other commands show it."""

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.evaluation.protocol import PROTOCOLS
from gaplab.cli import main
from gaplab.cli.render.tables import leaderboard_table
from gaplab.ledger import Ledger
from gaplab.storage.home import Home
from tests.builders import leaderboard_row
from tests.gaplab.results.measurement.foreign import Foreign, with_masks, write_foreign

Run = Callable[..., str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    return write_foreign(tmp_path_factory.mktemp("toy"))


def measured(gaplab: Run, *words: object, resamples: int = 0) -> dict[str, Any]:
    out = gaplab("measure", *words, "--resamples", resamples, "--json")
    found: dict[str, Any] = json.loads(out)
    return found


def oracle(truth: Path, detections: Path, masks: bool = False) -> float:
    """COCO's AP in percent points, computed by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotations, rows = COCO(str(truth)), json.loads(detections.read_text())
        for row in rows if masks else ():
            del row["bbox"]  # pycocotools would take its area for that of the mask
        found = annotations.loadRes(rows)
        evaluator = COCOeval(annotations, found, "segm" if masks else "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return 100 * float(evaluator.stats[0])


@pytest.mark.parametrize("name", ["o2o", "o2m"])
def test_ap_is_that_of_pycocotools(gaplab: Run, files: Foreign, name: str) -> None:
    path = getattr(files, name)
    found = measured(gaplab, path, files.truth, "--protocol", "detr")
    assert found["ap"] == pytest.approx(oracle(files.truth, path), abs=1e-9)


def test_ap_with_nms_is_that_of_pycocotools(gaplab: Run, files: Foreign) -> None:
    rule = "{clip: never, nms_iou: 0.6, max_dets: 1000, pre_nms_topk: 10000}"
    found = measured(gaplab, files.o2m, files.truth, "--protocol", rule)
    assert found["ap_nms"] == pytest.approx(oracle(files.truth, files.suppressed), abs=1e-9)


def test_json_has_the_main_numbers(gaplab: Run, files: Foreign) -> None:
    found = measured(gaplab, files.o2m, files.truth, resamples=200)
    rows = json.loads(files.o2m.read_text())
    assert (found["images"], found["detections"], found["protocol"]) == (24, len(rows), "default")
    assert found["gap"] == pytest.approx(found["ap"] - found["ap_nms"])
    low, high = found["gap_interval"]
    assert low < found["gap"] < high
    assert found["ar"] > 0
    assert found["duplicates"] > 2
    assert (found["suppressed"], found["verdict"]) == (None, "yes")
    assert found["rule"]["nms_iou"] == 0.6
    assert [each["name"] for each in found["classes"]] == ["cat", "dog", "hen"]
    assert found["without_nms"]["points"][0]["threshold"] == 0.25


@pytest.mark.parametrize(
    ("name", "options", "verdict"),
    [
        ("o2m", ["--resamples", 200], "needs NMS: yes, -"),
        ("o2o", [], "needs NMS: no, +"),
        ("o2o", ["--resamples", 0], "; no interval over images"),
        (
            "suppressed",
            ["--allow-suppressed", "--resamples", 200],
            "; the detections were suppressed already",
        ),
    ],
)
def test_the_verdict_is_the_last_line(
    gaplab: Run, files: Foreign, name: str, options: Sequence[object], verdict: str
) -> None:
    out = gaplab("measure", getattr(files, name), files.truth, *options)
    last = out.rstrip().splitlines()[-1]
    assert last.startswith("needs NMS: ")
    assert verdict in last


def test_suppressed_input_is_refused(gaplab: Run, files: Foreign) -> None:
    err = gaplab("measure", files.suppressed, files.truth, code=2)
    assert err.count("\n") == 1
    assert "looks suppressed already" in err
    assert "--allow-suppressed" in err
    words = (files.suppressed, files.truth, "--allow-suppressed")
    found = measured(gaplab, *words, resamples=200)
    assert 0.5 < found["suppressed"] <= 0.6
    assert found["verdict"] == "undecided"


def test_the_head_gap_is_that_of_two_files(gaplab: Run, files: Foreign) -> None:
    words = (files.o2m, files.o2o, "--annotations", files.truth)
    found = measured(gaplab, *words, resamples=200)
    first, second = found["first"], found["second"]
    assert found["head_gap"] == pytest.approx(first["ap_nms"] - second["ap"])
    for name in ("ap", "ap_nms", "gap"):
        assert found[f"{name}_difference"] == pytest.approx(first[name] - second[name])
    assert found["duplicates_difference"] == pytest.approx(
        first["duplicates"] - second["duplicates"]
    )
    for name in ("head_gap", "ap_difference", "gap_difference", "duplicates_difference"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    out = gaplab("measure", *words, "--resamples", 200)
    assert "head gap: first with NMS minus second without" in out
    assert "NMS gap: first minus second" in out
    for which in ("first", "second"):
        low, high = found[which]["gap_interval"]
        shown = f"NMS gap of the {which} {found[which]['gap']:+.2f} [{low:+.2f}, {high:+.2f}]"
        assert shown in " ".join(out.split())


def test_the_same_file_twice_has_no_difference(gaplab: Run, files: Foreign) -> None:
    words = (files.o2o, files.o2o, "--annotations", files.truth)
    found = measured(gaplab, *words, resamples=200)
    assert found["ap_difference"] == 0
    assert found["ap_difference_interval"] == [0, 0]
    assert found["head_gap"] == pytest.approx(-found["first"]["gap"])


def test_protocols_that_need_levels_are_refused(gaplab: Run, files: Foreign) -> None:
    err = gaplab("measure", files.o2o, files.truth, "--protocol", "centernet", code=2)
    assert "has no levels and anchor points, which protocol centernet needs" in err
    assert "suppression: max_filter, level_range, spatial_range" in err
    err = gaplab("measure", files.o2o, files.truth, "--protocol", "condinst", code=2)
    assert "has no masks (segmentation in COCO's JSON)" in err


def test_check_compares_with_pycocotools(gaplab: Run, files: Foreign) -> None:
    output = gaplab("measure", files.o2m, files.truth, "--check", "--resamples", 0)
    (line,) = [each for each in output.splitlines() if each.startswith("pycocotools")]
    assert " values agree (largest difference " in line
    found = measured(gaplab, files.o2m, files.truth, "--check")
    assert found["check"]["ap_nms"] == pytest.approx(found["ap_nms"], abs=1e-9)
    assert found["check"]["difference"] <= 1e-9
    assert found["check"]["compared"] > 30
    assert "check" not in measured(gaplab, files.o2m, files.truth)


def test_a_difference_to_pycocotools_is_an_error(
    gaplab: Run, files: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaplab.results.measurement.check.TOLERANCE", -1.0)
    monkeypatch.setattr("gaplab.cli.measure._print", lambda line: sys.stderr.write(line + "\n"))
    output = gaplab("measure", files.o2m, files.truth, "--check", "--resamples", 0, code=1)
    assert " values DIFFER (largest difference " in output
    assert output.splitlines()[-1].startswith("needs NMS: ")


def test_pycocotools_is_asked_for_its_own_ap_only(gaplab: Run, files: Foreign) -> None:
    words = ("measure", files.o2m, files.truth, "--check", "--resamples", 0, "--protocol")
    line = "gaplab: --check: pycocotools measures COCO's AP only; choose another protocol"
    assert line in gaplab(*words, "crowdhuman", code=2)
    output = gaplab(*words, "crowdhuman", "--protocol", "default")
    assert output.count("pycocotools, protocol ") == 1


def test_errors_calibration_and_score_gap_are_printed(gaplab: Run, files: Foreign) -> None:
    output = gaplab("measure", files.o2m, files.truth, "--resamples", 0)
    for part in ("calibration", "duplicate", "background", "score gap (best minus second-best"):
        assert part in output


def test_protocols_say_how_much_of_a_disagreement_is_theirs(gaplab: Run, files: Foreign) -> None:
    words = ("--protocol", "default", "--protocol", "deepstream")
    rows: Any = measured(gaplab, files.o2m, files.truth, *words)
    apart = [abs(rows[0][name] - rows[1][name]) for name in ("ap", "ap_nms")]
    expected = f"by {apart[0]:.1f} without NMS and by {apart[1]:.1f} with NMS points"
    assert expected in gaplab("measure", files.o2m, files.truth, *words, "--resamples", 0)


def test_all_protocols(gaplab: Run, files: Foreign) -> None:
    found: Any = measured(gaplab, files.o2o, files.truth, "--all-protocols")
    assert [each["protocol"] for each in found] == [
        p for p in PROTOCOLS if p not in ("centernet", "condinst")
    ]
    out = gaplab("measure", files.o2o, files.truth, "--all-protocols", "--resamples", 0)
    assert all(each["protocol"] in out for each in found)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["o2o"], "name the detections and the annotations"),
        (["o2o", "o2m", "truth"], "name the detections and the annotations"),
        (["o2o", "o2m", "o2o", "--annotations", "truth"], "compare two at most"),
        (["o2o", "truth", "--name", "a", "--name", "b"], "--name: given 2 times for 1 file"),
        (["o2o", "truth", "--name", ""], "--name: must not be empty"),
        (["o2o", "truth", "--family", "o2o"], "give --name, too"),
        (["o2o", "truth", "--protocol", "x"], "protocol: unknown preset"),
        (["truth", "o2o"], "name the detections first"),
        (["o2o", "missing"], "no such file or folder; name the annotations"),
        (["missing", "truth"], "no such file or folder; name the detections"),
        (["missing", "o2o", "--annotations", "truth"], "name the detections"),
    ],
)
def test_wrong_arguments(gaplab: Run, files: Foreign, words: list[str], part: str) -> None:
    paths = {"missing": "/missing.json", **{k: str(v) for k, v in vars(files).items()}}
    err = gaplab("measure", *(paths.get(word, word) for word in words), code=2)
    assert part in err


def test_nothing_is_left_of_a_refused_file(
    gaplab: Run, files: Foreign, home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "cut.json"
    path.write_text(files.o2o.read_text()[:-20])
    err = gaplab("measure", path, files.truth, "--name", "x", code=2)
    assert err.count("\n") == 1
    assert not home.exists()


# --- kept in the ledger ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept_home(files: Foreign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ledger has o2m and o2o as `many` and `one`; to be copied."""
    home = tmp_path_factory.mktemp("kept") / "home"
    names = ["--name", "many", "--name", "one", "--family", "o2m", "--family", "o2o"]
    words = (files.o2m, files.o2o, "--annotations", files.truth, "--dataset", "toy", *names)
    line = ["gaplab", "measure", *words, "--resamples", 0, "--home", home]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GAPLAB_LEDGER", raising=False)
        patch.setattr(sys, "argv", [*map(str, line)])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    return home


@pytest.fixture
def kept(files: Foreign, kept_home: Path, home: Path) -> Foreign:
    """The files, of which o2m and o2o are in the ledger as `many` and `one`."""
    shutil.copytree(kept_home, home)
    return files


def test_the_same_file_twice_is_one_row(gaplab: Run, kept: Foreign, home: Path) -> None:
    words = ("--name", "renamed", "--family", "o2o", "--resamples", 0)
    gaplab("measure", kept.o2o, kept.truth, *words)
    with Ledger.open(Home(home).ledger_url) as ledger:
        assert sorted(each.name for each in ledger.measurements()) == ["many", "renamed"]


def test_rows_of_the_leaderboard(gaplab: Run, kept: Foreign) -> None:
    rows = json.loads(gaplab("leaderboard", "--json"))
    found = measured(gaplab, kept.o2o, kept.truth)
    assert [row["assignment"] for row in rows] == ["one", "many"]
    assert rows[0]["trial"] == found["id"]
    assert rows[0]["ap"] == pytest.approx(found["ap"], abs=1e-4)
    assert (rows[0]["family"], rows[0]["dataset"]) == ("o2o", "toy")
    assert rows[0]["truth"] == found["truth"]
    out = gaplab("leaderboard")
    assert "measured" in out
    assert "0/0" not in out
    assert len(json.loads(gaplab("leaderboard", "--branch", "o2m", "--json"))) == 1


def test_what_was_found_in_files_is_no_varied_key(gaplab: Run, kept: Foreign) -> None:
    header, *_ = gaplab("leaderboard", "--csv").splitlines()
    assert not {"overlap", "detections", "findings", "source"} & {
        word for name in header.split(",") for word in name.split(".")
    }
    assert "overlap" not in gaplab("leaderboard")


def test_the_truth_of_measurements_is_not_that_of_trials() -> None:
    rows = [
        leaderboard_row("t1"),
        leaderboard_row("m1", truth="0123456789ab", epoch=0, epochs=0),
    ]
    table = leaderboard_table(rows)
    assert "0123456789ab" not in table.caption
    assert [c.cells for c in table.columns if c.heading == "truth"] == [["", "0123456789ab"]]
    assert "ground truth 0123456789ab" in leaderboard_table(rows[1:]).caption


def test_groups_have_intervals_over_images(gaplab: Run, kept: Foreign) -> None:
    one, many = json.loads(gaplab("compare", "--resamples", 200, "--json"))
    assert (one["assignment"], many["assignment"]) == ("one", "many")
    assert one["over"] == many["to_baseline_over"] == "images"
    assert many["gap_low"] < many["gap_mean"] < many["gap_high"]


def test_rows_on_other_annotations_are_never_compared(
    gaplab: Run, kept: Foreign, tmp_path: Path
) -> None:
    other = write_foreign(tmp_path / "other", seed=1)
    words = ("--dataset", "toy", "--name", "other", "--resamples", 0)
    gaplab("measure", other.o2o, other.truth, *words)
    out = gaplab("compare", "--resamples", 50, "--json")
    groups = {each["assignment"]: each for each in json.loads(out)}
    assert groups["other"]["ap_to_baseline"] == groups["one"]["ap_to_baseline"] == 0
    assert groups["other"]["truth"] != groups["one"]["truth"]


def test_reevaluate_measures_the_files_again(gaplab: Run, kept: Foreign) -> None:
    out = gaplab("reevaluate", "one", "--protocol", "detr", "--json")
    found = measured(gaplab, kept.o2o, kept.truth, "--protocol", "detr")
    assert json.loads(out)["metrics"]["ap"] == pytest.approx(found["ap"], abs=1e-9)
    (row,) = json.loads(gaplab("leaderboard", "--protocol", "detr", "--json"))
    assert (row["assignment"], row["family"], row["dataset"]) == ("one", "o2o", "toy")
    assert json.loads(gaplab("reevaluate", "one", "--protocol", "detr", "--json"))
    assert "no branch, epoch" in gaplab("reevaluate", "one", "--epoch", 3, code=2)


def test_files_that_have_changed_are_refused(gaplab: Run, tmp_path: Path) -> None:
    files = write_foreign(tmp_path / "toy", images=3)
    gaplab("measure", files.o2o, files.truth, "--name", "one", "--resamples", 0)
    files.o2o.write_text(files.o2m.read_text())
    for words in (["reevaluate", "one", "--protocol", "detr"], ["explain", "one"]):
        assert "have changed since measurement" in gaplab(*words, code=2)
    files.truth.unlink()
    assert "no such file" in gaplab("explain", "one", code=2)


def test_explain_has_no_steps_among_levels(gaplab: Run, kept: Foreign) -> None:
    found = json.loads(gaplab("explain", "many", "--json"))
    assert [step["name"] for step in found["diagnosis"]["steps"]] == ["same class", "other classes"]
    assert not found["diagnosis"]["levels"]
    gap = measured(gaplab, kept.o2m, kept.truth)["gap"]
    assert found["diagnosis"]["gap"] == pytest.approx(gap, abs=1e-9)
    page = gaplab("explain", "many")
    assert page.startswith("measurement ")
    assert "these boxes have no level" in page
    assert "all levels" not in page


def test_show_lists_every_protocol(gaplab: Run, kept: Foreign) -> None:
    gaplab("reevaluate", "one", "--protocol", "detr")
    found = json.loads(gaplab("show", "one", "--json"))
    assert [each["protocol"] for each in found] == ["default", "detr"]
    out = gaplab("show", "one")
    assert "one" in out
    assert str(kept.o2o) in out
    assert "detr" in out


def test_export_has_a_file_of_measurements(gaplab: Run, kept: Foreign, tmp_path: Path) -> None:
    gaplab("export", tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "measurements.parquet").to_pylist()
    found = measured(gaplab, kept.o2o, kept.truth)
    (row,) = [each for each in table if each["name"] == "one"]
    assert row["ap"] == pytest.approx(found["ap"], abs=1e-9)
    assert json.loads(row["about"])["findings"]["rows"] == found["detections"]
    assert json.loads(row["source"])["detections"] == str(kept.o2o)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    """The same with masks, as detectron2 and mmdetection write them."""
    return with_masks(write_foreign(tmp_path_factory.mktemp("masks")))


MASKS = (
    "{evaluator: masks, clip: never, nms_iou: 0.6, max_dets: 1000, pre_nms_topk: 10000}",
    "{clip: never, nms_iou: 0.6, max_dets: 1000, pre_nms_topk: 10000}",
)


def test_ap_of_masks_is_that_of_pycocotools(gaplab: Run, masked: Foreign) -> None:
    """NMS compares boxes: AP with NMS is that of the masks that are left."""
    words = ("measure", masked.o2m, masked.truth, "--protocol", MASKS[0], "--protocol", MASKS[1])
    of_masks, of_boxes = json.loads(gaplab(*words, "--check", "--resamples", 100, "--json"))
    assert of_boxes["ap_nms"] != pytest.approx(of_masks["ap_nms"], abs=0.1)
    assert of_masks["ap_nms"] == pytest.approx(oracle(masked.truth, masked.suppressed, True))
    low, high = of_masks["gap_interval"]
    assert low < of_masks["gap"] < high
    assert all(each["check"]["difference"] < 1e-9 for each in (of_masks, of_boxes))
    assert of_masks["id"] == of_boxes["id"]


def test_the_table_of_masks_says_what_is_compared(gaplab: Run, masked: Foreign) -> None:
    out = gaplab("measure", masked.o2o, masked.truth, "--protocol", "condinst", "--resamples", 0)
    assert "protocol condinst; AP of masks, NMS of boxes; percent points" in out
    presets = gaplab("measure", masked.o2o, masked.truth, "--all-protocols", "--resamples", 0)
    assert "condinst" in presets


def test_masks_are_kept_and_measured_again(gaplab: Run, masked: Foreign, tmp_path: Path) -> None:
    words = ("--name", "o2o", "--protocol", "o2f", "--resamples", 0, "--home", tmp_path)
    gaplab("measure", masked.o2o, masked.truth, *words)
    condinst = ("--protocol", "condinst", "--json", "--home", tmp_path)
    gaplab("reevaluate", "o2o", *condinst)
    [group] = json.loads(gaplab("compare", *condinst, "--resamples", 20))
    assert group["over"] == "images"
    explained = json.loads(gaplab("explain", "o2o", *condinst))
    assert explained["diagnosis"]["ap"] == pytest.approx(group["ap_mean"])


def test_what_masks_lack_is_said_in_one_line(
    gaplab: Run, masked: Foreign, files: Foreign, tmp_path: Path
) -> None:
    condinst = ("--protocol", "condinst")
    err = gaplab("measure", files.o2m, masked.truth, *condinst, code=2)
    assert err.count("\n") == 1
    assert "has no masks (segmentation in COCO's JSON)" in err
    err = gaplab("measure", masked.o2m, files.truth, *condinst, code=2)
    assert err.count("\n") == 1
    assert "annotations without segmentation, or with one that is not sound" in err
    assert "correct them, or measure boxes with another protocol" in err
    both = (*condinst, "--protocol", "o2f", "--name", "kept", "--home", tmp_path)
    gaplab("measure", masked.o2m, files.truth, *both, code=2)
    assert [*tmp_path.iterdir()] == []
