"""Results of an open home as Arrow tables, and what a bare ledger gives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import gaplab
from gaplab.errors import UserError
from gaplab.results.comparison.leaderboard import leaderboard
from gaplab.states import TrialState
from gaplab.storage.home import Home
from tests.builders import LedgerBench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LedgerBench]:
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    made = LedgerBench(Home(tmp_path / "home"))
    yield made
    made.ledger.close()


def test_tables_hold_what_the_ledger_holds(bench: LedgerBench) -> None:
    sweep, good, _ = bench.small()
    third = bench.trial(3, assignment={"name": "dual", "alpha": 0.25})
    bench.run(third, bench.add("other", third), 1, TrialState.SUCCEEDED)
    home = gaplab.open_home(bench.home.path)
    trials = home.trials().to_pylist()
    assert [row["id"] for row in trials] == [each.id for each in bench.ledger.all_trials()]
    assert [row["config.assignment.alpha"] for row in trials] == [0.5, 0.5, 0.25]
    assert [row["id"] for row in home.trials(sweep).to_pylist()] == [
        row["id"] for row in trials[:2]
    ]
    evaluations = home.evaluations().to_pylist()
    assert [(row["trial"], row["epoch"], row["branch"], row["ap"]) for row in evaluations] == [
        (each.trial, each.epoch, each.branch, each.metrics["ap"])
        for each in bench.ledger.all_evaluations()
    ]
    board = home.leaderboard(where="ap > 1", top=2).to_pylist()
    rows = leaderboard(bench.ledger, where="ap > 1", top=2)
    assert [(row["trial"], row["ap"], row["state"]) for row in board] == [
        (row.trial, row.ap, str(row.state)) for row in rows
    ]
    assert {row["assignment.alpha"] for row in board} == {0.25, 0.5}
    assert home.leaderboard(where="trial == 'x'").num_rows == 0
    [first, *_] = home.leaderboard(["duplicates", "wall_hours"]).to_pylist()
    assert first["duplicates"] is None
    assert first["wall_hours"] == first_hours(bench, first["trial"])
    with pytest.raises(UserError, match="wal_hours: no such key"):
        home.leaderboard(columns=["wal_hours"])
    with pytest.raises(UserError, match="sede: no such key"):
        home.leaderboard(where="sede == 1")
    assert home.evaluations(sweep).num_rows == 8
    assert good.id in {row["trial"] for row in home.evaluations(sweep).to_pylist()}


def first_hours(bench: LedgerBench, trial: str) -> float:
    return sum(each.wall_seconds or 0 for each in bench.ledger.attempts(trial)) / 3600


def test_a_home_without_a_ledger(tmp_path: Path) -> None:
    for read in ("trials", "evaluations", "leaderboard"):
        with pytest.raises(UserError, match="holds no ledger"):
            getattr(gaplab.open_home(tmp_path), read)()
