"""Records and measurements that tests of several folders build, with every field replaceable."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from detectors.evaluation.gap import Gap, gap_between
from detectors.evaluation.metrics import ClassGap
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import columns
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from gaplab.ledger import Ledger
from gaplab.ledger.models import Checkpoint
from gaplab.ledger.views import METRICS, AttemptView, EvaluationView, TrialView
from gaplab.records import (
    AttemptEnd,
    Cost,
    DriverRecord,
    EpochDone,
    EvaluationRecord,
    Fault,
    Machine,
    SweepRecord,
    TrialRecord,
)
from gaplab.results.leaderboard import LeaderboardRow
from gaplab.spec.resolve import ResolvedSpec
from gaplab.spec.sweep import row_records
from gaplab.states import TrialState

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
    )
    return replace(view, **changes)


def evaluation_view(trial: str = "t1", epoch: int = 1, **changes: Any) -> EvaluationView:
    """Build what the ledger returns for `evaluation_record(trial, epoch)`, apart from `changes`."""
    view = EvaluationView(**vars(evaluation_record(trial, epoch)), attempt=1, created_at=NOW)
    return replace(view, **changes)


def checkpoints(ledger: Ledger, trial: str) -> dict[int, str]:
    """Read the epochs and URIs of a trial's checkpoints."""
    query = select(Checkpoint.epoch, Checkpoint.uri).where(Checkpoint.trial_id == trial)
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


def measure_gap(candidates: Candidates, truth: GroundTruth, protocol: Protocol) -> Gap:
    """Measure the candidates of all images, without suppression and with it."""
    return gap_between(columns(candidates, protocol), truth, protocol)


def row_ids(resolved: ResolvedSpec) -> dict[str, tuple[str, ...]]:
    """Return the ids of the trials of each row."""
    return {row: tuple(trial.id for trial in held) for row, held in row_records(resolved).items()}
