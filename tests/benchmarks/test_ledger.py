"""The speed of the ledger. `pytest -s tests/benchmarks/test_ledger.py` prints a table."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert

from detectors.evaluation.metrics import ClassGap
from detectors.evaluation.protocol import PROTOCOLS
from gaplab.ledger import Ledger, claims
from gaplab.ledger.chosen import KEY, choose_evaluation
from gaplab.ledger.models import Evaluation, EvaluationClasses
from gaplab.ledger.views import METRICS
from gaplab.records import Claim, EvaluationRecord, Machine, TrialRecord
from gaplab.results.comparison.compare import compare
from gaplab.results.comparison.leaderboard import leaderboard
from gaplab.spec.protocols import rule_of
from tests.builders import evaluation_record, sweep_record, trial_record

TRIALS, EPOCHS, RECORDS = 10_000, 12, 2_000
SIZES = ("ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar_small", "ar_medium", "ar_large")
RULE = rule_of(PROTOCOLS["default"])
MORE = {f"{name}{kind}": 30.0 for name in SIZES for kind in ("", "_nms", "_gap")}
CLASSES = tuple(ClassGap(f"class {number}", 30.0, 31.0, -1.0) for number in range(3))


def trial(number: int) -> TrialRecord:
    """Build a trial with a configuration of the usual size."""
    alpha = number % 100 / 100
    config = {
        "assignment": {"name": "poto", "alpha": alpha},
        "data": {"name": "shapes", **{f"option_{index}": index for index in range(12)}},
        "training": {f"option_{index}": index / 2 for index in range(18)} | {"epochs": EPOCHS},
        "seed": number,
    }
    return trial_record(f"{number:012x}", config=config, seed=number, epochs=EPOCHS)


def evaluation(trial: str, epoch: int) -> EvaluationRecord:
    metrics = {**dict.fromkeys(METRICS, float(epoch)), **MORE}
    uris: Any = {"candidates": f"file:///c/{epoch}", "matches": f"file:///m/{epoch}"}
    return evaluation_record(trial, epoch, metrics=metrics, classes=CLASSES, rule=RULE, **uris)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        yield ledger


def test_ten_thousand_trials(ledger: Ledger, tmp_path: Path) -> None:
    table = Table("what", "seconds", title=f"ledger of {TRIALS} trials, SQLite")

    def timed(what: str, action: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = action()
        table.add_row(what, f"{time.perf_counter() - start:.3f}")
        return result

    trials = tuple(trial(number) for number in range(TRIALS))
    ids = [each.id for each in trials]
    sweep = sweep_record("s1", *trials)
    timed("add_sweep", lambda: ledger.add_sweep(sweep))
    timed("add_sweep again", lambda: ledger.add_sweep(sweep))
    assert len(timed("states", lambda: ledger.states(ids))) == TRIALS
    machine = Machine("n", "cpu", 1, 0.0)
    attempt = ledger.start_attempt(Claim(ids[0], "s1", machine=machine))
    records = [evaluation(ids[0], epoch) for epoch in range(RECORDS)]
    timed(f"record, {RECORDS} times", lambda: [ledger.record(r, attempt) for r in records])
    timed(f"record again, {RECORDS} times", lambda: [ledger.record(r, attempt) for r in records])
    fill(ledger, ids[1:], machine)
    rows = timed("leaderboard", lambda: leaderboard(ledger, sort="ap"))
    assert len(rows) == TRIALS
    best = timed(
        "leaderboard, best epoch, where",
        lambda: leaderboard(ledger, epoch="best", where="assignment.alpha=0.5"),
    )
    assert len(best) == 100
    assert len(timed("compare by alpha", lambda: compare(rows, ["assignment.alpha"]))) == 100
    timed("sweeps", ledger.sweeps)
    rows = RECORDS + 2 * EPOCHS * (TRIALS - 1)
    assert timed(f"all {rows} evaluations", lambda: count(ledger.all_evaluations())) == rows
    assert timed("all trials", lambda: count(ledger.all_trials())) == TRIALS
    Console().print(table)


def count(found: Iterator[Any]) -> int:
    return sum(1 for _ in found)


def fill(ledger: Ledger, trials: list[str], machine: Machine) -> None:
    """Insert an attempt per trial and two evaluations per epoch without the public methods."""
    now, metrics = datetime.now(UTC), dict.fromkeys(METRICS, 30.0)
    classes = [dict(vars(each)) for each in CLASSES]
    empty = dict.fromkeys(("candidates", "matches", "truth"), "")
    with ledger._writing.begin() as connection:
        for each in trials:
            attempt = claims.start_attempt(connection, Claim(each, "s1", machine=machine))
            rows = [
                {"trial_id": each, "attempt_id": attempt, "epoch": epoch, "branch": branch}
                | {"is_primary": branch == "o2o", "protocol": "default", "created_at": now}
                | {**metrics, "more": MORE, **empty}
                for epoch in range(1, EPOCHS + 1)
                for branch in ("o2o", "o2m")
            ]
            connection.execute(insert(Evaluation), rows)
            keys = [{name: row[name] for name in KEY} for row in rows]
            connection.execute(insert(EvaluationClasses), [k | {"classes": classes} for k in keys])
            for key in keys[-2:]:
                choose_evaluation(connection, key)
