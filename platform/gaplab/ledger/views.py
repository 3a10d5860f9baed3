"""The records that the ledger returns: frozen dataclasses without any SQL.

Metrics are percent points unless their name says otherwise; datetimes are aware and in UTC.
"""

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, NamedTuple

from gaplab.records import DriverRecord, EvaluationRecord, Fault, Lease, Process, TrialRecord
from gaplab.states import TrialState


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """A sweep and the number of its trials in each state; every state has an entry."""

    id: str
    name: str
    spec: str
    created_at: datetime
    counts: dict[TrialState, int]

    @property
    def total(self) -> int:
        """Number of trials."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class TrialView(TrialRecord):
    """A trial and its state."""

    state: TrialState
    created_at: datetime

    def record(self) -> TrialRecord:
        """Return the trial as it was added."""
        return TrialRecord(**{each.name: getattr(self, each.name) for each in fields(TrialRecord)})


@dataclass(frozen=True, kw_only=True)
class AttemptView:
    """One execution of a trial. While it runs, costs are those up to its last recorded epoch."""

    id: int
    trial: str
    sweep: str
    number: int
    state: TrialState
    reason: str
    started_at: datetime
    ended_at: datetime | None
    node: str
    device: str
    workers: int
    gpus: float
    cpu_seconds: float | None
    gpu_seconds: float | None
    wall_seconds: float | None
    peak_memory_mib: float | None
    driver: str
    token: str
    fault: Fault
    notes: list[str]
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DriverView(DriverRecord):
    """A process that runs a sweep, or did.

    demand: how many trials it would run now, running ones included; waits_for: what it waits for,
    in words, empty if it does not wait.
    """

    demand: int
    waits_for: str
    started_at: datetime
    lease_until: datetime
    ended_at: datetime | None

    def lease(self) -> Lease:
        """Return the driver's lease."""
        return Lease(
            self.id, self.node, Process(self.machine, self.pid, self.born), self.lease_until
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationView(EvaluationRecord):
    """An evaluation, the id of the attempt that measured it, and when it was stored.

    `rule` is that of its protocol, even if this evaluation was recorded without one.
    """

    attempt: int
    created_at: datetime


class CostKey(NamedTuple):
    """What trials of about the same cost have in common."""

    dataset: str
    assignment: str
    epochs: int


class MeanCost(NamedTuple):
    """Mean cost of a trial in seconds, over `attempts` attempts."""

    wall_seconds: float
    cpu_seconds: float
    gpu_seconds: float
    attempts: int


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """Which evaluations `Ledger.rows` returns: at most one per trial and branch."""

    protocol: str = "default"
    branch: str | None = None
    """None: the branch kept at inference."""
    epoch: Literal["last", "best"] | int = "last"
    """`last`: the last evaluated epoch. `best`: the one with the highest AP without NMS, of equal
    ones the latest."""
    sweep: str | None = None
    """The id of a sweep; None: all trials, each with its most recent sweep."""
    dataset: str | None = None
    assignment: str | None = None
    trials: tuple[str, ...] | None = None
    """The ids of the only trials to return; None: all."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One evaluation with the description of its trial. `sweep` is the id of `sweep_name`."""

    trial: str
    sweep: str
    sweep_name: str
    assignment: str
    family: str
    dataset: str
    seed: int
    state: TrialState
    epoch: int
    epochs: int
    branch: str
    protocol: str
    ap: float
    ap_nms: float
    gap: float
    ap50: float | None
    ap50_nms: float | None
    ap75: float | None
    ap75_nms: float | None
    ar: float | None
    ar_nms: float | None
    ar_gap: float | None
    more: dict[str, float | None] = field(default_factory=dict)
    """All other metrics of the evaluation."""
    candidates: str = ""
    matches: str = ""
    results_version: int
    config: dict[str, Any] = field(repr=False, compare=False)
    """The configuration of the trial, nested as in `TrialRecord.config`."""


METRICS = tuple(each.name for each in fields(ResultRow) if each.type in (float, float | None))
"""The metrics with a column of their own in the ledger and a field in every row."""


class Coverage(NamedTuple):
    """A protocol and branch that was evaluated, at epochs from `first` to `last`."""

    protocol: str
    branch: str
    first: int
    last: int
