"""Commands that start nothing: plan, leaderboard, help, and wrong input."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]
Gaplab = Callable[..., str]


def test_help_lists_the_commands(gaplab: Gaplab) -> None:
    said = gaplab("--help")
    reading = ("leaderboard", "compare", "show", "table")
    for command in ("plan", "run", "resume", *reading, "ui", "mirror"):
        assert f"  {command} " in said


def test_plan_runs_nothing(gaplab: Gaplab, write_spec: Write, tmp_path: Path) -> None:
    spec = write_spec(grid={"assignment.alpha": [0.2, 0.8], "seed": [0, 1]})
    said = gaplab("plan", spec)
    assert "4 trials: 0 already in the ledger, 4 to run" in said
    assert "no estimate" in said
    plan = json.loads(gaplab("plan", spec, "--json"))
    assert [t["state"] for t in plan["trials"]] == ["new"] * 4
    assert plan["estimate"]["unknown"] == 4
    assert not list(tmp_path.glob("home/trials"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"detektor": {}}, 'unknown key; did you mean "detector"?'),
        ({"assignment": {"name": "poto", "alpha": 1.4}}, "assignment.alpha: "),
        ({"assignment": {"name": "o2f", "k": 0}}, "assignment.k: "),
        ({"assignment": {"name": "o2f", "t_min": 0.7}}, "t_min must not be above t_max"),
        (
            {"grid": {"seed": list(range(200)), "training.lr": [i / 999 for i in range(1, 200)]}},
            "max_trials",
        ),
    ],
)
def test_wrong_specs_are_one_line_each(
    gaplab: Gaplab, write_spec: Write, change: dict[str, object], line: str
) -> None:
    said = gaplab("plan", write_spec(**change), code=2)
    assert line in said
    assert all(text.startswith("gaplab: ") for text in said.splitlines())


def test_all_problems_at_once(gaplab: Gaplab, write_spec: Write) -> None:
    spec = write_spec(seed=-1, training={"lr": 0, "epoch": 3}, assignment={"name": "potto"})
    said = gaplab("run", spec, code=2)
    for part in ("seed", "training.lr", "training.epoch", "assignment.name"):
        assert part in said
    assert len(said.splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml"),
        (("resume",), "none in the ledger yet"),
        (("resume", "quickstart-123"), "quickstart-123"),
        (("show", "abc"), "abc"),
        (("leaderboard", "--epoch", "first"), '--epoch first: must be "last", "best" or a number'),
        (("leaderboard", "--sweep", "x"), "x"),
    ],
)
def test_wrong_arguments(gaplab: Gaplab, words: tuple[str, ...], line: str) -> None:
    assert line in gaplab(*words, code=2)


def test_an_empty_ledger_is_no_error(gaplab: Gaplab) -> None:
    assert json.loads(gaplab("leaderboard", "--json")) == []
    assert json.loads(gaplab("compare", "--json")) == []
    assert gaplab("leaderboard", "--csv").startswith("trial,sweep,")
    assert "no sweeps yet" in gaplab("show")


def test_readers_never_import_torch() -> None:
    code = "import sys, gaplab.cli.results, gaplab.cli.showing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
