"""What Ray adds to a one-worker trial: the same trainings through Tune and in this process."""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

from gaplab.home import Home
from gaplab.launch.attempt import attempt, run_alone
from gaplab.launch.driver import Audience, run_sweep
from gaplab.ledger import Ledger
from gaplab.records import Ended, Event, SweepRecord
from gaplab.specfile import load_spec
from gaplab.storage import Storage
from gaplab.sweep import expand

MOST = 2.0  # seconds a trial, after the first


def small_sweep(write_spec: Callable[..., Path]) -> SweepRecord:
    training = {"epochs": 4, "batch": 4, "warmup_steps": 4}
    one = {"at_once": 1}
    spec = write_spec(grid={"seed": list(range(6))}, training=training, run=one)
    return expand(load_spec(spec))


def through_tune(sweep: SweepRecord, home: Home) -> list[float]:
    """Seconds from the end of each trial to the end of the next, one at a time."""
    ends: list[float] = []

    def hear(event: Event) -> None:
        if isinstance(event, Ended):
            assert event.end.state == "succeeded", event.end.reason
            ends.append(time.monotonic())

    with Ledger.open(home.ledger_url) as ledger:
        audience = Audience([hear], lambda trials: None)
        assert run_sweep(home, ledger, sweep, "local", audience) is None
    return [after - before for before, after in pairwise(ends)]


def in_this_process(sweep: SweepRecord, storage: Storage) -> list[float]:
    """Seconds of each trial but the first."""
    seconds = []
    for trial in sweep.trials:
        start = time.monotonic()
        attempt(trial, storage, lambda event: None, run_alone)
        seconds.append(time.monotonic() - start)
    return seconds[1:]


def test_overhead_of_a_trial(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    sweep = small_sweep(write_spec)
    tuned = median(through_tune(sweep, Home(tmp_path / "tuned")))
    bare = median(in_this_process(sweep, Storage(str(tmp_path / "bare"))))
    print(  # noqa: T201
        f"\na trial through Tune {tuned:.2f} s, in this process {bare:.2f} s: "
        f"{tuned - bare:.2f} s overhead"
    )
    assert tuned - bare < MOST
