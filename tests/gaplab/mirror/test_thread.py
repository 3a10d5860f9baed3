"""The thread that mirrors a running sweep, against a real MLflow over SQLite."""

import fcntl
import time

import pytest

from gaplab.mirror.replay import Mirror, MirrorThread
from gaplab.records import EpochDone, Started, TrialRecord
from gaplab.states import TrialState
from tests.builders import MACHINE, LedgerBench, epoch_done
from tests.gaplab.mirror.mlflow_runs import (
    damage_database,
    run_of,
    runs,
)

pytestmark = [
    # MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

FOR_EVER = 1e9  # seconds: how long a test waits does not depend on the machine's speed


def event(bench: LedgerBench, trial: TrialRecord, epoch: int) -> EpochDone:
    done = tuple(bench.ledger.evaluations(trial.id))
    return epoch_done(trial.id, epoch, *done, checkpoint="")


def test_the_thread_follows_a_sweep(bench: LedgerBench) -> None:
    _, good, bad = bench.small()
    late = bench.trial(3)
    bench.add("late", good, bad, late)
    thread = MirrorThread(bench.home, "late")
    bench.start(late, "late")
    thread.notify(Started(late.id, MACHINE, 0))
    while len(runs(bench)) < 4:  # until the thread has mirrored the trial that runs
        time.sleep(0.05)
    bench.epoch(late, 1)
    thread.notify(event(bench, late, 1))
    bench.end(late, TrialState.SUCCEEDED)
    assert thread.close(FOR_EVER) is None
    assert Mirror(bench.home).replay(bench.ledger, "late") == 0
    assert run_of(bench, late.id).info.status == "FINISHED"


def test_closing_mirrors_what_no_event_mentioned(bench: LedgerBench) -> None:
    sweep, _, _ = bench.small()
    assert MirrorThread(bench.home, sweep).close(FOR_EVER) is None
    assert len(runs(bench)) == 3


def test_closing_returns_one_line_if_mlflow_is_broken(bench: LedgerBench) -> None:
    sweep, good, _ = bench.small()
    damage_database(bench.home.path / "mlflow.db")
    thread = MirrorThread(bench.home, sweep)
    thread.notify(Started(good.id, MACHINE, 0))
    problem = thread.close(FOR_EVER)
    assert problem is not None
    assert "\n" not in problem
    assert "file is not a database" in problem
    assert f"gaplab mirror {sweep}" in problem


def test_closing_returns_one_line_if_the_ledger_can_t_be_opened(
    bench: LedgerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, _, _ = bench.small()
    monkeypatch.setenv("GAPLAB_LEDGER", "mysql://nowhere/x")
    problem = MirrorThread(bench.home, sweep).close(FOR_EVER)
    assert "not a SQLite file or a PostgreSQL" in (problem or "")


def test_closing_waits_for_a_blocked_mirror_no_longer_than_asked(bench: LedgerBench) -> None:
    sweep, good, _ = bench.small()
    thread = MirrorThread(bench.home, sweep)
    with (bench.home.path / "mlflow.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread.notify(Started(good.id, MACHINE, 0))
        problem = thread.close(0.2)
        assert "not up to date after 0.2 s" in (problem or "")
        assert f"gaplab mirror {sweep}" in (problem or "")
    assert thread.close(FOR_EVER) is None
    assert len(runs(bench)) == 3
