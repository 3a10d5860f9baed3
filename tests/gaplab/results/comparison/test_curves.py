"""Groups at every evaluated epoch."""

from pathlib import Path
from statistics import fmean

import pytest

from gaplab.cli.render.comparison import curves_table
from gaplab.results.comparison.compare import compare
from gaplab.results.comparison.curves import over_epochs
from gaplab.results.comparison.leaderboard import leaderboard
from gaplab.states import TrialState
from gaplab.storage.home import Home
from tests.builders import LedgerBench, leaderboard_row


def test_means_over_the_trials_that_were_evaluated_at_an_epoch(tmp_path: Path) -> None:
    bench = LedgerBench(Home(tmp_path))
    epochs = {0: (1, 2, 4), 1: (1, 4), 2: (1,)}
    trials = {seed: bench.trial(seed) for seed in epochs}
    sweep = bench.add("s1", *trials.values())
    for seed, evaluated in epochs.items():
        bench.start(trials[seed], sweep)
        for epoch in evaluated:
            bench.epoch(trials[seed], epoch)
        if seed < 2:
            bench.end(trials[seed], TrialState.SUCCEEDED)
    rows = leaderboard(bench.ledger)
    groups = over_epochs(bench.ledger, rows, ["assignment"])
    assert [(group.epoch, group.n) for group in groups] == [(1, 2), (2, 1), (4, 2)]
    for group in groups:
        values = [
            each.metrics["ap"]
            for seed in (0, 1)
            for each in bench.ledger.evaluations(trials[seed].id)
            if each.primary and each.epoch == group.epoch
        ]
        assert group.stats["ap"].mean == pytest.approx(fmean(map(float, filter(None, values))))
    assert over_epochs(bench.ledger, rows, ["assignment"], branch="o2m")[0].stats["ap"].mean > 50
    assert over_epochs(bench.ledger, [], ["assignment"]) == []


@pytest.mark.parametrize(("epochs", "shown"), [(12, 12), (13, 12), (300, 12), (1, 1)])
def test_a_table_shows_some_of_many_epochs(epochs: int, shown: int) -> None:
    groups = [
        group
        for epoch in range(1, epochs + 1)
        for group in compare([leaderboard_row(epoch=epoch, epochs=epochs)], ["assignment"])
    ]
    table = curves_table(groups, "gap")
    headings = [each.heading for each in table.columns if each.heading.isdecimal()]
    assert (len(headings), headings[0], headings[-1]) == (shown, "1", str(epochs))
    assert (f"{shown} of {epochs} epochs" in table.caption) == (shown < epochs)
    assert [each.cells for each in table.columns][-1] == ["-1.0"]


def test_no_curves() -> None:
    assert "nothing yet" in curves_table([], "ap").caption
