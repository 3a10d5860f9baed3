"""`gaplab claims` on a ledger with three seeds of two rows."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaplab.ledger import Ledger
from gaplab.records import Claim
from gaplab.spec.files import load_spec
from gaplab.spec.resolve import ResolvedSpec
from gaplab.spec.sweep import expand, row_records
from gaplab.states import TrialState
from gaplab.storage.home import Home
from tests.builders import MACHINE, attempt_end, evaluation_record

Gaplab = Callable[..., str]
ABOUT = {"source": "003, Table 1", "rows": ["003-T1-05", "003-T1-01"]}
CLAIMS: dict[str, Any] = {
    "tables/t1.yaml": {
        "better": {**ABOUT, "sentence": "POTO is better without NMS.", "above": 0},
        "worse": {**ABOUT, "sentence": "POTO | is worse.", "below": 0},
        "need": {
            "source": "003",
            "sentence": "FCOS needs NMS.",
            "rows": ["003-T1-01"],
            "metric": "gap",
            "below": -1,
        },
        "own": {"source": "ours", "sentence": "It is.", "rows": ["own"], "above": 0},
    }
}


@pytest.fixture
def claims(table_spec: Path, home: Path) -> Path:
    """A file of claims; the rows 003-T1-01 and 003-T1-05 have three seeds."""
    resolved = load_spec(table_spec, None, ["grid.seed=[0, 1, 2]"])
    sweep, rows = expand(resolved), row_records(resolved)
    with Ledger.open(Home(home).ledger_url) as ledger:
        ledger.add_sweep(sweep)
        for row, ap, gap in (("003-T1-01", 18.0, -26.0), ("003-T1-05", 43.0, -1.0)):
            for trial in rows[row]:
                attempt = ledger.start_attempt(Claim(trial.id, sweep.id, machine=MACHINE))
                mine = ap + trial.seed * ap / 100
                own = gap - trial.seed / 10
                metrics = {"ap": mine, "ap_nms": mine - own, "gap": own}
                ledger.record(evaluation_record(trial.id, 3, metrics=metrics), attempt)
                ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
    path = Path("claims.yaml")
    path.write_text(json.dumps(CLAIMS))
    return path


def test_verdicts_and_counts(gaplab: Gaplab, claims: Path) -> None:
    lines = gaplab("claims", claims).splitlines()
    assert lines[0].split()[:2] == ["holds", "better"]
    assert "AP 003-T1-05 - AP 003-T1-01: +25.2 [" in lines[0]
    assert "over seeds, claimed above 0, p " in lines[0]
    assert lines[1].strip() == "POTO is better without NMS. (003, Table 1)"
    assert lines[2].split()[:2] == ["fails", "worse"]
    assert lines[4].split()[:2] == ["holds", "need"]
    assert "gap 003-T1-01: -26.1 [" in lines[4]
    assert "undecided  own     AP own: 0 seeds measured, 3 are needed" in lines
    assert lines[-2] == "4 claims: 2 hold, 1 fails, 1 undecided"
    assert lines[-1] == "Undecided for lack of results: 1. --run trains and measures them."


def test_a_spec_of_several_claims_is_read_once(
    gaplab: Gaplab, claims: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[Path]()

    def counted(path: Path, *others: Any) -> ResolvedSpec:
        read.append(path)
        return load_spec(path, *others)

    monkeypatch.setattr("gaplab.spec.files.load_spec", counted)
    gaplab("claims", claims)
    assert read == [claims.parent / "tables/t1.yaml"]


def test_json_and_markdown(gaplab: Gaplab, claims: Path) -> None:
    rows = json.loads(gaplab("claims", claims, "--json", "--output", "claims.md"))
    assert [row["verdict"] for row in rows] == ["holds", "fails", "holds", "undecided"]
    low, high = rows[0]["interval"]
    assert low < rows[0]["value"] < high
    assert rows[3]["interval"] is None
    text = Path("claims.md").read_text()
    assert "4 claims: 2 hold, 1 fails, 1 undecided" in text
    assert "POTO \\| is worse." in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)


def test_a_run_with_nothing_to_train_goes_on(gaplab: Gaplab, claims: Path) -> None:
    content = yaml.safe_load(claims.read_text())
    del content["tables/t1.yaml"]["own"]
    claims.write_text(json.dumps(content))
    output = gaplab("claims", claims, "--run", "--only", "tables/t1.yaml")
    assert "6 trials, 6 already done, nothing to train" in output
    assert "3 claims: 2 hold, 1 fails, 0 undecided" in output
    assert len(json.loads(gaplab("claims", claims, "--run", "--json"))) == 3


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("claims.yaml", "--only", "t9.yaml"), "--only t9.yaml: no claim is on this spec"),
        (("nowhere.yaml",), "nowhere.yaml: No such file"),
        (("claims.yaml", "--output", "no/claims.md"), "--output no/claims.md: can't be written"),
        (("claims.yaml", "--seeds", "0"), "--seeds"),
    ],
)
@pytest.mark.usefixtures("claims")
def test_wrong_input(gaplab: Gaplab, words: tuple[str, ...], problem: str) -> None:
    assert problem in gaplab("claims", *words, code=2)


def test_a_spec_that_is_missing(gaplab: Gaplab, claims: Path) -> None:
    content = yaml.safe_load(claims.read_text())
    claims.write_text(json.dumps({"tables/t2.yaml": content["tables/t1.yaml"]}))
    assert "tables/t2.yaml: No such file" in gaplab("claims", claims, code=2)


def test_a_run_measures_under_the_protocol_of_the_row(
    gaplab: Gaplab, trained: Path, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, home)
    spec = json.loads((trained.parent / "tiny.yaml").read_text())
    name = {"assignment": {"name": "dual"}}
    rows = {"own": name, "other": name | {"read.protocol": "onenet"}}
    content = {key: value for key, value in spec.items() if key != "zip"} | {"rows": rows}
    (tmp_path / "t.yaml").write_text(json.dumps(content))
    about = {"source": "ours", "sentence": "It is.", "above": 0}
    claims = {row: {**about, "rows": [row]} for row in rows}
    (tmp_path / "claims.yaml").write_text(json.dumps({"t.yaml": claims}))
    command = ("claims", tmp_path / "claims.yaml", "--seeds", "1")
    assert "AP other: 0 seeds measured, 3 are needed" in gaplab(*command)
    output = gaplab(*command, "--run")
    assert "1 trial, 1 already done, nothing to train" in output
    assert "AP own: 1 seed measured, 3 are needed" in output
    assert "AP other: 1 seed measured, 3 are needed" in output
