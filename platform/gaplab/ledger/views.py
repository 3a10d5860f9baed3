"""The records that the ledger returns: frozen dataclasses without any SQL.

Metrics are percent points unless their name says otherwise; datetimes are aware and in UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, NamedTuple

from gaplab.ledger.expression import Condition
from gaplab.records import (
    DriverRecord,
    EvaluationRecord,
    Fault,
    Lease,
    MeasurementRecord,
    Process,
    TrialRecord,
)
from gaplab.states import TrialState

PlainRow = Sequence[Any]
"""The values of some columns, not converted to a record."""


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """A submitted spec and the states of its trials."""

    id: str
    name: str
    spec: str
    """The spec as YAML, with files, profile and overrides merged."""
    created_at: datetime
    counts: dict[TrialState, int]
    """How many trials are in each state; every state has an entry."""

    @property
    def total(self) -> int:
        """The number of trials."""
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
    """One execution of a trial.

    node, device, workers and gpus are those of `records.Machine`, the costs those of
    `records.Cost`. While an attempt is running, its costs are those up to the last recorded epoch.
    """

    id: int
    """Unique in the ledger; later attempts have larger ids."""
    trial: str
    sweep: str
    """The id of the sweep for which it was claimed."""
    number: int
    """1 for the first attempt at the trial."""
    state: TrialState
    reason: str
    """Why it ended, in one line; empty if it succeeded or is running."""
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
    """The id of the driver that claimed it."""
    token: str
    """The token of its claim."""
    fault: Fault
    notes: list[str]
    """Remarks for the user, one line each."""
    provenance: dict[str, Any]
    """With which code, packages and data it runs, as plain JSON; empty if unknown."""
    config: dict[str, Any]
    """The configuration that it runs with: that of the trial, maybe with other settings."""


@dataclass(frozen=True, kw_only=True)
class DriverView(DriverRecord):
    """A process that runs a sweep, or did."""

    demand: int
    """How many trials it would run now, running ones included."""
    waits_for: str
    """What it waits for, in words; empty if it does not wait."""
    started_at: datetime
    lease_until: datetime
    """When other drivers may consider it lost, unless it renews its lease."""
    ended_at: datetime | None
    """When it ended or was marked as lost; None while it is running."""

    def lease(self) -> Lease:
        """Return the driver's lease."""
        return Lease(
            self.id, self.node, Process(self.machine, self.pid, self.born), self.lease_until
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationView(EvaluationRecord):
    """A stored evaluation. Its `rule` is that of the protocol, even if it was recorded without."""

    attempt: int
    """The id of the attempt that measured it."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class MeasurementView(MeasurementRecord):
    """A stored measurement."""

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


class GpuHours(NamedTuple):
    """The last epoch that a trial reached within so many GPU-hours.

    The GPU-hours of all attempts at the trial are spread evenly over its evaluated epochs.
    """

    hours: float


class Order(NamedTuple):
    """The order of rows: by a metric, a column or a cost. Rows without it come last."""

    key: str
    descending: bool = True


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """Which evaluations `Reader.rows` returns: at most one per trial and branch."""

    protocol: str = "default"
    branch: str | None = None
    """None: the branch kept at inference."""
    epoch: Literal["last", "best"] | int | GpuHours = "last"
    """`last`: the last evaluated epoch. `best`: the one with the highest AP without NMS, of equal
    ones the latest."""
    sweep: str | None = None
    """The id of a sweep; None: all trials, each with its most recent sweep."""
    dataset: str | None = None
    assignment: str | None = None
    trials: tuple[str, ...] | None = None
    """The ids of the only trials to return; None: all."""
    truth: str = ""
    """Digest of the ground truth; empty: that of the trials' own data, and any for measurements."""
    where: tuple[Condition, ...] = ()
    """Conditions that all hold."""
    order: Order | None = None
    """None: no particular order. Equal rows are sorted by AP without NMS, then by trial."""
    top: int | None = None
    """How many rows to return at most; None: all."""
    pareto: tuple[str, str] | None = None
    """Two names as in an order: only rows that no other row beats in both."""

    @property
    def any_trial(self) -> bool:
        """Whether trials of all sweeps are wanted, and with them measurements."""
        return self.sweep is None and self.trials is None


@dataclass(frozen=True)
class GroupView:
    """Evaluations with equal values of some keys, data set, schedule and results version.

    Attributes:
        keys: values by key; None where trials have no such key.
        trials: number of evaluations.
        seeds: number of distinct seeds among them.
        unfinished: number of trials among them that have not succeeded.
        stats: mean and sample standard deviation by metric, the latter None for one trial.
    """

    keys: dict[str, Any]
    trials: int
    seeds: int
    unfinished: int
    stats: dict[str, tuple[float, float | None]]


@dataclass(frozen=True)
class EpochLossesView:
    """Mean losses of one epoch of a trial, and scores and ranks of its positive points, by name."""

    trial: str
    epoch: int
    losses: dict[str, float]
    created_at: datetime
    positives: dict[str, float] = field(default_factory=dict)
    """Empty if the epoch had no positive points, or was trained before gaplab stored them."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One evaluation with the description of its trial. `sweep` is the id of `sweep_name`.

    A measurement of detections that gaplab did not produce is a row, too: `trial` is its id,
    `assignment` its name, `sweep` is empty, and `epochs` is 0.
    """

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
    truth: str = ""
    instructions: str = ""
    """Vector instructions of the processor that measured it, such as AVX2; empty on a GPU, and
    where they are not known."""
    results_version: int
    config: dict[str, Any] = field(repr=False, compare=False)
    """The configuration with which the evaluation was measured, nested as in `TrialRecord`."""


METRICS = tuple(each.name for each in fields(ResultRow) if each.type in (float, float | None))
"""The metrics with a column of their own in the ledger and a field in every row."""

PLAIN_EVALUATION = (
    *("trial_id", "epoch", "branch", "protocol", "truth", "is_primary", "attempt_id"),
    *("candidates", "matches", "created_at", *METRICS, "more"),
)
"""The values of a plain row of an evaluation. `more` holds the other metrics, as JSON text.
`candidates` and `matches` are None where there are none. `created_at` is text, see `UtcText`."""


class Coverage(NamedTuple):
    """A protocol and branch that was evaluated, at epochs from `first` to `last`."""

    protocol: str
    branch: str
    first: int
    last: int
