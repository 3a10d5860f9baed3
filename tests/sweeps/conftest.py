"""Fixtures for the tests of whole commands on real Ray clusters."""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gaplab.launch.attempt import run_attempt, run_in_process
from gaplab.records import EpochDone, Event
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.storage.filesystem import Storage
from tests.sweeps.bench import FULL, Bench, Gate, Metrics, TwoNodes


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Metrics]:
    """Trains the trials of a spec in this process, without Ray or a ledger; their metrics."""
    known: dict[str, Metrics] = {}

    def train(spec: Path) -> Metrics:
        if (key := spec.read_text()) not in known:
            events: list[Event] = []
            storage = Storage(str(tmp_path_factory.mktemp("undisturbed")))
            for trial in expand(load_spec(spec)).trials:
                run_attempt(trial, storage, events.append, run_in_process)
            done = [event for event in events if isinstance(event, EpochDone)]
            evaluations = [each for event in done for each in event.evaluations]
            known[key] = {(e.trial, e.epoch, e.branch): dict(e.metrics) for e in evaluations}
        return known[key]

    return train


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A home folder with its ledger in SQLite."""
    return Bench.at(tmp_path / "home")


@pytest.fixture(params=["sqlite", "postgresql"] if FULL else ["sqlite"])
def either(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    """A home folder with its ledger in SQLite, then one with it in PostgreSQL."""
    if request.param == "postgresql":
        bench.ledger = request.getfixturevalue("postgres_schema")
    return bench


@pytest.fixture
def dice() -> random.Random:
    """Random numbers with a fixed seed."""
    return random.Random(int(os.environ.get("CHAOS_SEED", "0")))


@pytest.fixture
def report() -> Callable[[str, int, Bench, int], None]:
    """Adds a row to the table in the file CHAOS_REPORT: a fault, and what came of it."""

    def add(fault: str, injected: int, bench: Bench, expected: int) -> None:
        found, attempts = len(bench.evaluations()), len(bench.attempts())
        trials = sum(bench.states().values())
        where = "PostgreSQL" if bench.ledger.startswith("postgresql") else "SQLite"
        twice = len(bench.rows()) - found
        cells = (fault, where, injected, trials, attempts, expected, found, twice)
        if path := os.environ.get("CHAOS_REPORT"):
            with Path(path).open("a") as file:
                file.write(f"| {' | '.join(map(str, cells))} |\n")

    return add


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate that is open."""
    made = Gate(tmp_path / "gate")
    made.open()
    return made


@pytest.fixture
def two_nodes(gate: Gate) -> Iterator[TwoNodes]:
    """A cluster of two nodes on this machine, whose trials wait while the gate is closed."""
    folder = tempfile.mkdtemp(prefix="gaplab-two-")  # short enough for the path of a socket
    try:
        cluster = TwoNodes(folder, gate.environment)
        yield cluster
        cluster("down")
    finally:
        shutil.rmtree(folder)
