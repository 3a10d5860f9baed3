"""Measure what Ray adds to a trial with one worker or two, for the first trial and later ones.

`pytest -s tests/benchmarks/test_overhead.py` prints a table.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from rich.console import Console
from rich.table import Table

from gaplab.launch.attempt import run_attempt, run_in_process
from gaplab.launch.driver import Listeners, run_sweep
from gaplab.ledger import Ledger
from gaplab.records import Ended, Event, Started, SweepRecord
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home

MOST = 2.0  # seconds added to a later trial of one worker
TRIALS = 5


def small_sweep(write_spec: Callable[..., Path], workers: int, epochs: int = 4) -> SweepRecord:
    """Build a sweep. The number of workers is not part of a trial's id, that of epochs is."""
    changes = {
        "grid": {"seed": list(range(TRIALS))},
        "training": {"epochs": epochs, "batch": 4, "warmup_steps": 4},
        "run": {"at_once": 1},
        "resources": {"workers": workers},
    }
    return expand(load_spec(write_spec(**changes)))


@dataclass(frozen=True)
class Times:
    """Times in seconds."""

    start: float
    """From the command to the start of the first trial."""
    first: float
    """From the start of the first trial to its end."""
    rest: list[float]
    """Between the ends of the other trials."""
    wall: list[float]
    """Duration of each attempt by its own record."""


def through_tune(sweep: SweepRecord, home: Home) -> Times:
    """Run a sweep on Ray, one trial at a time."""
    began, starts, ends, wall = time.monotonic(), list[float](), list[float](), list[float]()

    def listen(event: Event) -> None:
        if isinstance(event, Started):
            starts.append(time.monotonic())
        if isinstance(event, Ended):
            assert event.end.state == "succeeded", event.end.reason
            ends.append(time.monotonic())
            wall.append(event.end.cost.wall_seconds or 0.0)

    with Ledger.open(home.ledger_url) as ledger:
        assert run_sweep(home, ledger, sweep, "local", Listeners([listen])) is None
    rest = [after - before for before, after in pairwise(ends)]
    return Times(starts[0] - began, ends[0] - starts[0], rest, wall)


def in_this_process(sweep: SweepRecord, storage: Storage) -> list[float]:
    """Run a sweep without Ray; return the seconds of each trial but the first."""
    seconds = []
    for trial in sweep.trials:
        start = time.monotonic()
        run_attempt(trial, storage, lambda event: None, run_in_process)
        seconds.append(time.monotonic() - start)
    return seconds[1:]


@pytest.mark.timeout(600)
def test_overhead_of_a_trial(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    table = Table("workers", "command to first step", "trial", "alone", "added", title="seconds")
    alone, home = small_sweep(write_spec, 1), Home(tmp_path / "home")  # one token per process
    one = through_tune(alone, home)
    bare = median(in_this_process(alone, Storage(str(tmp_path / "bare"))))
    two = through_tune(small_sweep(write_spec, 2, epochs=5), home)
    for name, times, own in (("one", one, bare), ("two", two, median(two.wall))):
        numbers = (median(times.rest), own, median(times.rest) - own)
        table.add_row(name, f"{times.start:.1f}", *(f"{number:.2f}" for number in numbers))
    Console().print(table)
    assert median(one.rest) - bare < MOST
