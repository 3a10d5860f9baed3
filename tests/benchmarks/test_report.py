"""The time and the size of the report of a sweep of 60 trials, which are trained in this process.

Times are CPU seconds, so that they do not depend on other load of the machine.
"""

import time
from pathlib import Path

import pytest
import torch

from detectors.world import LocalWorld
from gaplab.launch.recorder import Recorder
from gaplab.ledger import Ledger
from gaplab.records import AttemptEnd, Claim, Cost, Ended, Event, SweepRecord, TrialRecord
from gaplab.results.report.evidence import gather
from gaplab.results.report.write import page
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home
from gaplab.trial.run import TrialContext, run_trial
from tests.builders import MACHINE, make_spec

SPEC = {
    "data": {"name": "shapes", "size": 96, "train_images": 8, "val_images": 64},
    "detector": {"name": "fcos", "channels": 16, "tower_convs": 1},
    "training": {"epochs": 2, "batch": 8, "warmup_steps": 1},
}
GRID = {
    "assignment.name": ["poto"],
    "assignment.alpha": [0.2, 0.4, 0.6, 0.8, 1.0],
    "assignment.prior": ["center", "box", "global"],
    "seed": [0, 1, 2, 3],
}


def train(sweep: SweepRecord, home: Home, ledger: Ledger) -> None:
    """Train the trials of a sweep one after the other, without Ray."""
    context = TrialContext(LocalWorld(), torch.device("cpu"), Storage(str(home.path)), MACHINE)
    recorder = Recorder(ledger, [])
    for trial in sweep.trials:
        attempt = ledger.start_attempt(Claim(trial.id, sweep.id, machine=MACHINE))
        recorder.add(attempt, trial.id)
        run_one(trial, attempt, context, recorder)


def run_one(trial: TrialRecord, attempt: int, context: TrialContext, recorder: Recorder) -> None:
    def record(event: Event) -> None:
        recorder.handle(attempt, event)

    run_trial(trial, context, record)
    recorder.handle(attempt, Ended(trial.id, AttemptEnd(TrialState.SUCCEEDED, "", Cost())))


@pytest.mark.timeout(1800)
def test_the_report_of_sixty_trials(tmp_path: Path) -> None:
    home, sweep = Home(tmp_path).create(), expand(resolve(make_spec(SPEC, grid=GRID)))
    with Ledger.open(home.ledger_url) as ledger:
        ledger.add_sweep(sweep)
        train(sweep, home, ledger)
        start = time.process_time()
        content = page(gather(ledger, home, [sweep.id], None))
        seconds, size = time.process_time() - start, len(content.encode()) / 2**20
    print(f"\nreport of {len(sweep.trials)} trials: {seconds:.1f} CPU s, {size:.1f} MiB")  # noqa: T201
    assert len(sweep.trials) == 60
    assert seconds < 20
    assert size < 10
