"""The tables of the ledger. A change here needs a migration; a test compares the two."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from gaplab.states import ENDS, TrialState


def _one_of(column: str, values: Iterable[str]) -> str:
    """Return the SQL condition that a column holds one of `values`."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, also in databases that do not store time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC. Raises ValueError for a naive datetime."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to an aware datetime in UTC; a naive one from the database is in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class StateText(TypeDecorator[TrialState]):
    """A trial's state, stored as text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: TrialState | None, dialect: Dialect) -> str | None:
        """Return the text of the state."""
        return value and str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> TrialState | None:
        """Return the state with this text."""
        return TrialState(value) if value is not None else None


class Base(DeclarativeBase):
    """Base of all tables: column types, and constraint names that migrations can refer to."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        float: Double,
        datetime: UtcDateTime,
        TrialState: StateText,
        dict[str, Any]: JSON,
        dict[str, float | None]: JSON,
        list[dict[str, Any]]: JSON,
        list[str]: JSON,
    }


class Sweep(Base):
    """A submitted spec."""

    __tablename__ = "sweep"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    spec: Mapped[str]
    created_at: Mapped[datetime]


class Trial(Base):
    """One fully resolved experiment, in the state of its last attempt."""

    __tablename__ = "trial"
    __table_args__ = (
        CheckConstraint(_one_of("state", TrialState), name="state"),
        Index(None, "state", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any]]
    assignment: Mapped[str]
    family: Mapped[str]
    dataset: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    epochs: Mapped[int]
    results_version: Mapped[int]
    state: Mapped[TrialState]
    created_at: Mapped[datetime]


class SweepTrial(Base):
    """The trials of a sweep and their order. A trial may be in many sweeps.

    config: the configuration with the settings of this sweep; NULL: that of the trial. The two
    differ only in what is no part of the trial's id.
    """

    __tablename__ = "sweep_trial"
    __table_args__ = (Index(None, "trial_id"),)

    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweep.id"), primary_key=True)
    trial_id: Mapped[str] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    position: Mapped[int]
    config: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Attempt(Base):
    """One execution of a trial for one of its sweeps; a trial's attempts are numbered from 1.

    config: the configuration that it runs with; NULL: that of the trial.
    """

    __tablename__ = "attempt"
    __table_args__ = (
        ForeignKeyConstraint(
            ["sweep_id", "trial_id"], ["sweep_trial.sweep_id", "sweep_trial.trial_id"]
        ),
        UniqueConstraint("trial_id", "number"),
        UniqueConstraint("trial_id", "id"),
        UniqueConstraint("token"),
        CheckConstraint(_one_of("state", (TrialState.RUNNING, *ENDS)), name="state"),
        Index(None, "state"),
        Index(None, "driver", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    trial_id: Mapped[str]
    sweep_id: Mapped[str]
    number: Mapped[int]
    state: Mapped[TrialState]
    reason: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    node: Mapped[str]
    device: Mapped[str]
    workers: Mapped[int]
    gpus: Mapped[float]
    cpu_seconds: Mapped[float | None]
    gpu_seconds: Mapped[float | None]
    wall_seconds: Mapped[float | None]
    peak_memory_mib: Mapped[float | None]
    driver: Mapped[str]
    token: Mapped[str]
    fault: Mapped[str]
    notes: Mapped[list[str]]
    provenance: Mapped[dict[str, Any]]
    config: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Driver(Base):
    """A process that runs a sweep, or did, with its lease and its demand on the cluster.

    wants: how many trials it would run now, running ones included. An attempt refers to its driver
    by id; attempts older than this table name a home folder instead.
    """

    __tablename__ = "driver"

    id: Mapped[str] = mapped_column(primary_key=True)
    sweep_id: Mapped[str]
    node: Mapped[str]
    machine: Mapped[str]
    pid: Mapped[int]
    born: Mapped[int] = mapped_column(BigInteger)
    cluster: Mapped[str]
    priority: Mapped[int]
    wants: Mapped[int]
    waits_for: Mapped[str]
    started_at: Mapped[datetime]
    lease_until: Mapped[datetime]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)


class Cancellation(Base):
    """A person's request to cancel one trial of a sweep, or the whole sweep: `trial_id` is NULL."""

    __tablename__ = "cancellation"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sweep_id: Mapped[str] = mapped_column(index=True)
    trial_id: Mapped[str | None]
    created_at: Mapped[datetime]


class Protocol(Base):
    """The values that the name of a protocol stands for. Rows never change: a name has one meaning.

    When a release of gaplab adds a value to protocols, its migration adds it to these rules.
    """

    __tablename__ = "protocol"

    id: Mapped[str] = mapped_column(primary_key=True)
    rule: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Evaluation(Base):
    """Metrics of one trial per epoch, branch, protocol and ground truth.

    `attempt_id` is the attempt that measured them; `truth` is empty for the trial's own data.
    `candidates` and `matches` are paths relative to the home folder.
    """

    __tablename__ = "evaluation"
    __table_args__ = (
        ForeignKeyConstraint(["trial_id", "attempt_id"], ["attempt.trial_id", "attempt.id"]),
        Index(None, "protocol", "is_primary", "trial_id", "branch", "epoch", "truth"),
    )

    trial_id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    branch: Mapped[str] = mapped_column(primary_key=True)
    protocol: Mapped[str] = mapped_column(primary_key=True)
    truth: Mapped[str] = mapped_column(primary_key=True)
    attempt_id: Mapped[int]
    is_primary: Mapped[bool]
    ap: Mapped[float]
    ap_nms: Mapped[float]
    gap: Mapped[float]
    ap50: Mapped[float | None]
    ap50_nms: Mapped[float | None]
    ap75: Mapped[float | None]
    ap75_nms: Mapped[float | None]
    ar: Mapped[float | None]
    ar_nms: Mapped[float | None]
    ar_gap: Mapped[float | None]
    more: Mapped[dict[str, float | None]]
    candidates: Mapped[str]
    matches: Mapped[str]
    created_at: Mapped[datetime]


class EvaluationClasses(Base):
    """AP of each class of an evaluation; apart from it, so that no scan reads them."""

    __tablename__ = "evaluation_classes"

    trial_id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    branch: Mapped[str] = mapped_column(primary_key=True)
    protocol: Mapped[str] = mapped_column(primary_key=True)
    truth: Mapped[str] = mapped_column(primary_key=True)
    classes: Mapped[list[dict[str, Any]]]


class ChosenEvaluation(Base):
    """The last and the best evaluation of each trial, branch, protocol and ground truth.

    A copy of columns of `evaluation` and `trial`, or of a measurement (`epochs` is 0 then), which
    is kept by the writes of those. `best` has the highest AP without NMS, of equal ones the latest.
    """

    __tablename__ = "chosen_evaluation"
    __table_args__ = (
        CheckConstraint(_one_of("chosen", ("last", "best")), name="chosen"),
        Index(None, "protocol", "chosen", "is_primary", "ap", "trial_id"),
        Index(
            "ix_chosen_evaluation_grouped",
            *("protocol", "chosen", "is_primary", "assignment", "dataset", "epochs"),
            *("results_version", "seed", "truth", "ap", "ap_nms", "gap", "ar", "trial_id"),
        ),
    )

    trial_id: Mapped[str] = mapped_column(primary_key=True)
    branch: Mapped[str] = mapped_column(primary_key=True)
    protocol: Mapped[str] = mapped_column(primary_key=True)
    truth: Mapped[str] = mapped_column(primary_key=True)
    chosen: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    is_primary: Mapped[bool]
    assignment: Mapped[str]
    family: Mapped[str]
    dataset: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    epochs: Mapped[int]
    results_version: Mapped[int]
    ap: Mapped[float]
    ap_nms: Mapped[float]
    gap: Mapped[float]
    ap50: Mapped[float | None]
    ap50_nms: Mapped[float | None]
    ap75: Mapped[float | None]
    ap75_nms: Mapped[float | None]
    ar: Mapped[float | None]
    ar_nms: Mapped[float | None]
    ar_gap: Mapped[float | None]


class Setting(Base):
    """One value of a section of a configuration, such as the assignment with all its options.

    Trials share sections: of a sweep over one option, all but one section are stored once.

    key: the dotted key of the spec. value: JSON; of more than 200 characters, a digest of it.
    number: the value if it is a number.
    """

    __tablename__ = "setting"
    __table_args__ = (
        Index(None, "key", "value", "section_id"),
        Index(None, "key", "number", "section_id"),
    )

    section_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    number: Mapped[float | None]


class TrialSection(Base):
    """The sections of the configuration of a trial or measurement, by the name of the section."""

    __tablename__ = "trial_section"
    __table_args__ = (Index(None, "section_id", "trial_id"),)

    trial_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    section_id: Mapped[str]


class Measurement(Base):
    """Metrics of detections that gaplab did not produce, per protocol.

    `id` is a digest of detections and annotations. `matches` is relative to the home folder.
    """

    __tablename__ = "measurement"

    id: Mapped[str] = mapped_column(primary_key=True)
    protocol: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    family: Mapped[str]
    dataset: Mapped[str]
    truth: Mapped[str]
    metrics: Mapped[dict[str, float | None]]
    classes: Mapped[list[dict[str, Any]]]
    matches: Mapped[str]
    source: Mapped[dict[str, Any]]
    about: Mapped[dict[str, Any]]
    results_version: Mapped[int]
    created_at: Mapped[datetime]


class Checkpoint(Base):
    """A trial's saved state after an epoch; `uri` is relative to the home folder."""

    __tablename__ = "checkpoint"

    trial_id: Mapped[str] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uri: Mapped[str]
    created_at: Mapped[datetime]


class EpochLosses(Base):
    """Mean losses of one epoch of a trial, and scores and ranks of its positive points, by name."""

    __tablename__ = "epoch_losses"

    trial_id: Mapped[str] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    losses: Mapped[dict[str, Any]]
    positives: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
