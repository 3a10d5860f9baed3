"""10,000 trials that train nothing, by drivers that are killed: none lost, none twice.

Planned, claimed, recorded and resumed by the product's own code in real processes; what is left in
the database is read without it. `pytest -s tests/benchmarks/test_noop.py` prints a table.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import psycopg
import pytest
from rich.console import Console
from rich.table import Table

from gaplab.launch.costs import Estimate, estimate
from gaplab.ledger import Ledger
from gaplab.records import SweepRecord
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand

TRIALS, KILLS, REPLAY = 10_000, 6, 5.0
SECONDS = 600


@dataclass(frozen=True)
class Life:
    """What a driver said: when it began, when it was ready, when a trial was over (seconds)."""

    began: float
    ready: float | None
    ends: tuple[float, ...]
    code: int

    @property
    def replay(self) -> float:
        assert self.ready is not None
        return self.ready - self.began

    @property
    def busy(self) -> float:
        """Seconds of recording."""
        return self.ends[-1] - self.ready if self.ends and self.ready is not None else 0.0


@pytest.fixture
def spec(write_spec: Callable[..., Path]) -> Path:
    grid = {"assignment.alpha": [n / 100 for n in range(100)], "seed": list(range(100))}
    training = {"epochs": 1, "batch": 4, "warmup_steps": 1}
    return write_spec(training=training, grid=grid)


def plan(url: str, spec: Path) -> tuple[SweepRecord, Estimate]:
    """What `gaplab plan` asks."""
    sweep = expand(load_spec(spec))
    with Ledger.open(url) as ledger:
        states, costs = ledger.states([trial.id for trial in sweep.trials]), ledger.costs()
    return sweep, estimate([t for t in sweep.trials if t.id not in states], costs, 1)


def live(command: Sequence[str], lines: int | None = None, pause: float = 0.0) -> Life:
    """Run a driver to its end, or kill it `pause` seconds after it has said so many lines."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    said: list[float] = []
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            said.append(float(line.split()[0]))
            if len(said) == lines:
                time.sleep(pause)
                child.kill()
    ready = said[1] if len(said) > 1 else None
    return Life(said[0], ready, tuple(said[2:]), child.returncode)


def lives(url: str, spec: Path, program: str) -> Iterator[Life]:
    """Drivers one after the other: the second is killed while it replays the ledger, others while
    they record; the last one lives.
    """
    rng = random.Random(url.split(":")[0])
    first, again = [sys.executable, program, url, str(spec)], [sys.executable, program, url]
    yield live(first, 2 + rng.randrange(500, 1500), rng.uniform(0, 0.01))
    yield live(again, 1, rng.uniform(0, 0.5))
    for _ in range(KILLS - 2):
        yield live(again, 2 + rng.randrange(500, 2000), rng.uniform(0, 0.01))
    yield live(again)


def rows(url: str, query: str) -> list[Any]:
    """The rows of a query, by the database's own client."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return connection.execute(query).fetchall()
    with psycopg.connect(url.replace("+psycopg", "")) as server:
        return server.execute(query.encode()).fetchall()


def check_attempts(url: str) -> dict[str, int]:
    """Attempts by state; raises unless each trial's are numbered from 1 and the last succeeded."""
    found = rows(url, "SELECT trial_id, number, state FROM attempt ORDER BY trial_id, number")
    for trial, attempts in groupby(found, key=itemgetter(0)):
        own = list(attempts)
        assert [number for _, number, _ in own] == list(range(1, len(own) + 1)), trial
        states = [state for *_, state in own]
        assert states == ["interrupted"] * (len(own) - 1) + ["succeeded"], trial
    return Counter(state for *_, state in found)


def lost_and_twice(url: str, sweep: SweepRecord) -> tuple[int, int]:
    """Evaluations that should be there and are not, and such as are there more than once."""
    found = Counter(rows(url, "SELECT trial_id, epoch, branch, protocol FROM evaluation"))
    wanted = {(trial.id, 1, "o2o", "default") for trial in sweep.trials}
    assert found.keys() <= wanted
    return len(wanted - found.keys()), found.total() - len(found)


def report(database: str, figures: dict[str, str]) -> None:
    table = Table(*figures, title=f"{TRIALS:,} trials that do nothing, {database}")
    table.add_row(*figures.values())
    Console(width=120).print(table)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_ten_thousand_trials_and_drivers_that_are_killed(
    database: str, ledger_url: Callable[[str], str], spec: Path, noop: ModuleType
) -> None:
    url = ledger_url(database)
    start = time.perf_counter()
    sweep, asked = plan(url, spec)
    planning = time.perf_counter() - start
    assert asked.trials == len(sweep.trials) == TRIALS
    known = list(lives(url, spec, str(noop.__file__)))
    assert [life.code for life in known] == [-signal.SIGKILL] * KILLS + [0]
    ended = rows(url, "SELECT id, state FROM trial")
    assert sorted(ended) == sorted((trial.id, "succeeded") for trial in sweep.trials)
    attempts = check_attempts(url)
    lost, twice = lost_and_twice(url, sweep)
    replays = [life.replay for life in known[1:] if life.ready is not None]
    done, busy = sum(len(life.ends) for life in known), sum(life.busy for life in known)
    figures = {
        "plan, s": f"{planning:.2f}",
        "kills": str(KILLS),
        "attempts": f"{sum(attempts.values()):,}",
        "replay, s": f"{median(replays):.2f}",
        "at most": f"{max(replays):.2f}",
        "records/s": f"{done / busy:.0f}",
        "lost": str(lost),
        "twice": str(twice),
    }
    report(database, figures)
    assert lost == twice == 0
    assert attempts["succeeded"] == TRIALS
    assert 1 <= attempts["interrupted"] <= KILLS
    assert median(replays) < REPLAY
