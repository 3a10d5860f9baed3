"""The ledger's tables. A change here comes with a migration; a test compares the two."""

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
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, in UTC on the way in and out, also where the database keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; a naive datetime raises ValueError."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From what the database gives (naive means UTC) to an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class StateText(TypeDecorator[TrialState]):
    """A trial's state, kept as text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: TrialState | None, dialect: Dialect) -> str | None:
        """Return the state's text."""
        return value and str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> TrialState | None:
        """Return the state of this text."""
        return TrialState(value) if value is not None else None


class Base(DeclarativeBase):
    """Column types, and fixed names of constraints so that migrations can name them."""

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
    __table_args__ = (CheckConstraint(_one_of("state", TrialState), name="state"),)

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
    """Which trials a sweep expands to, and in which order. A trial may be in many sweeps."""

    __tablename__ = "sweep_trial"
    __table_args__ = (Index(None, "trial_id"),)

    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweep.id"), primary_key=True)
    trial_id: Mapped[str] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    position: Mapped[int]


class Attempt(Base):
    """One execution of a trial for a sweep that holds it; a trial's numbers rise from 1."""

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


class Driver(Base):
    """A process that runs a sweep, or did: its lease, and what it wants of its cluster.

    wants: trials that it would run now if it could. An attempt names its driver by id; those of
    drivers before this table name a home folder.
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
    """A person's wish that drivers leave a sweep, or one trial of it (else empty), alone."""

    __tablename__ = "cancellation"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sweep_id: Mapped[str] = mapped_column(index=True)
    trial_id: Mapped[str]
    created_at: Mapped[datetime]


class Protocol(Base):
    """What the name of a protocol stands for. Never changed: one name has one meaning.

    Where gaplab gives protocols a new value, a migration adds it to the rules that are here.
    """

    __tablename__ = "protocol"

    id: Mapped[str] = mapped_column(primary_key=True)
    rule: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Evaluation(Base):
    """Metrics of one trial at one epoch, branch and protocol; the attempt is one of that trial."""

    __tablename__ = "evaluation"
    __table_args__ = (
        ForeignKeyConstraint(["trial_id", "attempt_id"], ["attempt.trial_id", "attempt.id"]),
        Index(None, "protocol", "is_primary", "trial_id", "branch", "epoch"),
    )

    trial_id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    branch: Mapped[str] = mapped_column(primary_key=True)
    protocol: Mapped[str] = mapped_column(primary_key=True)
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
    classes: Mapped[list[dict[str, Any]]]
    candidates: Mapped[str]
    matches: Mapped[str]
    created_at: Mapped[datetime]


class Checkpoint(Base):
    """Where a trial's state after an epoch is kept."""

    __tablename__ = "checkpoint"

    trial_id: Mapped[str] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uri: Mapped[str]
    created_at: Mapped[datetime]
