"""Trials that train nothing: the events that they send, and a driver of such trials.

`python noop.py URL SPEC` does to the ledger at URL what `gaplab run` does; without SPEC it does
what `gaplab resume` does. It prints one line with the time when it begins, one when it is ready for
the first trial, and one after each trial.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from detectors.evaluation.metrics import ClassGap
from detectors.evaluation.protocol import PROTOCOLS
from gaplab.launch.heartbeat import Heartbeat
from gaplab.launch.process import node_name, this_process
from gaplab.launch.queue import Queue
from gaplab.launch.recorder import Recorder
from gaplab.launch.sources import check_sources
from gaplab.ledger import Ledger
from gaplab.records import (
    AttemptEnd,
    Cost,
    DriverRecord,
    Ended,
    EpochDone,
    EvaluationRecord,
    Machine,
    Started,
    SweepRecord,
    TrialRecord,
)
from gaplab.spec.files import load_spec
from gaplab.spec.models import Experiment, Policy
from gaplab.spec.protocols import rule_of
from gaplab.spec.sweep import expand
from gaplab.states import TrialState
from gaplab.trial.provenance import Code, assemble, worker_provenance

KINDS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
RECALLS = ("ar", "ar1", "ar10", "ar_small", "ar_medium", "ar_large")
METRICS: dict[str, float | None] = {
    "ap": 30.5,
    "ap_nms": 31.25,
    "gap": -0.75,
    **{f"{n}{kind}": 30.5 for n in (*KINDS[1:], *RECALLS) for kind in ("", "_nms", "_gap")},
}
CLASSES = tuple(ClassGap(f"class {number}", 30.5, 31.25, -0.75) for number in range(3))
RULE = rule_of(PROTOCOLS["default"])
COST = Cost(0.5, 0.0, 0.5, 400.0)
SUCCESS = AttemptEnd(TrialState.SUCCEEDED, "", COST)


def provenance(trial: TrialRecord) -> dict[str, Any]:
    """Return provenance of the same size as that of a real trial."""
    experiment = Experiment.model_validate(trial.config)
    classes = experiment.data.expected().classes
    worker = worker_provenance(experiment, torch.device("cpu"), classes)
    return assemble(Code("0" * 16, "0" * 40, False), worker)


def events(trial: str, about: dict[str, Any]) -> tuple[Started, EpochDone, Ended]:
    """Return the events of a trial of one epoch with one evaluation that succeeds."""
    state = f"file:///home/trials/{trial}/checkpoints/epoch=0001-step=0000004-{trial:0<16}.pt"
    evaluation = EvaluationRecord(trial, 1, "o2o", True, "default", METRICS, CLASSES, rule=RULE)
    return (
        Started(trial, Machine("node", "cpu", 1, 0.0), 0, about),
        EpochDone(trial, 1, 1, {"total": 1.0}, (evaluation,), state, COST),
        Ended(trial, SUCCESS),
    )


def record(queue: Queue, recorder: Recorder, about: dict[str, Any]) -> Iterator[str]:
    """Claim and record trials as the scheduler does until none is due. Yields each when it ends."""
    while (claimed := queue.claim()) is not None:
        trial = claimed.trial.id
        recorder.add(claimed.attempt, trial)
        for event in events(trial, about):
            assert recorder.handle(claimed.attempt, event)
        queue.handle_end(trial, SUCCESS)
        yield trial


def driver(sweep: SweepRecord) -> DriverRecord:
    """Return a driver in this process."""
    process, identity = vars(this_process()), uuid4().hex
    return DriverRecord(identity, sweep.id, node_name(), **process, cluster="noop", priority=0)


def drive(ledger: Ledger, sweep: SweepRecord) -> None:
    """Do what `run_sweep` does, without a cluster."""
    trials, policy, own = ledger.unfinished(sweep), Policy(), driver(sweep)
    check_sources(ledger, trials)
    ledger.add_sweep(sweep)
    with Heartbeat(ledger, own, policy.lease_seconds):
        queue = Queue(ledger, own, policy, trials)
        print_time("ready")
        for trial in record(queue, Recorder(ledger, []), provenance(sweep.trials[0])):
            print_time(trial)


def print_time(what: str) -> None:
    """Print a line that the test reads: the time, and what happened."""
    sys.stdout.write(f"{time.monotonic()} {what}\n")
    sys.stdout.flush()


def main(url: str, spec: str | None = None) -> None:
    print_time("began")
    with Ledger.open(url) as ledger:
        drive(ledger, expand(load_spec(Path(spec))) if spec else ledger.stored_sweep())


if __name__ == "__main__":
    main(*sys.argv[1:])
