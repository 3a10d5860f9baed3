"""The records that travel from a trial to the ledger, and from the ledger to tables.

Metrics are percent points here and wherever a person or a script sees them, unless their name says
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
"""What a failure comes from: the trial itself (its data, its options, a loss that is not finite),
a process that died, too little memory, a step without end, a file that can't be written, or an
error nobody expected."""


@dataclass(frozen=True)
class TrialRecord:
    """One fully resolved experiment. `config` is plain JSON and rebuilds the experiment."""

    id: str
    config: dict[str, Any]
    assignment: str
    family: str
    dataset: str
    seed: int
    epochs: int
    results_version: int


@dataclass(frozen=True)
class SweepRecord:
    """A submitted spec: its text as resolved (profile and overrides applied) and its trials."""

    id: str
    name: str
    spec: str
    trials: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class Subject:
    """Whose candidates are measured: the key of an evaluation without its protocol."""

    trial: str
    epoch: int
    branch: str
    primary: bool
    """True for the branch kept at inference."""


@dataclass(frozen=True)
class EvaluationRecord:
    """Metrics of one trial at one epoch, one branch and one protocol; key of idempotent writes."""

    trial: str
    epoch: int
    branch: str
    primary: bool
    """True for the branch kept at inference."""
    protocol: str
    metrics: Mapping[str, float | None]
    """By name; ap, ap_nms and gap are always there. None where nothing of that kind exists."""
    classes: tuple[ClassGap, ...]
    candidates: str = ""
    """URI of the folder of raw candidates that this was measured on; empty if they aren't kept."""
    matches: str = ""
    """URI of what matching decided about each detection; empty if it isn't kept."""
    rule: dict[str, Any] = field(default_factory=dict)
    """What the protocol's name stands for: its values as plain JSON. Empty: unknown."""


@dataclass(frozen=True)
class Machine:
    """Where an attempt runs."""

    node: str
    device: str
    workers: int
    gpus: float


NOWHERE = Machine("", "", 0, 0.0)
"""The machine of an attempt that is claimed but has not started yet."""


@dataclass(frozen=True)
class Process:
    """One process for all time: a later one of the same number was born at another moment.

    machine: where process numbers mean the same (one boot of one kernel, one container, one user).
    """

    machine: str
    pid: int
    born: int


@dataclass(frozen=True)
class Lease:
    """A driver's word that it lives: who, where, and until when it is believed."""

    driver: str
    node: str
    process: Process
    until: datetime


@dataclass(frozen=True)
class DriverRecord:
    """A process that runs a sweep. machine, pid, born: see `Process`; cluster: the
    cluster it runs on, the same text for all drivers that share one.
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
    """A driver's wish to run a trial for a sweep. The same token is the same claim, said again."""

    trial: str
    sweep: str
    driver: str = ""
    """Its id; empty for somebody without a lease, whose claim lasts until a driver looks."""
    machine: Machine = NOWHERE
    after: int | None = None
    """The last attempt at the trial that the driver knows, 0 for none: the claim is refused where
    there is a later one, about which it has to think first. None: it is not asked."""
    token: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True)
class Cost:
    """What an attempt has used so far, over all its workers (memory: of the largest one)."""

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_mib: float = 0.0


@dataclass(frozen=True)
class AttemptEnd:
    """Why and how an attempt ended; `reason` is one line, empty on success.

    fault: what a failed attempt failed of; empty for all others, and where it is unknown.
    Raises ValueError for a state in which no attempt ends.
    """

    state: TrialState
    reason: str
    cost: Cost
    fault: Fault = ""

    def __post_init__(self) -> None:
        if not self.state.ended:
            raise ValueError(f"an attempt can't end as {self.state}")


@dataclass(frozen=True)
class Started:
    """An attempt began; `epoch` epochs were already done by an earlier one.

    provenance: with which code, packages and data, as plain JSON; empty where it is unknown.
    """

    trial: str
    machine: Machine
    epoch: int
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a person should know, one line each: a damaged checkpoint, for example."""
    kind: Literal["started"] = "started"


@dataclass(frozen=True)
class EpochDone:
    """`epoch` of `epochs` epochs are done. `losses` is empty where evaluations are only repeated.

    evaluations: new ones, or after a resume all that the checkpoint remembers.
    """

    trial: str
    epoch: int
    epochs: int
    losses: dict[str, float]
    evaluations: tuple[EvaluationRecord, ...]
    checkpoint: str
    cost: Cost
    kind: Literal["epoch"] = "epoch"


@dataclass(frozen=True)
class Ended:
    """An attempt ended."""

    trial: str
    end: AttemptEnd
    kind: Literal["ended"] = "ended"


Event = Started | EpochDone | Ended
"""What a running trial says; the driver alone writes it down."""
