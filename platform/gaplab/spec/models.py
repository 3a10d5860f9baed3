"""What a person asks for: one experiment, and the sweep around it. Open this first.

`specfile.load_spec` reads a YAML file into a `Spec`; `sweep.expand` turns a `Spec` into trials,
each of which is one `Experiment`. The options of a data set, a detector or an assignment are the
fields of its own class, found through the tables `DATASETS`, `DETECTORS` and `ASSIGNERS`.
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
from detectors.options import NOT_IDENTITY, OneOf, Options
from detectors.training import Training
from gaplab.spec.protocols import named, preset_or_mapping, read_protocol
from gaplab.spec.search import SearchOptions, StopOptions


class Policy(Options):
    """The section `run` of a spec."""

    retries: int = Field(2, ge=0, le=100)
    """More attempts at a trial after one that failed of something else than its own input, counted
    from the start of a driver: `gaplab resume` tries again."""
    backoff_seconds: float = Field(5.0, ge=0, le=3600)
    """Wait before the first retry of a trial; doubles with each, up to 5 minutes."""
    on_failure: Literal["continue", "stop", "stop_after_n_identical"] = "continue"
    """When trials have failed for good: go on with the others, stop at the first, or stop when
    `identical` of them failed alike."""
    identical: int = Field(3, ge=1)
    priority: int = Field(0, ge=-1000, le=1000)
    """Of two sweeps on one cluster and ledger, the higher one's trials go first."""
    at_once: int | None = Field(None, ge=1)
    """Trials of this sweep that run side by side, at most; null: as many as fit."""
    lease_seconds: float = Field(60.0, ge=1, le=3600)
    """A driver that is silent for so long is taken for dead, and its trials go to others. One that
    died on this machine is noticed at once."""
    grace_seconds: float = Field(30.0, ge=0, le=3600)
    """How long a stop (Ctrl-C, SIGTERM, `gaplab cancel`) waits for trials to save themselves."""

    @model_validator(mode="after")
    def _identical_counts(self) -> Self:
        default = type(self).model_fields["identical"].default
        if self.identical != default and self.on_failure != "stop_after_n_identical":
            raise ValueError("identical: only read with on_failure: stop_after_n_identical")
        return self

    def backoff(self, failures: int) -> float:
        """Seconds to wait after the failure of this number, from 1."""
        return float(min(300.0, self.backoff_seconds * 2.0 ** (failures - 1)))


class EvaluationOptions(Options):
    """When a trial is evaluated, and by which protocol."""

    every: int = Field(1, ge=1, json_schema_extra=NOT_IDENTITY)
    """Epochs between evaluations; the last epoch is always evaluated."""
    candidates: Literal["last", "every", "none"] = Field("last", json_schema_extra=NOT_IDENTITY)
    """Of which evaluations raw candidates are kept, for `reevaluate`, `explain` and intervals."""
    protocol: Annotated[Protocol, BeforeValidator(read_protocol), AfterValidator(named)] = (
        PROTOCOLS["default"]
    )
    """A preset's name, or a mapping: the keys that differ from the preset it names in `preset`."""


class Resources(Options):
    """What a trial runs on. Never part of its id."""

    workers: int = Field(1, ge=1, json_schema_extra=NOT_IDENTITY)
    """Processes that share one trial; each takes its part of every batch."""
    cpus_per_worker: int = Field(1, ge=1, json_schema_extra=NOT_IDENTITY)
    gpus_per_worker: float = Field(0.0, ge=0, json_schema_extra=NOT_IDENTITY)
    """A fraction shares one GPU between trials."""
    hang_seconds: float = Field(1800.0, gt=0, json_schema_extra=NOT_IDENTITY)
    """A worker that takes longer than this over one step, or over one batch of an evaluation, is
    taken to hang: it is killed, and its stack kept."""


class CheckpointOptions(Options):
    """Which checkpoints of a trial are kept, and when one is written besides the end of each epoch
    and the beginning of each evaluation. Never part of its id.
    """

    last: int = Field(2, ge=1, json_schema_extra=NOT_IDENTITY)
    """How many of the newest are kept: should one be damaged, the one before it is used."""
    best: bool = Field(True, json_schema_extra=NOT_IDENTITY)
    """The one with the highest AP so far, on the branch kept at inference, is kept, too."""
    every: int | None = Field(None, ge=1, json_schema_extra=NOT_IDENTITY)
    """The one after each n-th epoch is kept, too; null: none."""
    minutes: float | None = Field(None, gt=0, json_schema_extra=NOT_IDENTITY)
    """One is also written in the middle of an epoch, when so much time has passed since the last;
    null: never."""


class Experiment(Options):
    """Everything one trial is made of. Each field is a section of the spec file."""

    data: Annotated[DataOptions, OneOf(DATASETS)]
    detector: Annotated[DetectorOptions, OneOf(DETECTORS)]
    assignment: Annotated[Strategy, OneOf(ASSIGNERS)]
    training: Training = Training()
    evaluation: EvaluationOptions = EvaluationOptions()
    seed: int = Field(0, ge=0, lt=2**31)
    resources: Resources = Field(Resources(), json_schema_extra=NOT_IDENTITY)
    checkpoints: CheckpointOptions = Field(CheckpointOptions(), json_schema_extra=NOT_IDENTITY)

    @model_validator(mode="after")
    def _every_worker_has_an_image(self) -> Self:
        if self.training.batch < self.resources.workers:
            raise ValueError(
                f"training.batch: must be at least resources.workers ({self.resources.workers}), "
                f"got {self.training.batch}"
            )
        return self

    def config(self) -> dict[str, Any]:
        """Plain JSON from which `Experiment.model_validate` rebuilds this experiment."""
        return self.model_dump(mode="json")


Values = Annotated[list[Any], Field(min_length=1)]
Condition = dict[str, Any]
"""Dotted key -> the value it must have, or a list of the values it may have."""
READ = "read."
"""What the keys of a row begin with that say how it is read; see `Reading`."""


def _named(protocol: Protocol | None) -> Protocol | None:
    return protocol and named(protocol)


class Reading(Options):
    """How a row of a table is read: which of its trials' evaluations. It changes no trial."""

    protocol: Annotated[
        Protocol | None, BeforeValidator(preset_or_mapping), AfterValidator(_named)
    ] = None
    """A preset's name, or a mapping as in `evaluation.protocol`; null: the trial's own."""
    branch: Branch | None = None
    """null: the one kept at inference."""
    epoch: int | None = Field(None, ge=1)
    """null: the last."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """What the `read.` keys of `row` say. Raises pydantic.ValidationError."""
        said = {key.removeprefix(READ): row[key] for key in row if key.startswith(READ)}
        return cls.model_validate(said)


def _zip_form(value: Any) -> str:
    return "groups" if isinstance(value, list) else "group"


class Spec(Options):
    """A base experiment and what to vary around it. Keys are dotted: `assignment.alpha`.

    A varied key may name a whole section, too: its value then stands for the whole of it, and
    varied keys below it are applied after it.
    """

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")
    """Names the sweep: lower-case letters, digits, `-` and `_`."""
    question: str = ""
    """What the sweep is to answer."""
    base: dict[str, Any] = Field({})
    """The experiment's sections as written; in the file they stand at the top level."""
    rows: dict[str, dict[str, Any]] = Field({})
    """A row's name, such as a line of a paper's table -> the varied keys that it sets. Each row is
    one trial (of every combination of the rest), with the base's value for a key it leaves out.
    `read.protocol`, `read.branch` and `read.epoch` only say how the row is read (see `Reading`)."""
    grid: dict[str, Values] = Field({})
    """Every combination of these values is one trial."""
    zip: Annotated[
        Annotated[dict[str, Values], Tag("group")]
        | Annotated[list[dict[str, Values]], Tag("groups")],
        Discriminator(_zip_form),
    ] = Field([])
    """Keys whose lists, of equal length, move together; a list of such mappings for several."""
    when: dict[str, Condition] = Field({})
    """A varied key -> the condition under which it is varied. Elsewhere it is left out, and
    trials that became equal are one."""
    exclude: list[Condition] = Field([])
    """Trials for which one of these conditions holds are left out."""
    search: SearchOptions | None = None
    """Trials drawn from ranges, instead of or beside every combination of values."""
    stop: StopOptions | None = None
    """Which trials end early."""
    run: Policy = Policy()
    """How the sweep is run; not a part of any trial."""
    max_trials: int = Field(10_000, ge=1, le=1_000_000)
    """A grid with more combinations than this is refused."""
