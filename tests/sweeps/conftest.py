"""What tests of the whole command on real Ray clusters share: a home, its drivers, its ledger."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gaplab.cli.doctor.network import Listener, listeners
from gaplab.launch.attempt import run_attempt, run_in_process
from gaplab.ledger import Ledger
from gaplab.ledger.views import AttemptView, EvaluationView
from gaplab.records import EpochDone, Event
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.storage.filesystem import Storage

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
        """A command on the home folder in a session of its own, its output in pipes."""
        return self.start_bare(*words, "--home", self.home, command=command)

    def start_bare(
        self, *words: object, command: Sequence[str] = GAPLAB
    ) -> "subprocess.Popen[str]":
        """A command that needs no home folder."""
        line, pipe, env = [*command, *map(str, words)], subprocess.PIPE, self.environment()
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
        rows = self.rows()
        found = {(e.trial, e.epoch, e.branch): e for e in rows}
        assert len(found) == len(rows)
        return found

    def rows(self) -> list[EvaluationView]:
        with Ledger.open(self.ledger) as ledger:
            return list(ledger.all_evaluations())

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
            assert driver is None or driver.poll() is None, driver.communicate()
            time.sleep(0.1)
        raise AssertionError("not within two minutes")

    def wait_for_evaluations(self, count: int, driver: "subprocess.Popen[str]") -> None:
        self.wait_for(lambda: self.ready() and len(self.evaluations()) >= count, driver)

    def ready(self) -> bool:
        """Whether there is a ledger yet."""
        if self.ledger.startswith("sqlite"):
            return Path(self.ledger.removeprefix("sqlite:///")).exists()
        return True

    def listeners(self, driver: "subprocess.Popen[str]") -> list[Listener]:
        """Where processes of this driver listen."""
        ours = processes_below(driver.pid)
        return [each for each in listeners() or [] if each.pid in ours]

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
                run_attempt(trial, storage, events.append, run_in_process)
            said = [
                e for event in events if isinstance(event, EpochDone) for e in event.evaluations
            ]
            kept[key] = {(e.trial, e.epoch, e.branch): e.metrics for e in said}
        return kept[key]

    return train


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A home with its ledger in SQLite."""
    home = tmp_path / "home"
    return Bench(home, f"sqlite:///{home}/ledger.db")


@pytest.fixture(
    params=["sqlite", "postgresql"] if os.environ.get("CHAOS") == "full" else ["sqlite"]
)
def either(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    """A home with its ledger in SQLite, and one with it in PostgreSQL."""
    if request.param == "postgresql":
        bench.ledger = request.getfixturevalue("postgres_schema")
    return bench


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
        twice = len(bench.rows()) - found
        cells = (fault, where, injected, trials, attempts, expected, found, twice)
        if path := os.environ.get("CHAOS_REPORT"):
            with Path(path).open("a") as file:
                file.write(f"| {' | '.join(map(str, cells))} |\n")

    return add


class TwoNodes:
    """The script of cluster/local, with a cluster of its own that runs."""

    def __init__(self, folder: str) -> None:
        self._script = Path(__file__).parents[2] / "cluster" / "local" / "two_nodes.sh"
        self._env = os.environ | {"GAPLAB_CLUSTER": folder, "PYTHON": sys.executable}
        self("up")
        said = re.findall(r"^export (\w+)=(.*)$", self("env"), re.MULTILINE)
        self.environment = {name: shlex.split(value)[0] for name, value in said}
        """What a person exports, but for the addresses."""
        self.address = self.environment.pop("RAY_ADDRESS")
        self.dashboard = self.environment.pop("RAY_API_SERVER_ADDRESS")

    def __call__(self, *words: str) -> str:
        line = ["bash", str(self._script), *words]
        done = subprocess.run(line, env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def two_nodes() -> Iterator[TwoNodes]:
    folder = tempfile.mkdtemp(prefix="gaplab-two-")  # short enough for a socket's path
    try:
        cluster = TwoNodes(folder)
        yield cluster
        cluster("down")
    finally:
        shutil.rmtree(folder)
