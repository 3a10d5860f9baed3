"""Models of a spec. Open this file first: `Experiment` is one trial, `Spec` the sweep around it.

`files.load_spec` reads a YAML file into a `Spec` and resolves it; `sweep.expand` turns the result
into trials. The options of a data set, a detector or an assignment are the fields of its own class,
found through the tables `DATASETS`, `DETECTORS` and `ASSIGNERS`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Branch, Strategy
from detectors.data import DATASETS
from detectors.data.base import DataOptions
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.models import DETECTORS
from detectors.models.base import DetectorOptions
from detectors.options import NOT_IDENTITY, OneOf, Options, UnfitError
from detectors.training import Training
from gaplab.spec.fit import unfit
from gaplab.spec.protocols import read_preset_or_mapping, read_protocol, with_key
from gaplab.spec.raw import MAX_REPEAT, with_seeds
from gaplab.spec.search import SearchOptions, StopOptions

MAX_BACKOFF = 300.0
"""Longest wait before a retry, in seconds."""
SMALLEST_PART = 0.0001
"""The smallest part of a GPU that Ray reserves."""


class EvaluationOptions(Options):
    """When a trial is evaluated, and under which protocol."""

    every: int = Field(1, ge=1, json_schema_extra=NOT_IDENTITY)
    """Number of epochs between evaluations. The last epoch is always evaluated."""
    candidates: Literal["last", "every", "none"] = Field("last", json_schema_extra=NOT_IDENTITY)
    """Store the raw candidates of the last evaluation, of every evaluation, or of none. `gaplab
    reevaluate`, `gaplab explain` and confidence intervals need them."""
    protocol: Annotated[Protocol, BeforeValidator(read_protocol), AfterValidator(with_key)] = (
        PROTOCOLS["default"]
    )
    """Name of a preset, or a mapping of the values that differ from the preset that it names in
    `preset`."""

    @property
    def masks(self) -> bool:
        """Whether it measures masks."""
        return self.protocol.masks


def _check_gpus(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        raise ValueError(
            f"must be at most 1 or a whole number (a fraction is of one GPU), got {gpus:g}"
        )
    if 0 < gpus < SMALLEST_PART:
        raise ValueError(f"must be 0 or at least {SMALLEST_PART}, got {gpus:g}")
    return gpus


class Resources(Options):
    """What a trial runs on. Never part of its id."""

    workers: int = Field(1, ge=1, json_schema_extra=NOT_IDENTITY)
    """Number of processes that train one trial together. Every batch is split among them."""
    cpus_per_worker: int = Field(1, ge=1, json_schema_extra=NOT_IDENTITY)
    """CPU cores reserved for each worker."""
    gpus_per_worker: Annotated[float, AfterValidator(_check_gpus)] = Field(
        0.0, ge=0, json_schema_extra=NOT_IDENTITY
    )
    """GPUs reserved for each worker: a whole number, or a fraction of one GPU, which workers then
    share. Two workers of 0.6 need two GPUs."""
    hang_seconds: float = Field(1800.0, gt=0, json_schema_extra=NOT_IDENTITY)
    """A worker that needs longer than this for one training step, or for one batch of an
    evaluation, is considered hung: its stack is saved and the worker is killed."""


class CheckpointOptions(Options):
    """Which checkpoints of a trial are written and kept. Never part of its id.

    A checkpoint is written after every epoch and before every evaluation.
    """

    last: int = Field(2, ge=1, json_schema_extra=NOT_IDENTITY)
    """Number of newest checkpoints to keep. If one is damaged, the one before it is used."""
    best: bool = Field(True, json_schema_extra=NOT_IDENTITY)
    """Also keep the checkpoint with the highest AP so far, on the branch kept at inference."""
    every: int | None = Field(None, ge=1, json_schema_extra=NOT_IDENTITY)
    """Also keep the checkpoint of every n-th epoch; null: none."""
    minutes: float | None = Field(None, gt=0, json_schema_extra=NOT_IDENTITY)
    """Also write a checkpoint within an epoch once this many minutes have passed since the last
    one; null: never."""


class Experiment(Options):
    """Everything that defines one trial. Each field is a section of the spec file."""

    data: Annotated[DataOptions, OneOf(DATASETS)]
    """The data set; `name` selects it."""
    detector: Annotated[DetectorOptions, OneOf(DETECTORS)]
    """The detector; `name` selects it."""
    assignment: Annotated[Strategy, OneOf(ASSIGNERS)]
    """The label assignment; `name` selects it."""
    training: Training = Training()
    """Schedule, augmentation and losses."""
    evaluation: EvaluationOptions = EvaluationOptions()
    """When the trial is evaluated, and under which protocol."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the initial weights, the order of the images and the augmentation."""
    resources: Resources = Field(Resources(), json_schema_extra=NOT_IDENTITY)
    """What the trial runs on."""
    checkpoints: CheckpointOptions = Field(CheckpointOptions(), json_schema_extra=NOT_IDENTITY)
    """Which checkpoints are written and kept."""

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        workers, gpus = self.resources.workers, self.resources.gpus_per_worker > 0
        if problems := unfit(self, self.evaluation.protocol, workers, gpus=gpus):
            raise UnfitError(*problems)
        return self

    def config(self) -> dict[str, Any]:
        """Return plain JSON from which `Experiment.model_validate` rebuilds this experiment."""
        return self.model_dump(mode="json")


class Policy(Options):
    """How a sweep is run. Not part of any trial."""

    retries: int = Field(2, ge=0, le=100)
    """How often a failed trial is tried again, counted from the start of a driver: `gaplab resume`
    starts counting anew. Failures caused by the trial's own input, or by storage that can't be
    written, are not retried."""
    backoff_seconds: float = Field(5.0, ge=0, le=3600)
    """Wait before the first retry of a trial. It doubles with every retry, up to 5 minutes."""
    on_failure: Literal["continue", "stop", "stop_after_n_identical"] = "continue"
    """What happens after a trial has failed for good: continue with the other trials, stop the
    sweep, or stop it once `identical` trials have failed for the same reason."""
    identical: int = Field(3, ge=1)
    """Number of trials for `on_failure: stop_after_n_identical`."""
    priority: int = Field(0, ge=-1000, le=1000)
    """Of two sweeps on one cluster and ledger, the one with the higher priority starts its trials
    first."""
    at_once: int | None = Field(None, ge=1)
    """Largest number of trials of this sweep that run at the same time, in all of its drivers
    together; null: as many as fit."""
    lease_seconds: float = Field(60.0, ge=1, le=3600)
    """A driver without a heartbeat for this long is considered lost, and other drivers take over
    its trials. A driver that died on the same machine is noticed at once."""
    grace_seconds: float = Field(30.0, ge=0, le=3600)
    """How long a stop (Ctrl-C, a signal, `gaplab cancel`) waits for running trials to write a
    checkpoint."""

    @model_validator(mode="after")
    def _identical_is_used(self) -> Self:
        default = type(self).model_fields["identical"].default
        if self.identical != default and self.on_failure != "stop_after_n_identical":
            raise ValueError("identical: only used with on_failure: stop_after_n_identical")
        return self

    def backoff(self, failures: int) -> float:
        """Return the seconds to wait after this many failures of a trial (at least 1)."""
        return float(min(MAX_BACKOFF, self.backoff_seconds * 2.0 ** (failures - 1)))


READ = "read."
"""Prefix of the keys of a row that say which evaluations it shows; see `Reading`."""


def _with_key(protocol: Protocol | None) -> Protocol | None:
    return protocol and with_key(protocol)


class Reading(Options):
    """Which evaluations of its trials a row of a table shows. It changes no trial."""

    protocol: Annotated[
        Protocol | None, BeforeValidator(read_preset_or_mapping), AfterValidator(_with_key)
    ] = None
    """Name of a preset, or a mapping as in `evaluation.protocol`; null: the trial's own."""
    branch: Branch | None = None
    """Branch of the detector; null: the branch kept at inference."""
    epoch: int | None = Field(None, ge=1)
    """Epoch; null: the last one."""
    ground_truth: bool = False
    """Whether the row shows the annotated objects after the protocol's NMS instead of trials. The
    row has no trial then, and may only set keys of `data` and `evaluation`."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Validate the `read.` keys of a row. Raises pydantic.ValidationError."""
        found = {key.removeprefix(READ): row[key] for key in row if key.startswith(READ)}
        return cls.model_validate(found)


Values = Annotated[list[Any], Field(min_length=1)]
Condition = dict[str, Any]
"""Dotted key -> the value that a trial must have there, or a list of values it may have. All keys
must match."""


def _zip_form(value: Any) -> str:
    return "groups" if isinstance(value, list) else "group"


class Spec(Options):
    """A base experiment and what to vary around it. Keys are dotted: `assignment.alpha`.

    A varied key may also name a whole section. Its values then replace the section, and varied keys
    inside it are applied afterwards.
    """

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")
    """Name of the sweep: 1 to 64 lower-case letters, digits, `-` and `_`."""
    question: str = ""
    """The question that the sweep answers."""
    base: dict[str, Any] = Field({})
    """Sections of the base experiment. In a spec file they are at the top level."""
    repeat: int | None = Field(None, ge=1, le=MAX_REPEAT)
    """Number of seeds: `repeat: 3` is short for `grid: {seed: [0, 1, 2]}`, and becomes that when a
    spec is read."""
    rows: dict[str, dict[str, Any]] = Field({})
    """Name of a row, such as a line of a paper's table -> the keys that it sets. Each row is one
    trial for every combination of the rest; keys that it leaves out have their value of the base.
    Keys that begin with `read.` only say what the row shows (see `Reading`)."""
    grid: dict[str, Values] = Field({})
    """Key -> its values. Every combination of the values of all keys is one trial."""
    zip: Annotated[
        Annotated[dict[str, Values], Tag("group")]
        | Annotated[list[dict[str, Values]], Tag("groups")],
        Discriminator(_zip_form),
    ] = Field([])
    """Keys with lists of equal length that move together: the i-th trial has the i-th value of
    each. A list of such mappings makes several independent groups."""
    when: dict[str, Condition] = Field({})
    """Varied key -> the condition under which it is varied. Trials that don't meet the condition
    don't get the key; trials that become equal are merged."""
    exclude: list[Condition] = Field([])
    """Trials that meet any of these conditions are left out."""
    search: SearchOptions | None = None
    """Draws samples from ranges of values, instead of or combined with rows, grid and zip."""
    stop: StopOptions | None = None
    """Ends unpromising trials early."""
    run: Policy = Policy()
    """How the sweep is run; not part of any trial."""
    max_trials: int = Field(10_000, ge=1, le=1_000_000)
    """A spec with more combinations than this, counted before `when` and `exclude`, is rejected."""

    @model_validator(mode="before")
    @classmethod
    def _seeds(cls, spec: Any) -> Any:
        return with_seeds(spec) if isinstance(spec, Mapping) else spec
