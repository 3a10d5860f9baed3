"""The specs of the papers' tables: complete, valid, and sharing trials where they should."""

import re
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from detectors.losses import LossOptions
from gaplab.records import TrialRecord
from gaplab.spec.files import load_spec
from gaplab.spec.models import Reading
from gaplab.spec.sweep import expand, experiment_of, row_records
from tests.gaplab.spec.tables import (
    FOLDER,
    PROFILES,
    PUBLISHED,
    TABLES,
    outline_of,
    resolved,
    spec_of,
    trials,
)


def _ids(prefix: str, *numbers: int) -> set[str]:
    return {f"{prefix}-{number:02d}" for number in numbers}


GROUND_TRUTH = {"000-T3-01", "003-T8-04", "004-T4-01"}
"""Rows without trials: the recall of the annotated objects after NMS."""

SAME = (
    # within a paper: the setting that its tables vary
    ("000-T1-01", "000-T2-02"),
    ("000-T1-05", "000-T2-07"),
    ("000-T1-07", "000-T2-10"),
    ("000-T1-09", "000-T2-13"),
    ("000-T3-03", "000-T3-04"),
    ("000-T3-06", "000-T3-07"),
    ("001-T1-04", "001-T2-01", "001-T3-02", "001-T4-03", "001-T5-06"),
    ("001-T3-01", "001-T5-05"),
    ("002-T1-01", "002-T5-05"),
    ("002-T2-04", "002-T3-10", "002-T4-07", "002-T5-19"),
    ("002-T5-01", "002-T5-03"),
    ("002-T5-02", "002-T5-04"),
    ("002-T6-01", "002-T6-03"),
    ("002-T6-02", "002-T6-04"),
    ("002-T7-01", "002-T7-03"),
    ("002-T7-02", "002-T7-04"),
    ("002-T9-01", "002-T9-03"),
    ("002-T9-02", "002-T9-04"),
    ("003-T1-05", "003-T3-13", "003-T4-04", "003-T5-04"),
    ("003-T1-06", "003-T5-05", "003-T6-05", "003-T9-01"),
    ("003-T1-07", "003-T5-06", "003-T9-05"),
    (*sorted(_ids("003-T2", 1, 2, 3, 4, 5)), "003-T5-01", "003-T5-03"),
    ("004-T1-01", "004-T9-01"),
    ("004-T1-03", "004-T5-01", "004-T8-01", "004-T10-01"),
    ("004-T1-04", "004-T2-02", "004-T5-06", "004-T6-01", "004-T7-01", "004-T7-03", "004-T8-02"),
    ("004-T1-04", "004-T8-03", "004-T10-03"),
    ("004-T1-06", "004-T11-01"),
    ("004-T1-07", "004-T2-05", "004-T6-02", "004-T11-03"),
    ("004-T3-04", "004-T3-05"),
    ("004-T5-04", "004-T9-02", "004-T10-11"),
    ("004-T7-02", "004-T7-04", "004-T10-05"),
    # between papers: numbers that one paper took from the other
    ("000-T1-02", "000-T2-04", "001-T6-02"),
    ("000-T2-03", "001-T6-01"),
    ("000-T1-03", "000-T2-06", "001-T6-04"),
    ("000-T2-05", "001-T6-03"),
    ("000-T1-06", "001-T5-02"),
    ("000-T3-02", "003-T8-01"),
    ("000-T3-05", "002-T8-01", "003-T8-02"),
    ("002-T8-02", "003-T8-05"),
    ("002-T8-03", "003-T8-07"),
)
"""Rows that share a trial in both profiles."""

STARTS = {
    "004-T11-02": "004-T1-05",
    "004-TEXT-4.6-01": "004-T1-02",
    "004-TEXT-4.6-02": "004-T1-02",
}
"""Rows that start from the weights of another row's trial."""


def _settings(trial: TrialRecord) -> Any:
    """Return what defines a trial. Its id may be missing, because its data is."""
    return experiment_of(trial).config()


def _head(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


def _name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def _differing(a: Any, b: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths at which two nested mappings differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {*a, *b}:
            yield from _differing(a.get(key), b.get(key), (*at, key))
    elif a != b:
        yield at


def _changed(loss: LossOptions, **changes: Any) -> LossOptions:
    return LossOptions.model_validate(loss.model_dump() | changes)


of_every_table = pytest.mark.parametrize("path", TABLES, ids=_name)
in_both_profiles = pytest.mark.parametrize("profile", PROFILES)


def test_every_table_has_a_file() -> None:
    tables = {"000": 3, "001": 6, "002": 9, "003": 9, "004": 11}
    wanted = {f"{paper}-t{i}" for paper, count in tables.items() for i in range(1, count + 1)}
    assert {_name(path) for path in TABLES} == wanted


@of_every_table
def test_the_header_describes_the_file(path: Path) -> None:
    head = _head(path)
    text = "\n".join(head)
    assert head[0].startswith(f"# {path.parent.name} Table {path.stem[1:]}")
    assert len(head) <= 20
    assert all(part in text for part in ("Laptop: ", "Paper: ", "# Found", "Left out: "))
    match = re.search(r"# Laptop: (\d+) trials?\b", text)
    assert match is not None
    assert int(match[1]) == len(expand(resolved(path)).trials)


@of_every_table
@in_both_profiles
def test_a_row_is_one_trial(path: Path, profile: str) -> None:
    spec = spec_of(path, profile)
    assert spec.name == _name(path)
    assert spec.question
    assert set(spec.rows) <= set(PUBLISHED)
    for row, of_row in outline_of(path, profile).rows.items():
        assert len(of_row) == (row not in GROUND_TRUTH)
    assert set(resolved(path, profile).ground_truth) == GROUND_TRUTH & set(spec.rows)


@of_every_table
def test_a_file_has_its_own_table_and_the_rows_it_starts_from(path: Path) -> None:
    spec = spec_of(path)
    table = (path.parent.name, path.stem.upper())
    foreign = {
        row
        for row in spec.rows
        if (PUBLISHED[row]["paper"], PUBLISHED[row]["table"]) != table
        and not PUBLISHED[row]["table"].startswith("TEXT")
    }
    assert foreign == {STARTS[row] for row in spec.rows if row in STARTS}


def test_every_published_row_is_in_a_file() -> None:
    assert sorted([*trials("laptop"), *GROUND_TRUTH]) == sorted(PUBLISHED)


@pytest.mark.parametrize("rows", SAME, ids=lambda rows: rows[0])
@in_both_profiles
def test_rows_with_the_same_setting_are_one_trial(rows: tuple[str, ...], profile: str) -> None:
    first, *others = (_settings(trial) for row in rows for trial in trials(profile)[row])
    assert all(other == first for other in others)
    if profile == "laptop":
        assert len({trial.id for row in rows for trial in trials(profile)[row]}) == 1


def test_only_listed_rows_share_a_trial() -> None:
    """If an option didn't reach a trial, two rows would share it."""
    groups = list[set[str]]()
    for rows in SAME:
        joined = set(rows).union(*(group for group in groups if group & set(rows)))
        groups = [group for group in groups if not group & joined] + [joined]
    by_id = dict[str, set[str]]()
    for row, (trial, *_) in trials("laptop").items():
        by_id.setdefault(trial.id, set()).add(row)
    shared = [rows for rows in by_id.values() if len(rows) > 1]
    assert sorted(map(sorted, shared)) == sorted(map(sorted, groups))


def test_both_profiles_have_the_assignments_of_the_papers() -> None:
    for row, (trial, *_) in trials("laptop").items():
        laptop, paper = (t.config["assignment"] for t in (trial, trials("paper")[row][0]))
        assert laptop == paper, row


def test_both_profiles_have_the_gates_of_the_papers() -> None:
    for row, (trial, *_) in trials("laptop").items():
        laptop, paper = (t.config["detector"].get("gate") for t in (trial, trials("paper")[row][0]))
        assert set(_differing(laptop, paper)) <= {("width",)}, row


def test_both_profiles_train_the_same_losses() -> None:
    for row, (trial, *_) in trials("laptop").items():
        laptop, paper = (_losses(t) for t in (trial, trials("paper")[row][0]))
        assert laptop == paper, row


def _losses(trial: TrialRecord) -> tuple[LossOptions, LossOptions | None]:
    training = experiment_of(trial).training
    return training.loss, training.o2m_loss if trial.assignment == "dual" else None


ONENET = LossOptions(cls_weight=2, box_weight=2, l1_weight=5, normalizer="objects")
DEFCN = LossOptions(box_weight=2, box_by="equal", normalizer="positives")
RETINANET = LossOptions(box="deltas", box_weight=1)
FCOS = LossOptions(box_weight=1, box_by="centerness")
CENTERNET = LossOptions(box="size_offset", box_weight=1, normalizer="objects")
DATE = LossOptions(cls_weight=2, box_weight=2, l1_weight=5)
FCOS_IOU = LossOptions(box="iou", box_weight=1, box_by="centerness")
OF_DETR = (
    *sorted(_ids("000-T1", 1, 2)),
    *sorted(_ids("000-T2", 1, 2, 3, 4)),
    *sorted(_ids("001-T6", 1, 2)),
)
"""Rows whose L1 is of centres and sides, also in 000 and 001."""
QUERIES = ("detr", "deformable_detr", "sparse_rcnn")
LOSSES = {
    "000": {"retinanet": RETINANET, "fcos": FCOS, "": _changed(ONENET, l1_of="corners")},
    "001": {"": ONENET},
    "002": {"fcos": FCOS, "": DEFCN},
    "003": {
        "retinanet": RETINANET,
        "fcos": FCOS,
        "atss": _changed(FCOS, box_weight=2.0),
        "": DEFCN,
    },
    "004": {"retinanet": RETINANET, "fcos": FCOS_IOU, "mixture": DEFCN, "": DATE},
}
"""The loss of each paper's assignments, by the name of the assignment."""
OTHER_LOSSES = {
    **dict.fromkeys(OF_DETR, ONENET),
    **dict.fromkeys(("001-T6-03", "001-T6-04"), _changed(ONENET, l1_of="corners")),
    **dict.fromkeys(("000-T1-06", *sorted(_ids("001-T5", 1, 2, 3))), CENTERNET),
    "003-T1-01": _changed(DEFCN, box_weight=1.0),
    "003-T5-02": FCOS,
    "002-T8-04": _changed(DEFCN, box_by="centerness"),
    **dict.fromkeys(
        sorted(_ids("002-T9", 5, 6, 7, 8)),
        _changed(DEFCN, box_weight=1.0, mask_weight=2.0, mask_points=0),
    ),
}
"""DETR, Sparse R-CNN in 001, CenterNet, FCOS without centerness, FCOS with a second loss, the code
of o2f for CrowdHuman, and its masks."""


def test_every_row_trains_the_losses_of_its_paper() -> None:
    for row, (trial, *_) in trials("laptop").items():
        of_paper = LOSSES[row[:3]]
        wanted = OTHER_LOSSES.get(row) or of_paper.get(trial.assignment, of_paper[""])
        found, o2m = _losses(trial)
        assert found == wanted, row
        if trial.assignment == "dual":
            anchors = trial.config["assignment"]["o2m"]["name"] == "retinanet"
            assert o2m == (RETINANET if anchors else FCOS_IOU), row


def test_the_matching_cost_has_the_weights_of_the_loss() -> None:
    for row, (trial, *_) in trials("laptop").items():
        assignment, (loss, _) = trial.config["assignment"], _losses(trial)
        cost = assignment.get("o2o", assignment)
        if cost["name"] == "min_cost":
            weights = (cost["cls_weight"], cost["l1_weight"], cost["giou_weight"])
            assert weights == (loss.cls_weight, loss.l1_weight, loss.box_weight), row
            assert cost["l1_of"] == loss.l1_of, row


def test_soft_labels_do_not_weigh_boxes() -> None:
    """Nor does centerness, where the assignment is one-to-one."""
    for row, (trial, *_) in trials("laptop").items():
        assert trial.family != "o2f" or _losses(trial)[0].box_by != "degree", row
        assert trial.family not in ("o2o", "hybrid") or _losses(trial)[0].box_by != "centerness"


def test_the_laptop_profile_trains_small_detectors_on_drawings() -> None:
    recipe = spec_of(FOLDER / "003/t1.yaml").base["detector"]
    for row, (trial, *_) in trials("laptop").items():
        detector = trial.config["detector"]
        assert trial.config["data"]["name"] == "shapes", row
        assert detector["backbone"]["name"] == "tiny", row
        assert detector.get("tower_convs", recipe["tower_convs"]) == recipe["tower_convs"], row


def test_crowds_are_the_same_in_all_papers() -> None:
    crowds = [row for row in trials("laptop") if PUBLISHED[row]["dataset"] == "crowdhuman_val"]
    assert len({str(trials("laptop")[row][0].config["data"]) for row in crowds}) == 1


def test_only_the_rows_that_a_table_varies_have_another_schedule() -> None:
    """On the laptop, the schedule 3x is twice as long as 1x, and parts of one are rounded up."""
    usual = {"001": 144, "002": 12, "003": 24, "004": 12}
    recipe = spec_of(FOLDER / "003/t1.yaml").base["training"]["epochs"]
    for row, (trial, *_) in trials("paper").items():
        if trial.config["detector"]["name"] in QUERIES:
            continue
        if PUBLISHED[row]["dataset"] == "crowdhuman_val" or row[:3] == "000":
            wanted = recipe
        else:
            times = trial.epochs / usual[row[:3]]
            wanted = 2 * recipe if times == 3 else ceil(times * recipe)
        assert trials("laptop")[row][0].epochs == wanted, row


def test_learning_rates_of_a_table_differ_by_the_same_factor() -> None:
    for profile in PROFILES:
        rates = [trials(profile)[f"001-T2-0{i}"][0].config["training"]["lr"] for i in range(1, 6)]
        assert [rate / rates[0] for rate in rates] == [1, 2, 1, 2, 2]


@in_both_profiles
def test_a_row_shows_a_branch_that_its_trial_trains(profile: str) -> None:
    for path in TABLES:
        rows = spec_of(path, profile).rows
        for row, keys in rows.items():
            if row in GROUND_TRUTH:
                continue
            branches = experiment_of(trials(profile)[row][0]).assignment.branches()
            assert keys.get("read.branch", next(iter(branches))) in branches, row


def test_both_branches_of_a_trial_have_rows() -> None:
    rows = spec_of(FOLDER / "004/t7.yaml").rows
    assert [rows[f"004-T7-0{i}"].get("read.branch") for i in (1, 2, 3, 4)] == ["o2m"] * 2 + [
        None
    ] * 2


def test_rows_of_one_trial_are_shown_under_five_protocols() -> None:
    rows = spec_of(FOLDER / "003/t2.yaml").rows
    read = [Reading.model_validate({"protocol": row["read.protocol"]}) for row in rows.values()]
    reach = [(p.level_range, p.spatial_range) for each in read if (p := each.protocol)]
    assert reach == [(None, None), (0, 3), (0, 5), (0, None), (None, None)]
    assert "ap" in PUBLISHED["003-T2-01"]["metrics"]
    assert "ap_nms" in PUBLISHED["003-T2-05"]["metrics"]


@of_every_table
def test_the_header_has_the_protocols_that_rows_need(path: Path) -> None:
    """The header has the command that measures them."""
    for row in spec_of(path).rows.values():
        if isinstance(read := row.get("read.protocol"), dict):
            text = ", ".join(f"{key}: {value}" for key, value in read.items())
            assert f"{{{text}}}" in "\n".join(_head(path))


def test_initial_weights_come_from_the_trial_of_the_intended_row() -> None:
    found = row_records(load_spec(FOLDER / "004/t11.yaml", overrides=["grid.seed=[0, 1]"]))
    for row, parent in STARTS.items():
        starts = [each.config["training"]["init_from"] for each in found[row]]
        assert starts == [each.id for each in found[parent]], f"{row} must start from {parent}"
        assert starts[0] == trials("laptop")[parent][0].id, "and Table 1 has the same trial"


@in_both_profiles
def test_no_file_names_a_trial(profile: str) -> None:
    for path in TABLES:
        named = [
            row.get("training.init_from", "row:") for row in spec_of(path, profile).rows.values()
        ]
        assert all(each.startswith("row:") for each in named), path


@in_both_profiles
def test_trials_are_evaluated_under_the_protocols_of_the_papers(profile: str) -> None:
    own = {"000": "onenet", "001": "onenet", "002": "o2f", "003": "defcn", "004": "date"}
    for row, (trial, *_) in trials(profile).items():
        crowd = PUBLISHED[row]["dataset"] == "crowdhuman_val"
        other = {"centernet": "centernet", "mixture": "defcn"}.get(trial.assignment, own[row[:3]])
        wanted = "crowdhuman" if crowd else own[row[:3]] if row[:3] == "002" else other
        wanted = "condinst" if trial.config["detector"].get("masks") else wanted
        assert trial.config["evaluation"]["protocol"]["preset"] == wanted, row
