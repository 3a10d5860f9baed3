"""The same question to the ledger and to MLflow: 20 trials with an alpha, an AP, and a small gap.

GAPLAB_BENCH_RUNS sets the number of trials. Both databases are SQLite files, filled by SQL, which
work in this process: its CPU time is compared, which doesn't depend on other load of the machine.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, create_engine, text

from gaplab.ledger import Ledger
from gaplab.ledger.expression import parse
from gaplab.ledger.views import Order, RowFilter

RUNS = int(os.environ.get("GAPLAB_BENCH_RUNS", "100000"))
QUESTION = RowFilter(
    where=(parse("assignment.alpha == 0.5 and ap > 35"),), order=Order("gap"), top=20
)
ALIKE = "params.`assignment.alpha` = '0.5' and metrics.ap > 35"


def copy(connection: Connection, experiment: str, ledger: str) -> None:
    """Insert a run for each trial of a ledger, with its alpha and its last AP and gap."""
    connection.execute(text("ATTACH :path AS ledger"), {"path": ledger})
    values = {"experiment": int(experiment)}
    last = "ledger.chosen_evaluation AS e WHERE e.chosen = 'last' AND e.protocol = 'default'"
    alpha = "JSON_EXTRACT(t.config, '$.assignment.alpha')"
    for statement in (
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, "
        "status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, "
        "experiment_id) SELECT id, id, 'LOCAL', '', '', 'u', 'FINISHED', 0, 1, '', 'active', '', "
        ":experiment FROM ledger.trial",
        "INSERT INTO params (key, value, run_uuid) SELECT 'assignment.alpha', "
        f"CAST({alpha} AS TEXT), t.id FROM ledger.trial AS t",
        *(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) SELECT "
            f"'{name}', e.{name}, 0, e.epoch, 0, e.trial_id FROM {last}"
            for name in ("ap", "gap")
        ),
    ):
        connection.execute(text(statement), values if ":experiment" in statement else {})


def cpu_ms(action: Callable[[], Any], times: int) -> float:
    """Return the mean milliseconds of CPU time that an action takes, once it is warm."""
    action()
    start = time.process_time()
    for _ in range(times):
        action()
    return 1000 * (time.process_time() - start) / times


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own code
def test_the_ledger_answers_faster_than_mlflow(
    tmp_path: Path, load: Callable[[Path], ModuleType]
) -> None:
    from mlflow import MlflowClient

    bench = load(Path(__file__).with_name("test_results.py"))
    path, url = tmp_path / "ledger.db", f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(url)
    experiment = client.create_experiment("bench")
    with Ledger.open(f"sqlite:///{path}") as ledger:
        with ledger._writing.begin() as connection:
            bench.fill(connection, RUNS)
        with create_engine(url).begin() as connection:
            copy(connection, experiment, str(path))
        rows = ledger.rows(QUESTION)
        own = cpu_ms(lambda: ledger.rows(QUESTION), 100)

        def ask() -> list[str]:
            order = ["metrics.gap DESC", "metrics.ap DESC"]
            found = client.search_runs([experiment], ALIKE, max_results=20, order_by=order)
            return [run.info.run_id for run in found]

        other = cpu_ms(ask, 2)
        assert ask() == [row.trial for row in rows]
    table = Table("what", "mean CPU time", title=f"top 20 of {RUNS} trials with two filters")
    table.add_row("ledger", f"{own:.1f} ms")
    table.add_row("MLflow's search_runs", f"{other:.1f} ms")
    table.add_row("ratio", f"{other / own:.0f}")
    Console(width=100).print(table)
    assert other / own >= 100
