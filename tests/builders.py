"""Records and measurements that tests of several folders build, with every field replaceable."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch
from sqlalchemy import select

from detectors.evaluation.metrics import ClassGap
from detectors.evaluation.truth import GroundTruth
from gaplab.ledger import Ledger
from gaplab.ledger.models import Checkpoint
from gaplab.ledger.views import METRICS, AttemptView, EvaluationView, TrialView
from gaplab.records import (
    AttemptEnd,
    Claim,
    Cost,
    DriverRecord,
    EpochDone,
    EvaluationRecord,
    Fault,
    Machine,
    MeasurementRecord,
    SweepRecord,
    TrialRecord,
)
from gaplab.results.comparison.leaderboard import LeaderboardRow
from gaplab.spec.models import Spec
from gaplab.spec.resolve import ResolvedSpec
from gaplab.spec.sweep import row_records
from gaplab.states import TrialState
from gaplab.storage.home import Home

MACHINE = Machine("node-1", "cpu", 2, 0.0)
"""Where attempts of tests run."""
METRIC_VALUES = {name: float(position) for position, name in enumerate(METRICS)}
"""Another value for each metric that has a column in the ledger."""
CROWD_VALUES = {
    "ap": 1.0,
    "ap_nms": 2.5,
    "gap": -1.5,
    "mmr": 61.25,
    "mmr_nms": 60.0,
    "mmr_gap": 1.25,
}
"""Metrics of an evaluator that has only the three required ones in common with COCO's."""
SECTIONS: dict[str, Any] = {
    "data": {"name": "shapes"},
    "detector": {"name": "fcos"},
    "assignment": {"name": "poto"},
}
"""The sections that every experiment needs."""
RULE = {"nms_iou": 0.6, "order": "nms_then_cut", "level_range": None, "class_wise": True}
"""The values of a protocol."""
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def trial_record(identity: str = "t1", **changes: Any) -> TrialRecord:
    """Build a trial of three epochs with POTO on `shapes`, apart from `changes`."""
    record = TrialRecord(
        id=identity,
        config={"seed": changes.get("seed", 0)},
        assignment="poto",
        family="o2o",
        dataset="shapes",
        seed=0,
        epochs=3,
        results_version=1,
    )
    return replace(record, **changes)


def sweep_record(identity: str, *trials: TrialRecord, **changes: Any) -> SweepRecord:
    """Build a sweep of `trials`; its name is its id unless `changes` has another."""
    return replace(SweepRecord(identity, identity, f"name: {identity}\n", trials), **changes)


def driver_record(identity: str = "d1", sweep: str = "s1", **changes: Any) -> DriverRecord:
    """Build a driver in process 7 of a machine that no test runs on, apart from `changes`."""
    record = DriverRecord(
        id=identity,
        sweep=sweep,
        node="node-1",
        machine="boot",
        pid=7,
        born=2**40,
        cluster="local",
        priority=0,
    )
    return replace(record, **changes)


def evaluation_record(trial: str = "t1", epoch: int = 1, **changes: Any) -> EvaluationRecord:
    """Build an evaluation of the primary branch o2o under `default`, apart from `changes`."""
    record = EvaluationRecord(
        trial=trial,
        epoch=epoch,
        branch="o2o",
        primary=True,
        protocol="default",
        metrics=dict(METRIC_VALUES),
        classes=(ClassGap("circle", 1.5, 2.0, -0.5), ClassGap("square", None, None, None)),
    )
    return replace(record, **changes)


def measurement_record(identity: str = "m1", **changes: Any) -> MeasurementRecord:
    """Build a measurement of foreign detections under `default`, apart from `changes`."""
    record = MeasurementRecord(
        id=identity,
        protocol="default",
        name=identity,
        family="",
        dataset="coco",
        truth="0123456789ab",
        metrics=dict(METRIC_VALUES),
        classes=(),
        results_version=2,
    )
    return replace(record, **changes)


def epoch_done(trial: str, epoch: int, *evaluations: EvaluationRecord, **changes: Any) -> EpochDone:
    """Build the event that `epoch` of three epochs is done, with a checkpoint."""
    record = EpochDone(trial, epoch, 3, {}, evaluations, f"file:///{epoch}", Cost())
    return replace(record, **changes)


def attempt_end(state: TrialState, reason: str = "", **changes: Any) -> AttemptEnd:
    """Build the end of an attempt; one that failed has the fault `error`."""
    fault: Fault = "error" if state is TrialState.FAILED else ""
    return replace(AttemptEnd(state, reason, Cost(20.0, 5.0, 10.0, 512.0), fault), **changes)


def trial_view(identity: str = "t1", **changes: Any) -> TrialView:
    """Build what the ledger returns for a trial that has succeeded, apart from `changes`."""
    view = TrialView(**vars(trial_record(identity)), state=TrialState.SUCCEEDED, created_at=NOW)
    return replace(view, **changes)


def attempt_view(trial: str = "t1", **changes: Any) -> AttemptView:
    """Build what the ledger returns for a first attempt that succeeded, apart from `changes`."""
    view = AttemptView(
        id=1,
        trial=trial,
        sweep="s1",
        number=1,
        state=TrialState.SUCCEEDED,
        reason="",
        started_at=NOW,
        ended_at=NOW,
        **vars(MACHINE),
        **vars(Cost(20.0, 5.0, 10.0, 512.0)),
        driver="d1",
        token="token",
        fault="",
        notes=[],
        provenance={},
        config={},
    )
    return replace(view, **changes)


def evaluation_view(trial: str = "t1", epoch: int = 1, **changes: Any) -> EvaluationView:
    """Build what the ledger returns for `evaluation_record(trial, epoch)`, apart from `changes`."""
    view = EvaluationView(**vars(evaluation_record(trial, epoch)), attempt=1, created_at=NOW)
    return replace(view, **changes)


def checkpoints(ledger: Ledger, trial: str) -> dict[int, str]:
    """Read the epochs and URIs of a trial's checkpoints."""
    query = select(Checkpoint.epoch, Checkpoint.uri).where(Checkpoint.trial_id == trial)
    query = query.order_by(Checkpoint.epoch)
    with ledger._engine.connect() as connection:
        return {row.epoch: row.uri for row in connection.execute(query)}


def leaderboard_row(trial: str = "t1", **changes: Any) -> LeaderboardRow:
    """Build the row of a trial that has succeeded, apart from `changes`.

    Unless `changes` has another, the gap is AP without NMS minus AP with NMS.
    """
    metrics: dict[str, Any] = {**dict.fromkeys(METRICS, 0.0), "ap": 30.0, "ap_nms": 31.0}
    values = metrics | changes
    row = LeaderboardRow(
        trial=trial,
        sweep="s1",
        sweep_name="s1",
        assignment="poto",
        family="o2o",
        dataset="shapes",
        seed=0,
        state=TrialState.SUCCEEDED,
        epoch=3,
        epochs=3,
        branch="o2o",
        protocol="default",
        **metrics,
        results_version=1,
        config={"seed": changes.get("seed", 0)},
        stale=False,
        chosen="last",
    )
    return replace(row, **{"gap": values["ap"] - values["ap_nms"], **changes})


def row_ids(resolved: ResolvedSpec) -> dict[str, tuple[str, ...]]:
    """Return the ids of the trials of each row."""
    return {row: tuple(trial.id for trial in held) for row, held in row_records(resolved).items()}


def make_spec(base: dict[str, Any] | None = None, **keys: Any) -> Spec:
    """Build a spec named `test` with `SECTIONS`, or another base, and the given keys."""
    return Spec.model_validate({"name": "test", "base": base or SECTIONS} | keys)


def empty_truth(
    image_ids: Sequence[int], classes: Sequence[str], size: tuple[int, int] = (64, 64)
) -> GroundTruth:
    """Build a data set of images of one size without objects."""
    none, flat = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    sizes, boxes = (size,) * len(image_ids), torch.zeros(0, 4)
    return GroundTruth(tuple(image_ids), sizes, tuple(classes), none, boxes, none, none > 0, flat)


class LedgerBench:
    """A home with a ledger, and methods that write to it what a driver of a sweep would."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ledger = Ledger.open(home.ledger_url)
        self.attempts: dict[str, int] = {}

    @staticmethod
    def trial(number: int, **config: Any) -> TrialRecord:
        """Build a trial whose configuration has everything that a mirror reads."""
        protocol = {"evaluation": {"protocol": {"preset": "default"}, "every": 1}}
        options = {"assignment": {"name": "dual", "alpha": 0.5}, "seed": number}
        return trial_record(
            f"{number:012x}",
            config=protocol | options | config,
            assignment="dual",
            family="hybrid",
            seed=number,
        )

    def add(self, sweep: str, *trials: TrialRecord, name: str = "paper") -> str:
        """Add a sweep. Returns its id."""
        self.ledger.add_sweep(sweep_record(sweep, *trials, name=name, spec=f"name: {name}\n"))
        return sweep

    def start(self, trial: TrialRecord, sweep: str) -> None:
        """Start an attempt at the trial."""
        claim = Claim(trial.id, sweep, machine=MACHINE)
        self.attempts[trial.id] = self.ledger.start_attempt(claim)

    def epoch(
        self, trial: TrialRecord, epoch: int, protocol: str = "default", **more: float | None
    ) -> None:
        """Record an epoch of both branches, with another value for each metric not in `more`."""
        for primary, branch in ((True, "o2o"), (False, "o2m")):
            first = trial.seed + epoch / 10 + (0 if primary else 50) + len(protocol) / 1000
            record = evaluation_record(
                trial.id,
                epoch,
                branch=branch,
                primary=primary,
                protocol=protocol,
                metrics={name: first + i / 3e5 for i, name in enumerate(METRICS)} | more,
                classes=(
                    ClassGap("circle", first, first + 1, -1.0),
                    ClassGap("star", None, None, None),
                ),
            )
            self.ledger.record(record, self.attempts[trial.id])

    def end(self, trial: TrialRecord, state: TrialState, reason: str = "") -> None:
        """End the trial's attempt."""
        end = AttemptEnd(state, reason, Cost())
        self.ledger.end_attempt(self.attempts[trial.id], end)

    def run(self, trial: TrialRecord, sweep: str, epochs: int, end: TrialState) -> None:
        """Record a whole attempt."""
        self.start(trial, sweep)
        for epoch in range(1, epochs + 1):
            self.epoch(trial, epoch)
        self.end(trial, end, "" if end is TrialState.SUCCEEDED else "the reason")

    def small(self, sweep: str = "paper-00000001") -> tuple[str, TrialRecord, TrialRecord]:
        """Add a sweep of two trials: one succeeded after three epochs, one failed in its second."""
        good, bad = self.trial(1), self.trial(2)
        self.add(sweep, good, bad)
        self.run(good, sweep, 3, TrialState.SUCCEEDED)
        self.start(bad, sweep)
        self.epoch(bad, 1)
        self.end(bad, TrialState.FAILED, "loss is not finite at step 7")
        return sweep, good, bad

    def asha(self, sweep: str = "asha-00000001") -> str:
        """Add a finished ASHA sweep of nine trials: three succeeded, six were stopped at rungs."""
        trials = [self.trial(10 + number) for number in range(9)]
        self.add(sweep, *trials, name="asha")
        for number, trial in enumerate(trials):
            if number < 3:
                self.run(trial, sweep, 3, TrialState.SUCCEEDED)
            else:
                self.run(trial, sweep, 1 + number % 2, TrialState.STOPPED)
        return sweep
