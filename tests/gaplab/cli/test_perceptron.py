"""`gaplab perceptron`, and claims on what it measures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaplab.ledger import Ledger
from gaplab.results.papers.perceptron import METRICS
from gaplab.storage.home import Home
from tests.gaplab.results.report.making import Tree

Gaplab = Callable[..., str]
HOSTILE = "<b>a\x1b[31m"
SPEC: dict[str, Any] = {
    "name": "<i>s4",
    "question": "Does it converge?",
    "perceptron": {"samples": 20, "updates": 80, "draws": 20},
    "rows": {HOSTILE: {}, "theorem": {"step": "theorem"}, "location": {"assignment": "location"}},
}
ABOUT = {"source": "000", "sentence": "It is so."}
CLAIMS = {
    "several": {**ABOUT, "rows": ["location"], "metric": "positives", "above": 1},
    "bound": {**ABOUT, "rows": ["theorem"], "metric": "of_bound", "below": 100},
    "less": {**ABOUT, "rows": ["theorem", "location"], "metric": "separable", "below": 0},
    "equal": {**ABOUT, "rows": ["theorem"], "metric": "separable", "above": 0},
}


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("s4.yaml")
    path.write_text(json.dumps(SPEC))
    return path


def test_a_table_and_json_of_all_rows(gaplab: Gaplab, spec: Path, home: Path) -> None:
    output = gaplab("perceptron", spec)
    assert "\x1b" not in output
    assert all(name in output for name in METRICS)
    assert "means over images and 3 seeds" in output
    found = json.loads(gaplab("perceptron", spec, "--json", "--seeds", 2))
    assert list(found) == list(SPEC["rows"])
    assert list(found["theorem"]) == ["0", "1"]
    assert found["theorem"]["0"].keys() == METRICS.keys()
    assert found["theorem"]["0"]["separable"] == 100
    assert found["location"]["0"]["separable"] < 50
    assert not home.exists()


def test_a_page_with_figures(gaplab: Gaplab, spec: Path) -> None:
    gaplab("perceptron", spec, "-o", "new/s4.html", "--seeds", 1)
    html = Path("new/s4.html").read_text()
    page = Tree(html)
    assert page.balanced
    assert "<b>" not in html
    assert "<i>s4" in page.text
    assert page.tags.count("figure") == 3
    assert "mathdefault" not in page.text, "numbers at the axes"


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"perceptron": None}, ["perceptron: must be a mapping, got null"]),
        ({"rows": None}, ["rows: must be a mapping, got null"]),
        ({"rows": {}}, ["rows: length must be at least 1, is 0"]),
        ({"name": ""}, ['name: length must be at least 1, got ""']),
        ({"nam": 1}, ['nam: unknown key; did you mean "name"?']),
        (
            {"perceptron": {"samples": 1, "sampels": 3}, "rows": {"a": {}, "b": {}}},
            [
                "perceptron.samples: must be at least 2, got 1",
                'perceptron.sampels: unknown key; did you mean "samples"?',
            ],
        ),
        (
            {"rows": {HOSTILE: {"step": "theorm"}, "b": {"draws": 1000, "updates": 9999}, "c": 3}},
            [
                'rows.<b>a\\x1b[31m.step: unknown "theorm"; did you mean "theorem"?',
                "rows.b: draws times samples times dimensions, and draws times updates, must be at "
                "most 2,000,000",
                "rows.c: must be a mapping, got 3",
            ],
        ),
    ],
)
def test_bad_specs(gaplab: Gaplab, spec: Path, change: Any, problems: list[str]) -> None:
    spec.write_text(json.dumps(SPEC | change))
    lines = gaplab("perceptron", spec, "-o", "s4.html", code=2).splitlines()
    assert lines == [f"gaplab: s4.yaml: {problem}" for problem in problems]
    assert not Path("s4.html").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("nowhere.yaml",), "nowhere.yaml: No such file"),
        (("list.yaml",), "list.yaml: not a spec of perceptrons, which has the key perceptron"),
        (("broken.yaml",), "broken.yaml: line 1: "),
        (("s4.yaml", "--seeds", 101), "--seeds 101: must be at most 100 for perceptrons"),
        (("s4.yaml", "--seeds", 0), "--seeds"),
        (("s4.yaml", "-o", "."), "-o .: is a folder"),
    ],
)
@pytest.mark.usefixtures("spec")
def test_wrong_input(gaplab: Gaplab, words: tuple[object, ...], problem: str) -> None:
    Path("list.yaml").write_text("[1]")
    Path("broken.yaml").write_text("perceptron: [")
    assert problem in gaplab("perceptron", *words, code=2)


@pytest.mark.parametrize("command", ["plan", "run", "table"])
def test_commands_of_sweeps_name_the_right_one(gaplab: Gaplab, spec: Path, command: str) -> None:
    expected = "s4.yaml: trains perceptrons, no detectors; use: gaplab perceptron s4.yaml"
    assert expected in gaplab(command, spec, code=2)


@pytest.mark.usefixtures("spec")
def test_claims_need_no_ledger(gaplab: Gaplab, home: Path) -> None:
    Path("claims.yaml").write_text(json.dumps({"s4.yaml": CLAIMS}))
    found = json.loads(gaplab("claims", "claims.yaml", "--json", "--run"))
    verdicts = {each["id"]: (each["verdict"], each["seeds"]) for each in found}
    assert verdicts == {
        "several": ("holds", 3),
        "bound": ("holds", 3),
        "less": ("fails", 3),
        "equal": ("undecided", 3),
    }
    few = json.loads(gaplab("claims", "claims.yaml", "--json", "--seeds", 2))
    assert {each["reason"] for each in few} == {"2 seeds measured, 3 are needed"}
    assert not home.exists()


@pytest.mark.usefixtures("spec")
def test_claims_beside_those_on_trials(gaplab: Gaplab, table_spec: Path, home: Path) -> None:
    Ledger.open(Home(home).ledger_url).close()
    about = {**ABOUT, "rows": ["own"], "above": 0}
    both = {str(table_spec): {"own": about}, "s4.yaml": {"several": CLAIMS["several"]}}
    Path("claims.yaml").write_text(json.dumps(both))
    found = json.loads(gaplab("claims", "claims.yaml", "--json"))
    assert [(each["id"], each["verdict"]) for each in found] == [
        ("own", "undecided"),
        ("several", "holds"),
    ]


@pytest.mark.usefixtures("spec")
def test_wrong_claims(gaplab: Gaplab) -> None:
    wrong = {
        "row": {**ABOUT, "rows": ["theorm"], "metric": "updates", "above": 1},
        "metric": {**ABOUT, "rows": ["theorem"], "above": 1},
        "read": {**CLAIMS["bound"], "protocol": "defcn"},
    }
    Path("claims.yaml").write_text(json.dumps({"s4.yaml": wrong}))
    lines = gaplab("claims", "claims.yaml", code=2).splitlines()
    assert lines[0] == 'gaplab: row: rows: s4.yaml has no row theorm; did you mean "theorem"?'
    assert lines[1].startswith('gaplab: metric: metric: unknown "ap"; choose one of updates, ')
    assert lines[2] == "gaplab: read: a perceptron has no protocol and no branch; delete both"
    assert len(lines) == 3
