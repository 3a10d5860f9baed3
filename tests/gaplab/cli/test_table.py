"""`gaplab table` on a ledger that is filled by hand, and `gaplab plan` where data is missing."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.cells import cell_len
from rich.console import Console

from gaplab.cli.planning import make_plan, plan_json, print_plan
from gaplab.ledger import Ledger
from gaplab.records import AttemptEnd, Claim, Cost, EvaluationRecord, Machine
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.states import TrialState
from gaplab.storage.home import Home
from tests.builders import row_ids

MACHINE = Machine("n", "cpu", 1, 0.0)
Gaplab = Callable[..., str]
SPEC: dict[str, Any] = {
    "name": "t1",
    "data": {"name": "shapes"},
    "detector": {"name": "fcos"},
    "training": {"epochs": 3},
    "rows": {
        "003-T1-01": {"assignment": {"name": "fcos"}},
        "003-T1-05": {"assignment": {"name": "poto"}},
        "own": {"assignment": {"name": "poto", "alpha": 0.3}},
    },
    "grid": {"seed": [0, 1]},
    "profiles": {"paper": {"training": {"epochs": 12}}},
}
PAPER = {
    "rows": [
        {"id": "003-T1-01", "row": "FCOS baseline", "metrics": {"ap": 12.1, "ap_nms": 40.5}},
        {"id": "003-T1-05", "row": "POTO|x", "metrics": {"ap": 38.0, "ap_nms": 38.6, "ar": 60.5}},
    ]
}


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tables" / "t1.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(SPEC, sort_keys=False))
    (tmp_path / "paper_results.json").write_text(json.dumps(PAPER))
    return Path("tables/t1.yaml")


@pytest.fixture
def measured(spec: Path, home: Path) -> dict[str, tuple[str, ...]]:
    """Both trials of the second row and one of the first are done; the ids of the rows."""
    loaded = load_spec(spec)
    sweep, rows = expand(loaded), row_ids(loaded)
    with Ledger.open(Home(home).ledger_url) as ledger:
        ledger.add_sweep(sweep)
        numbers = [(18.0, 44.25), (42.5, 44.0), (43.5, 44.5)]
        for trial, (ap, nms) in zip(
            [rows["003-T1-01"][0], *rows["003-T1-05"]], numbers, strict=True
        ):
            attempt = ledger.start_attempt(Claim(trial, sweep.id, machine=MACHINE))
            metrics = {"ap": ap, "ap_nms": nms, "gap": ap - nms, "ar": 70.0}
            ledger.record(EvaluationRecord(trial, 3, "o2o", True, "default", metrics, ()), attempt)
            ledger.end_attempt(attempt, AttemptEnd(TrialState.SUCCEEDED, "", Cost()))
    return rows


def cells(said: str, row: str) -> list[str]:
    line = next(line for line in said.splitlines() if line.strip().startswith(row))
    return line.replace("|", " ").split()


@pytest.mark.usefixtures("measured")
def test_ours_beside_the_papers(gaplab: Gaplab, spec: Path) -> None:
    said = gaplab("table", spec)
    numbers = ["18.0", "12.1", "44.2", "40.5", "-26.2", "-28.4"]
    assert cells(said, "003-T1-01") == ["003-T1-01", "FCOS", "baseline", "1/2", *numbers]
    numbers = ["43.0", "38.0", "44.2", "38.6", "-1.2", "-0.6"]
    assert cells(said, "003-T1-05") == ["003-T1-05", "POTO", "x", "2/2", *numbers]
    assert cells(said, "own") == ["own", "-", "0/2", *"------"]
    assert said.index("003-T1-01") < said.index("003-T1-05") < said.index("own ")
    assert "protocol default" in said
    assert said.splitlines()[-1] == (
        "3 of 6 trials are missing, in 2 of 3 rows; to train them: gaplab run tables/t1.yaml"
    )


LONG = "Ours (ResNet-50, R1 + 3DMF, long schedule of 3x!)"


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("metrics", [(), ("ar",), ("ar", "mmr"), ("ar", "mmr", "recall")])
def test_it_fits_a_pipe(
    gaplab: Gaplab, spec: Path, monkeypatch: pytest.MonkeyPatch, metrics: tuple[str, ...]
) -> None:
    """Names fold; where even that isn't enough, they go; a number is never cut."""
    monkeypatch.delenv("COLUMNS", raising=False)
    numbers = {"ap": 38.0, "ap_nms": 38.6, "mmr": 99.9, "recall": 99.9}
    paper = {"rows": [{"id": "003-T1-05", "row": LONG, "metrics": numbers}]}
    Path("paper_results.json").write_text(json.dumps(paper))
    said = gaplab("table", spec, *(word for name in metrics for word in ("--metric", name)))
    *table, last = said.splitlines()
    assert (max(map(cell_len, table)) <= 80) == (len(metrics) < 3)
    last_number = numbers.get(metrics[-1]) if metrics else -0.6
    assert cells(said, "003-T1-05")[-1] == str(last_number or "-")
    assert said.count("paper") == 3 + len(metrics) + (len(metrics) < 2)
    assert "gaplab run" in last
    assert "…" not in said
    folded = "".join(line[11:].split("  ")[0].strip() for line in table if "R" in line)
    assert ("Ours" in folded) == (len(metrics) < 2)


@pytest.mark.usefixtures("measured")
def test_columns_come_closer_before_names_go(
    gaplab: Gaplab, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for width in range(40, 90):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = gaplab("table", spec).splitlines()[:-2]
        found[width] = max(map(cell_len, lines)), any("baseline" in line for line in lines)
    least, named = found[40][0], [has for _, has in found.values()]
    assert all(taken <= max(width, least) for width, (taken, _) in found.items())
    assert named == sorted(named)
    assert least < 60 < found[89][0]
    assert set(named) == {False, True}


def test_the_command_that_trains_is_the_one_that_was_typed(gaplab: Gaplab, spec: Path) -> None:
    said = gaplab("table", spec, "--profile", "paper", "--set", "seed=5", "--set", "name=my")
    assert said.splitlines()[-1] == (
        "3 of 3 trials are missing, in 3 of 3 rows; to train them: "
        "gaplab run tables/t1.yaml --profile paper --set seed=5 --set name=my"
    )
    said = gaplab("table", spec, "--set", "training={epochs: 1}")
    assert said.rstrip().endswith("--set 'training={epochs: 1}'")


@pytest.mark.usefixtures("measured")
def test_nothing_is_missing(gaplab: Gaplab, spec: Path) -> None:
    assert "missing" in gaplab("table", spec)
    one = yaml.safe_load(spec.read_text())
    one["rows"] = {"003-T1-05": one["rows"]["003-T1-05"]}
    Path("one.yaml").write_text(yaml.safe_dump(one))
    assert "missing" not in gaplab("table", "one.yaml")


def test_csv_json_and_markdown(
    gaplab: Gaplab, spec: Path, measured: dict[str, tuple[str, ...]]
) -> None:
    found = json.loads(gaplab("table", spec, "--json", "--metric", "ar"))
    assert [line["row"] for line in found] == ["003-T1-01", "003-T1-05", "own"]
    assert found[1] == {
        **{"row": "003-T1-05", "paper_row": "POTO|x", "trials": list(measured["003-T1-05"])},
        **{"found": 2, "asked": 2, "protocol": "default", "branch": "o2o", "epoch": 3},
        **{"ap": 43.0, "paper_ap": 38.0, "ap_nms": 44.25, "paper_ap_nms": 38.6},
        **{"gap": -1.25, "paper_gap": -0.6, "ar": 70.0, "paper_ar": 60.5},
    }
    rows = list(csv.DictReader(io.StringIO(gaplab("table", spec, "--csv", "--metric", "ar"))))
    assert [row["ap"] for row in rows] == ["18.0", "43.0", ""]
    assert json.loads(rows[1]["trials"]) == found[1]["trials"]
    assert list(rows[0]) == list(found[0])
    said = gaplab("table", spec, "--markdown")
    assert said.splitlines()[:4] == [
        "| row | in the paper | trials | AP | paper | AP NMS | paper | gap | paper |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: | --: |",
        "| 003-T1-01 | FCOS baseline | 1/2 | 18.0 | 12.1 | 44.2 | 40.5 | -26.2 | -28.4 |",
        r"| 003-T1-05 | POTO\|x | 2/2 | 43.0 | 38.0 | 44.2 | 38.6 | -1.2 | -0.6 |",
    ]
    assert said.splitlines()[-1].endswith("; protocol default")


@pytest.mark.usefixtures("measured")
def test_without_a_paper(gaplab: Gaplab, spec: Path) -> None:
    Path("paper_results.json").unlink()
    said = gaplab("table", spec)
    assert "paper" not in said
    assert cells(said, "003-T1-05") == ["003-T1-05", "2/2", "43.0", "44.2", "-1.2"]
    other = Path("other.json")
    other.write_text(json.dumps(PAPER))
    assert "FCOS baseline" in gaplab("table", spec, "--paper", other)
    assert "no.json: No such file" in gaplab("table", spec, "--paper", "no.json", code=2)


def test_how_rows_are_read(
    gaplab: Gaplab,
    spec: Path,
    measured: dict[str, tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    texts = (
        "rows.003-T1-05.read.protocol={spatial_range: 3}",
        "rows.003-T1-01.read.branch=o2m",
        "rows.own.read.epoch=1",
    )
    said = gaplab("table", spec, *(word for text in texts for word in ("--set", text)))
    assert cells(said, "003-T1-01")[-2:] == ["default,", "o2m"]
    assert cells(said, "own")[-3:] == ["default,", "epoch", "1"]
    branch, protocol, last = said.splitlines()[-3:]
    what = "trained, but not measured as it is read"
    assert branch == f"003-T1-01: 1 {what} (protocol default, branch o2m, the last epoch)"
    ids = " ".join(measured["003-T1-05"])
    assert protocol.startswith(f"003-T1-05: 2 {what} (protocol custom-")
    command = f"gaplab reevaluate {ids} --protocol '{{spatial_range: 3}}'"
    assert protocol.endswith(f"; to measure: {command}")
    assert last.startswith("3 of 6 trials are missing")
    said = gaplab("table", spec, "--set", "rows.003-T1-05.read.protocol=defcn")
    assert f"gaplab reevaluate {ids} --protocol defcn\n" in said


def test_what_a_table_refuses(gaplab: Gaplab, spec: Path, tmp_path: Path) -> None:
    plain = {key: value for key, value in SPEC.items() if key != "rows"}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain | {"assignment": {"name": "poto"}}))
    said = gaplab("table", "plain.yaml", code=2)
    assert said.startswith("gaplab: plain.yaml: rows: has none; a table's rows are named there, as")
    said = gaplab("table", spec, "--metric", "arr", code=2)
    assert said.startswith("gaplab: arr: no such key; did you mean ar")
    said = gaplab("table", spec, "--set", "data={name: coco, root: nowhere}", code=2)
    remedy = "set `root` to the data set's folder"
    assert said == f"gaplab: {tmp_path}/nowhere: no such folder; {remedy}\n"


# --- gaplab plan without data ---------------------------------------------------------------

AWAY = "data={name: coco, root: data/coco}"


def test_plan_shows_the_trials_of_data_that_is_not_here(
    gaplab: Gaplab, spec: Path, tmp_path: Path
) -> None:
    rows = "rows.again={assignment: {name: poto}, resources.cpus_per_worker: 2}"
    said = gaplab("plan", spec, "--set", AWAY, "--set", rows)
    lines = [line.split() for line in said.splitlines()]
    assert [line for line in lines if line[:1] == ["?"]] == [
        ["?", name, "coco", seed, "3", "?"] for name in ("fcos", "poto", "poto") for seed in "01"
    ]
    assert "6 trials\n" in said
    assert (
        f"{tmp_path}/data/coco: no such folder: "
        "ids, and what is in the ledger already, can't be known here\n"
    ) in said
    assert "no estimate" in said


def test_plan_in_json_without_data(gaplab: Gaplab, spec: Path, tmp_path: Path) -> None:
    found = json.loads(gaplab("plan", spec, "--json", "--set", AWAY))
    assert found["sweep"] is None
    assert found["problems"] == [
        f"{tmp_path}/data/coco: no such folder; set `root` to the data set's folder"
    ]
    assert [(t["trial"], t["state"]) for t in found["trials"]] == [(None, None)] * 6
    assert {(t["assignment"], t["epochs"]) for t in found["trials"]} == {("fcos", 3), ("poto", 3)}
    assert found["estimate"]["trials"] == 6
    here = json.loads(gaplab("plan", spec, "--json"))
    assert here["problems"] == []
    assert here["sweep"].startswith("t1-")
    assert {t["state"] for t in here["trials"]} == {"new"}


@pytest.mark.usefixtures("measured")
def test_a_plan_of_which_a_part_is_here(gaplab: Gaplab, spec: Path, tmp_path: Path) -> None:
    keys = {"grid": {"data": [{"name": "shapes"}, {"name": "coco", "root": "nowhere"}]}}
    path = tmp_path / "both.yaml"
    whole = yaml.safe_load(spec.read_text()) | {"grid": {**SPEC["grid"], **keys["grid"]}}
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    said = gaplab("plan", path)
    assert "12 trials: 3 already in the ledger, 3 to run, 6 unknown\n" in said
    assert sum(line.split()[:1] == ["?"] for line in said.splitlines()) == 6
    assert sum("succeeded" in line for line in said.splitlines()) == 3
    found = json.loads(gaplab("plan", path, "--json"))
    assert found["sweep"] is None
    assert sum(trial["trial"] is None for trial in found["trials"]) == 6


def test_two_places_that_are_not_here_are_not_one(gaplab: Gaplab, spec: Path) -> None:
    sets = ("--set", AWAY, "--set", "grid.data.root=[a, b, a]")
    found = json.loads(gaplab("plan", spec, "--json", *sets))
    assert len(found["trials"]) == 2 * 6
    assert len(found["problems"]) == 2
    said = gaplab("plan", spec, *sets)
    [line] = [line for line in said.splitlines() if "can't be known here" in line]
    assert line.count(": no such folder") == 2


def test_run_still_refuses(gaplab: Gaplab, spec: Path, home: Path) -> None:
    said = gaplab("run", spec, "--set", AWAY, code=2)
    assert said.endswith("data/coco: no such folder; set `root` to the data set's folder\n")
    assert not (home / "ledger.db").exists()


def test_a_line_about_compute(spec: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_plan(spec, None, [], Home(home))
    for compute, last in (("about 3 EFLOP", "about 3 EFLOP"), (None, "no estimate: ")):
        told = replace(made, compute=compute)
        print_plan(told, Console(), 20)
        assert capsys.readouterr().out.splitlines()[-1].startswith(last)
        assert json.loads(plan_json(told))["compute"] == compute
