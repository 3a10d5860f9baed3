"""Trials recorded per second, in the ledger and in MLflow on the same machine.

A record is everything that a driver writes for a trial that trains nothing: claim, start, one epoch
with its evaluation and checkpoint, end. In MLflow it is a run with the tags, params and metrics
that the mirror writes. `pytest -s tests/benchmarks/test_records.py` prints a table.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from rich.console import Console
from rich.table import Table

from gaplab.launch.queue import Queue
from gaplab.launch.recorder import Recorder
from gaplab.ledger import Ledger
from gaplab.mirror.content import RunContent, trial_content
from gaplab.records import SweepRecord
from gaplab.spec.files import load_spec
from gaplab.spec.models import Policy
from gaplab.spec.sweep import expand

TURNS = 10
COUNTS = {"SQLite": 2_000, "PostgreSQL": 2_000, "MLflow": 150}
TRIALS = COUNTS["SQLite"] + COUNTS["MLflow"]
LEAST = {"SQLite": 10.0, "PostgreSQL": 3.0}  # multiples of MLflow's rate


@pytest.fixture
def sweep(write_spec: Callable[..., Path]) -> SweepRecord:
    training = {"epochs": 1, "batch": 4, "warmup_steps": 1}
    grid = {"assignment.alpha": [number / TRIALS for number in range(TRIALS)]}
    return expand(load_spec(write_spec(training=training, grid=grid)))


def into_ledger(ledger: Ledger, sweep: SweepRecord, noop: ModuleType) -> Iterator[str]:
    """Record one trial with each step of the iterator."""
    own = noop.driver(sweep)
    ledger.add_sweep(sweep)
    ledger.add_driver(own, 600.0)
    queue = Queue(ledger, own, Policy(), sweep.trials)
    return iter(noop.record(queue, Recorder(ledger, []), noop.provenance(sweep.trials[0])))


def into_mlflow(uri: str, runs: Sequence[RunContent]) -> Iterator[str]:
    """Record one run with each step, with MLflow's client as a person would use it."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("records")
    return (log(client, experiment, run) for run in runs)


def log(client: Any, experiment: str, run: RunContent) -> str:
    from mlflow.entities import Metric, Param

    made: str = client.create_run(experiment, run.started, run.tags).info.run_id
    client.log_batch(made, params=[Param(*item) for item in run.params.items()])
    points = [Metric(point.key, point.value, point.time, point.epoch) for point in run.points]
    client.log_batch(made, metrics=points)
    client.set_terminated(made, run.status, run.ended)
    return made


def mirrored(ledger: Ledger, sweep: str, trials: Sequence[str]) -> list[RunContent]:
    """Return what MLflow should hold of these trials."""
    found = {trial.id: trial for trial in ledger.trials(sweep)}
    return [
        trial_content(sweep, found[trial], ledger.attempts(trial), ledger.evaluations(trial))
        for trial in trials
    ]


def in_turns(writers: Mapping[str, Iterator[str]]) -> dict[str, float]:
    """Return the records per second of each writer.

    They take turns, so that other work on the machine slows all of them down.
    """
    spent, done = dict.fromkeys(writers, 0.0), Counter[str]()
    for _ in range(TURNS):
        for name, writer in writers.items():
            start = time.perf_counter()
            done[name] += sum(1 for _ in islice(writer, COUNTS[name] // TURNS))
            spent[name] += time.perf_counter() - start
    assert done == COUNTS
    return {name: done[name] / spent[name] for name in writers}


def setting(url: str, name: str) -> str:
    """Return a setting of the PostgreSQL server."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        (found,) = connection.execute(f"SHOW {name}".encode()).fetchall()
    return str(found[0])


def report(rates: Mapping[str, float]) -> None:
    table = Table("into", "records/s", "times MLflow", title="trials recorded")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}", f"{rate / rates['MLflow']:.1f}")
    Console().print(table)


@pytest.mark.timeout(600)
# MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_records_per_second(
    ledger_url: Callable[[str], str], sweep: SweepRecord, noop: ModuleType, tmp_path: Path
) -> None:
    urls = {name: ledger_url(name) for name in ("SQLite", "PostgreSQL")}
    assert {setting(urls["PostgreSQL"], n) for n in ("fsync", "synchronous_commit")} == {"on"}
    with ExitStack() as stack:
        ledgers = {name: stack.enter_context(Ledger.open(url)) for name, url in urls.items()}
        writers = {name: into_ledger(ledger, sweep, noop) for name, ledger in ledgers.items()}
        first = {name: list(islice(w, COUNTS["MLflow"])) for name, w in writers.items()}
        runs = mirrored(ledgers["SQLite"], sweep.id, first["SQLite"])
        rates = in_turns(writers | {"MLflow": into_mlflow(f"sqlite:///{tmp_path}/mlflow.db", runs)})
        ids = [trial.id for trial in sweep.trials]
        for ledger in ledgers.values():
            assert Counter(ledger.states(ids).values()) == {"succeeded": TRIALS}
    report(rates)
    assert all(rates[name] >= times * rates["MLflow"] for name, times in LEAST.items())
