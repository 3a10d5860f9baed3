"""A trial of a detector whose points are queries is stored and measured like every other."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gaplab.cli.evaluate import USUAL
from gaplab.ledger import Ledger
from gaplab.storage.home import Home

Gaplab = Callable[..., str]


@pytest.fixture
def home(queries: Path, tmp_path: Path) -> Path:
    """A copy of that folder to write to."""
    return Path(shutil.copytree(queries, tmp_path / "home"))


@pytest.fixture
def trial(home: Path) -> str:
    with Ledger.open(Home(home).ledger_url) as ledger:
        [only] = ledger.all_trials()
        return only.id


def test_its_candidates_are_measured_again(gaplab: Gaplab, trial: str) -> None:
    [row] = json.loads(gaplab("leaderboard", "--json"))
    rules = ("--protocol", "onenet", "--protocol", "{pre_nms_topk: 301}")
    lines = gaplab("reevaluate", trial, "--json", *rules).splitlines()
    found = [json.loads(line) for line in lines]
    assert {each["branch"] for each in found} == {"o2o"}
    same = next(each["metrics"] for each in found if each["protocol"].startswith("custom-"))
    assert (row["trial"], row["ap"]) == (trial, pytest.approx(same["ap"]))
    assert same["positives_per_object"] == pytest.approx(1.0)
    assert json.loads(gaplab("explain", trial, "--json"))


def test_usual_protocols_are_those_that_queries_serve(gaplab: Gaplab, trial: str) -> None:
    said = gaplab("reevaluate", trial).splitlines()[-1]
    assert "centernet (1 of 1); name it with --protocol" in said
    lines = gaplab("reevaluate", trial, "--json").splitlines()
    assert {json.loads(line)["protocol"] for line in lines} == set(USUAL) - {"centernet"}


def test_protocols_of_positions_are_refused_in_one_line(gaplab: Gaplab, trial: str) -> None:
    rules = ("--protocol", "centernet", "--protocol", "{level_range: 1}", "--protocol", "onenet")
    lines = gaplab("reevaluate", trial, *rules, code=2).splitlines()
    assert len(lines) == 2
    assert "its queries have no levels and positions, which protocol centernet needs" in lines[0]
    assert "(level_range); choose another one" in lines[1]
