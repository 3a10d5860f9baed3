"""`gaplab table` on a ledger with some of the results."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.cells import cell_len

Gaplab = Callable[..., str]


def cells(output: str, row: str) -> list[str]:
    line = next(line for line in output.splitlines() if line.strip().startswith(row))
    return line.replace("|", " ").split()


@pytest.mark.usefixtures("measured")
def test_our_numbers_beside_the_papers(gaplab: Gaplab, table_spec: Path) -> None:
    output = gaplab("table", table_spec)
    numbers = ["18.0", "12.1", "44.2", "40.5", "-26.2", "-28.4"]
    assert cells(output, "003-T1-01") == ["003-T1-01", "FCOS", "baseline", "1/2", *numbers]
    numbers = ["43.0", "38.0", "44.2", "38.6", "-1.2", "-0.6"]
    assert cells(output, "003-T1-05") == ["003-T1-05", "POTO", "x", "2/2", *numbers]
    assert cells(output, "own") == ["own", "-", "0/2", *"------"]
    assert output.index("003-T1-01") < output.index("003-T1-05") < output.index("own ")
    assert "protocol default" in output
    assert output.splitlines()[-1] == (
        "3 of 6 trials are missing, in 2 of 3 rows; to train them: gaplab run tables/t1.yaml"
    )


LONG = "Ours (ResNet-50, R1 + 3DMF, long schedule of 3x!)"


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("metrics", [(), ("ar",), ("ar", "mmr"), ("ar", "mmr", "recall")])
def test_the_table_fits_eighty_columns(
    gaplab: Gaplab, table_spec: Path, terminal: Callable[[int], None], metrics: tuple[str, ...]
) -> None:
    """The paper's names of the rows are wrapped, then left out, then columns of metrics."""
    numbers = {"ap": 38.0, "ap_nms": 38.6, "mmr": 99.9, "recall": 99.9}
    paper = {"rows": [{"id": "003-T1-05", "row": LONG, "metrics": numbers}]}
    Path("paper_results.json").write_text(json.dumps(paper))
    words = ("table", table_spec, *(word for name in metrics for word in ("--metric", name)))
    assert LONG in gaplab(*words)
    terminal(80)
    output = gaplab(*words)
    *table, last = output.splitlines()
    assert "gaplab run" in last
    assert max(map(cell_len, table)) <= 80
    note = " ".join(output.partition("no room for: ")[2].split())
    names = ["in the paper", "recall in the paper"]
    assert note.partition("; to see them")[0] == ", ".join(names[: max(0, len(metrics) - 1)])
    assert cells(output, "003-T1-05")[-1] == ("-0.6", "-", "99.9", "-")[len(metrics)]
    assert ("Ours" in output) == (len(metrics) < 2)


def test_the_command_for_training_repeats_the_options(gaplab: Gaplab, table_spec: Path) -> None:
    output = gaplab(
        "table", table_spec, "--profile", "paper", "--set", "seed=5", "--set", "name=my"
    )
    assert output.splitlines()[-1] == (
        "3 of 3 trials are missing, in 3 of 3 rows; to train them: "
        "gaplab run tables/t1.yaml --profile paper --set seed=5 --set name=my"
    )
    output = gaplab("table", table_spec, "--set", "training={epochs: 1}")
    assert output.rstrip().endswith("--set 'training={epochs: 1}'")


@pytest.mark.usefixtures("measured")
def test_no_command_where_nothing_is_missing(gaplab: Gaplab, table_spec: Path) -> None:
    assert "missing" in gaplab("table", table_spec)
    one = yaml.safe_load(table_spec.read_text())
    one["rows"] = {"003-T1-05": one["rows"]["003-T1-05"]}
    Path("one.yaml").write_text(yaml.safe_dump(one))
    assert "missing" not in gaplab("table", "one.yaml")


def test_csv_json_and_markdown(
    gaplab: Gaplab, table_spec: Path, measured: dict[str, tuple[str, ...]]
) -> None:
    found = json.loads(gaplab("table", table_spec, "--json", "--metric", "ar"))
    assert [line["row"] for line in found] == ["003-T1-01", "003-T1-05", "own"]
    assert found[1] == {
        **{"row": "003-T1-05", "paper_row": "POTO|x", "trials": list(measured["003-T1-05"])},
        **{"found": 2, "asked": 2, "protocol": "default", "branch": "o2o", "epoch": 3},
        **{"ap": 43.0, "paper_ap": 38.0, "ap_nms": 44.25, "paper_ap_nms": 38.6},
        **{"gap": -1.25, "paper_gap": -0.6, "ar": 70.0, "paper_ar": 60.5},
    }
    rows = list(csv.DictReader(io.StringIO(gaplab("table", table_spec, "--csv", "--metric", "ar"))))
    assert [row["ap"] for row in rows] == ["18.0", "43.0", ""]
    assert json.loads(rows[1]["trials"]) == found[1]["trials"]
    assert list(rows[0]) == list(found[0])
    output = gaplab("table", table_spec, "--markdown")
    assert output.splitlines()[:4] == [
        "| row | in the paper | trials | AP | paper | AP NMS | paper | gap | paper |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: | --: |",
        "| 003-T1-01 | FCOS baseline | 1/2 | 18.0 | 12.1 | 44.2 | 40.5 | -26.2 | -28.4 |",
        r"| 003-T1-05 | POTO\|x | 2/2 | 43.0 | 38.0 | 44.2 | 38.6 | -1.2 | -0.6 |",
    ]
    assert output.splitlines()[6].endswith("; protocol default")
    assert output.splitlines()[7:] == [
        "",
        "| row | AR |",
        "| :-- | --: |",
        "| 003-T1-01 | 70.0 / - |",
        "| 003-T1-05 | 70.0 / 60.5 |",
        "| own | - |",
        "",
        "published metrics: ours / the paper's, percent points",
    ]


@pytest.mark.usefixtures("measured")
def test_without_a_paper(gaplab: Gaplab, table_spec: Path) -> None:
    paper = Path("paper_results.json").rename("other.json")
    output = gaplab("table", table_spec)
    assert "paper" not in output
    assert cells(output, "003-T1-05") == ["003-T1-05", "2/2", "43.0", "44.2", "-1.2"]
    assert "FCOS baseline" in gaplab("table", table_spec, "--paper", paper)
    assert "no.json: No such file" in gaplab("table", table_spec, "--paper", "no.json", code=2)


def test_rows_with_another_protocol_branch_or_epoch(
    gaplab: Gaplab,
    table_spec: Path,
    measured: dict[str, tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    texts = (
        "rows.003-T1-05.read.protocol={spatial_range: 3}",
        "rows.003-T1-01.read.branch=o2m",
        "rows.own.read.epoch=1",
    )
    output = gaplab("table", table_spec, *(word for text in texts for word in ("--set", text)))
    assert cells(output, "003-T1-01")[-2:] == ["default,", "o2m"]
    assert cells(output, "own")[-3:] == ["default,", "epoch", "1"]
    branch, protocol, last = output.splitlines()[-3:]
    what = "not measured as the row needs it"
    assert (
        branch
        == f"003-T1-01: 1 trained trial {what} (protocol default, branch o2m, the last epoch)"
    )
    ids = " ".join(measured["003-T1-05"])
    assert protocol.startswith(f"003-T1-05: 2 trained trials {what} (protocol custom-")
    command = f"gaplab reevaluate {ids} --protocol '{{spatial_range: 3}}'"
    assert protocol.endswith(f"; to measure: {command}")
    assert last.startswith("3 of 6 trials are missing")
    output = gaplab("table", table_spec, "--set", "rows.003-T1-05.read.protocol=defcn")
    assert f"gaplab reevaluate {ids} --protocol defcn\n" in output


def test_invalid_input_is_refused(gaplab: Gaplab, table_spec: Path, tmp_path: Path) -> None:
    plain = yaml.safe_load(table_spec.read_text())
    del plain["rows"]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain | {"assignment": {"name": "poto"}}))
    output = gaplab("table", "plain.yaml", code=2)
    assert output.startswith(
        "gaplab: plain.yaml: rows: missing; they name the rows of a table, for"
    )
    output = gaplab("table", table_spec, "--metric", "arr", code=2)
    assert output.splitlines()[-1].startswith("gaplab: arr: no such key; did you mean ar")
    output = gaplab("table", table_spec, "--set", "data={name: coco, root: nowhere}", code=2)
    remedy = "set `root` to the data set's folder"
    assert output.endswith(f"\ngaplab: {tmp_path}/nowhere: no such folder; {remedy}\n")


@pytest.mark.usefixtures("measured")
def test_all_published_tables(gaplab: Gaplab, table_spec: Path) -> None:
    paper = json.loads(Path("paper_results.json").read_text())
    for row in paper["rows"]:
        row |= {"paper": "003", "table": "T1"}
    why = "a <detector> of | another kind"
    left = [{"left_out": why}, {"left_out": why}, {}]
    paper["rows"] += [
        {"id": f"x{i}", "paper": "009", "table": "T2", "metrics": {}, **each}
        for i, each in enumerate(left)
    ]
    Path("paper_results.json").write_text(json.dumps(paper))
    folder = table_spec.parent
    (folder / "claims.yaml").write_text("- {id: 003-T1-01}")
    (folder / "broken.yaml").write_text("rows: {x0: {}}\nnonsense: 1")
    first, second = json.loads(gaplab("table", "--list", folder, "--json"))
    assert (first["paper"], first["table"], first["rows"], first["specs"]) == (
        *("003", "T1", 2, ["t1.yaml"]),
    )
    assert first["by_row"] == {"003-T1-01": "untrained", "003-T1-05": "trained"}
    assert (second["left_out"], second["trained"], second["specs"]) == (3, 0, [])
    assert second["why"] == f"{why}; no spec has such a row"
    output = gaplab("table", "--list", folder)
    assert cells(output, "003 T1")[:4] == ["003", "T1", "2", "1"]
    assert (
        "5 published rows: 2 in specs, of which 1 have results in this home; 3 left out" in output
    )
    assert "a <detector> of | another kind" in output
    assert "&lt;detector&gt;" in gaplab("table", "--list", folder, "--html")


def test_the_list_needs_a_folder_with_the_papers_numbers(gaplab: Gaplab, table_spec: Path) -> None:
    assert (
        gaplab("table", code=2) == "gaplab: SPEC: missing; give a spec, or --list for all tables\n"
    )
    output = gaplab("table", "--list", code=2)
    assert output == "gaplab: experiments: no such folder; give the folder of the specs\n"
    Path("paper_results.json").unlink()
    output = gaplab("table", "--list", table_spec.parent, code=2)
    assert output == "gaplab: tables: no paper_results.json there or above; give it with --paper\n"
