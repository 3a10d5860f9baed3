"""Records and measurements that tests of several folders build, with every field replaceable."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from detectors.evaluation.gap import Gap, gap_between
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import columns
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from gaplab.ledger.views import METRICS, AttemptView, EvaluationView, TrialView
from gaplab.records import (
    AttemptEnd,
    Cost,
    DriverRecord,
    EvaluationRecord,
    Machine,
    SweepRecord,
    TrialRecord,
)
from gaplab.results.leaderboard import LeaderboardRow
from gaplab.spec.resolve import ResolvedSpec
from gaplab.spec.sweep import row_records
from gaplab.states import TrialState

MACHINE = Machine("node-1", "cpu", 1, 0.0)
"""Where attempts of tests run."""
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
    """Build an evaluation of the primary branch o2o under `default`, apart from `changes`.

    Each metric that has a column has another value.
    """
    record = EvaluationRecord(
        trial=trial,
        epoch=epoch,
        branch="o2o",
        primary=True,
        protocol="default",
        metrics={name: float(position) for position, name in enumerate(METRICS)},
        classes=(),
    )
    return replace(record, **changes)


def attempt_end(state: TrialState, reason: str = "", **changes: Any) -> AttemptEnd:
    """Build the end of an attempt; one that failed has the fault `error`."""
    fault = "error" if state is TrialState.FAILED else ""
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
