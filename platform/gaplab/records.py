"""Records that are passed between rooms: from a trial to the ledger, and from the ledger to tables.

Metrics are in percentage points, here and wherever the user sees them, unless their name says
otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

from detectors.evaluation.metrics import ClassGap
from gaplab.states import TrialState

Fault = Literal["", "input", "lost", "memory", "hang", "storage", "error"]
"""Kind of a failure: empty (unknown), the trial's own input (its data, its options, a loss that is
not finite), a process that died, too little memory, a step that never ends, a file that can't be
written, or any other error."""


@dataclass(frozen=True)
class TrialRecord:
    """One fully resolved experiment."""

    id: str
    config: dict[str, Any]
    """The experiment as plain JSON; `spec.sweep.experiment_of` rebuilds it."""
    assignment: str
    """Name of the label assignment."""
    family: str
    """Family of the assignment, such as `o2o` or `dual`."""
    dataset: str
    """Label of the data set."""
    seed: int
    epochs: int
    results_version: int
    """`detectors.RESULTS_VERSION` when the id was computed."""

    @property
    def protocol(self) -> str:
        """The key of the trial's own protocol: the one it is evaluated under while it trains."""
        return str(self.config["evaluation"]["protocol"]["preset"])


@dataclass(frozen=True)
class SweepRecord:
    """A submitted spec and its trials."""

    id: str
    name: str
    spec: str
    """The spec as YAML, with files, profile and overrides merged."""
    trials: tuple[TrialRecord, ...]
    from_ledger: bool = field(default=False, compare=False)
    """Whether it was read from the ledger. Adding it again changes no settings then."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated: the key of an evaluation without its protocol."""

    trial: str
    epoch: int
    branch: str
    primary: bool
    """Whether this is the branch kept at inference."""


@dataclass(frozen=True)
class EvaluationRecord:
    """Metrics of one trial at one epoch, on one branch, under one protocol, against one truth.

    These five are the key: writing the same evaluation again changes nothing.
    """

    trial: str
    epoch: int
    branch: str
    primary: bool
    """Whether this is the branch kept at inference."""
    protocol: str
    metrics: Mapping[str, float | None]
    """Values by name. ap, ap_nms and gap are always present. None if there is nothing to measure,
    such as small objects in a data set without any."""
    classes: tuple[ClassGap, ...]
    candidates: str = ""
    """Folder with the raw candidates: its path relative to the home folder, or a URI of another
    storage (see `Storage.locate`); empty if they aren't stored."""
    matches: str = ""
    """File that says which detection matched which object, like `candidates`; empty if it isn't
    stored."""
    rule: dict[str, Any] = field(default_factory=dict)
    """Values of the protocol as plain JSON; empty if unknown."""
    truth: str = ""
    """Digest of the ground truth; empty for that of the trial's own data. See
    `results.truth`."""


@dataclass(frozen=True, kw_only=True)
class MeasurementRecord:
    """Metrics of detections that gaplab did not produce, under one protocol.

    `id` and `protocol` are the key. Writing it again replaces name, family, source and metrics.
    """

    id: str
    """Digest of detections and annotations: 12 hex digits."""
    protocol: str
    """Key of the protocol."""
    name: str
    """Name that a person gave the detections."""
    family: str
    """How their labels were assigned, such as `o2o`, if a person said so; may be empty."""
    dataset: str
    """Label of the data set."""
    truth: str
    """Digest of the annotations: 12 hex digits, as in `EvaluationRecord`."""
    metrics: Mapping[str, float | None]
    """See `EvaluationRecord`."""
    classes: tuple[ClassGap, ...]
    matches: str = ""
    """See `EvaluationRecord`."""
    rule: dict[str, Any] = field(default_factory=dict)
    """See `EvaluationRecord`."""
    source: dict[str, Any] = field(default_factory=dict)
    """Where detections and annotations are and how they are read, as plain JSON."""
    about: dict[str, Any] = field(default_factory=dict)
    """What was recognised in the detections and everything else that was measured, as plain JSON.
    """
    results_version: int
    """`detectors.RESULTS_VERSION` when they were measured."""


@dataclass(frozen=True)
class Machine:
    """The machine that an attempt runs on."""

    node: str
    """Host name."""
    device: str
    """Model of the GPU, or `cpu`."""
    workers: int
    """Number of processes that train the trial together."""
    gpus: float
    """Number of GPUs of all workers together."""


NOWHERE = Machine("", "", 0, 0.0)
"""The machine of an attempt that is claimed but has not started."""


@dataclass(frozen=True)
class Process:
    """Identity of a process. A later process with the same number has another start time.

    Attributes:
        machine: scope in which process numbers are unique: one boot of one kernel, one container,
            one user.
        pid: number of the process.
        born: when it started, in clock ticks since the boot.
    """

    machine: str
    pid: int
    born: int


@dataclass(frozen=True)
class Lease:
    """A driver's claim to be running. Without a new heartbeat it ends at `until`."""

    driver: str
    node: str
    process: Process
    until: datetime


@dataclass(frozen=True)
class DriverRecord:
    """A process that runs a sweep.

    Attributes:
        id: id of the driver.
        sweep: id of the sweep.
        node: host name.
        machine: see `Process`, like `pid` and `born`.
        cluster: the cluster it uses; the same text for all drivers that share one.
        priority: `run.priority` of the sweep.
    """

    id: str
    sweep: str
    node: str
    machine: str
    pid: int
    born: int
    cluster: str
    priority: int


@dataclass(frozen=True)
class CancelRequest:
    """Which trials of a sweep its driver is asked to cancel: all of them, or those in `trials`."""

    all_trials: bool = False
    trials: frozenset[str] = frozenset()

    def covers(self, trial: str) -> bool:
        """Return whether the trial of this id is to be cancelled."""
        return self.all_trials or trial in self.trials


@dataclass(frozen=True)
class Claim:
    """A request to run a trial for a sweep. A second claim with the same token is a repetition."""

    trial: str
    sweep: str
    driver: str = ""
    """Id of the driver. Empty for a claim without a lease, which the next driver marks as lost."""
    machine: Machine = NOWHERE
    after: int | None = None
    """Id of the latest attempt that the driver knows, 0 for none. If there is a later one, the
    claim is rejected, so that the driver can decide again. None: don't check."""
    token: str = field(default_factory=lambda: uuid4().hex)
    config: dict[str, Any] | None = None
    """The configuration that the trial will run with; None: that of the trial in the ledger."""
    at_once: int | None = None
    """Largest number of running attempts of the sweep, of all its drivers together and this one
    included; beyond it the claim is rejected. None: no limit."""


@dataclass(frozen=True)
class Cost:
    """What all workers of an attempt have used so far. Memory is that of the largest worker."""

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_mib: float = 0.0


@dataclass(frozen=True)
class AttemptEnd:
    """How and why an attempt ended.

    Raises:
        ValueError: for a state in which no attempt ends.
    """

    state: TrialState
    reason: str
    """One line; empty on success."""
    cost: Cost
    fault: Fault = ""
    """Kind of failure of a failed attempt; empty otherwise, or if it is unknown."""

    def __post_init__(self) -> None:
        if not self.state.ended:
            raise ValueError(f"an attempt can't end as {self.state}")


@dataclass(frozen=True)
class Started:
    """An attempt has started."""

    trial: str
    machine: Machine
    epoch: int
    """Number of epochs that earlier attempts have done."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Code, packages and data of the attempt as plain JSON; empty if unknown."""
    notes: tuple[str, ...] = ()
    """What the user should know, one line each, such as a damaged checkpoint."""
    kind: Literal["started"] = "started"


@dataclass(frozen=True)
class EpochDone:
    """An epoch is done."""

    trial: str
    epoch: int
    """Number of epochs done."""
    epochs: int
    """Number of epochs of the trial."""
    losses: dict[str, float]
    """Mean losses of the epoch by name; empty if what earlier epochs measured is only repeated."""
    evaluations: tuple[EvaluationRecord, ...]
    """New evaluations; after a resume, all evaluations that the checkpoint has."""
    checkpoint: str
    """File of the checkpoint: its path relative to the home folder."""
    cost: Cost
    positives: dict[str, float] = field(default_factory=dict)
    """Scores and ranks of the epoch's positive points by name, see `Learner.scores`; empty if the
    epoch had none, and like `losses`."""
    earlier: dict[int, dict[str, float]] = field(default_factory=dict)
    """After a resume, the mean losses of all epochs that the checkpoint has, by epoch."""
    earlier_positives: dict[int, dict[str, float]] = field(default_factory=dict)
    """`positives` of the same epochs."""
    kind: Literal["epoch"] = "epoch"

    @property
    def all_losses(self) -> dict[int, dict[str, float]]:
        """The mean losses of this epoch and those of `earlier`, by epoch."""
        return self.earlier | ({self.epoch: self.losses} if self.losses else {})

    @property
    def all_positives(self) -> dict[int, dict[str, float]]:
        """`positives` of this epoch and those of `earlier_positives`, by epoch."""
        return self.earlier_positives | ({self.epoch: self.positives} if self.losses else {})


@dataclass(frozen=True)
class Ended:
    """An attempt has ended."""

    trial: str
    end: AttemptEnd
    kind: Literal["ended"] = "ended"


@dataclass(frozen=True)
class StepDone:
    """A training step is done. It is only shown while a sweep runs, and never stored.

    Attributes:
        trial: id of the trial.
        epoch: the epoch that the step belongs to, from 1.
        step: number of steps done in this epoch.
        steps: number of steps of an epoch.
        loss: mean over these steps of the sum of all parts of the loss.
    """

    trial: str
    epoch: int
    step: int
    steps: int
    loss: float


Event = Started | EpochDone | Ended
"""What a running trial reports. Only the driver writes it to the ledger."""
