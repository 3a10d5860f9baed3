"""Drivers, their leases and requests to cancel, each change inside the caller's transaction."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, insert, not_, select, update

from gaplab.ledger.claims import apply_transition
from gaplab.ledger.clock import now
from gaplab.ledger.models import Attempt, Cancellation, Driver
from gaplab.ledger.statements import insert_new
from gaplab.ledger.views import DriverView
from gaplab.records import DriverRecord
from gaplab.states import TrialState

_COLUMNS = {"sweep_id": "sweep", "wants": "demand"}
"""Columns of `driver` whose field in a view has another name."""
_IDLE = {"wants": 0, "waits_for": ""}


def add_driver(connection: Connection, driver: DriverRecord, seconds: float) -> None:
    """Insert the driver with a lease of `seconds`, unless it is there."""
    at = now(connection)
    about = {("sweep_id" if name == "sweep" else name): v for name, v in vars(driver).items()}
    times = {"started_at": at, "lease_until": at + timedelta(seconds=seconds), "ended_at": None}
    insert_new(connection, Driver, [about | times | _IDLE])


def renew_lease(
    connection: Connection, driver: str, seconds: float, demand: int, waits_for: str
) -> set[int]:
    """Renew the lease, also of a driver that was marked as lost. Returns its running attempts."""
    lease = {"lease_until": now(connection) + timedelta(seconds=seconds), "ended_at": None}
    needs = {"wants": demand, "waits_for": waits_for}
    connection.execute(update(Driver).where(Driver.id == driver).values(**lease, **needs))
    mine = (Attempt.driver == driver, Attempt.state == TrialState.RUNNING)
    return set(connection.scalars(select(Attempt.id).where(*mine)))


def end_driver(connection: Connection, driver: str) -> None:
    """Set the end of the driver; its running attempts stay as they are."""
    ended = {"ended_at": now(connection), **_IDLE}
    connection.execute(update(Driver).where(Driver.id == driver).values(**ended))


def mark_lost(connection: Connection, driver: DriverView, reason: str) -> list[str]:
    """End the driver and interrupt its attempts, unless its lease was renewed since it was read."""
    unchanged = (Driver.id == driver.id, Driver.lease_until == driver.lease_until)
    ended = {"ended_at": now(connection), **_IDLE}
    if connection.execute(update(Driver).where(*unchanged).values(**ended)).rowcount == 0:
        return []
    return _interrupt(connection, Attempt.driver == driver.id, reason)


def mark_orphaned_lost(connection: Connection, reason: str) -> list[str]:
    """Interrupt the running attempts whose driver is not in the ledger or has ended."""
    active = select(Driver.id).where(Driver.ended_at.is_(None))
    return _interrupt(connection, not_(Attempt.driver.in_(active)), reason)


def active_drivers() -> Select[*tuple[Any, ...]]:
    """Select the drivers that have not ended as far as is known, oldest first."""
    return all_drivers().where(Driver.ended_at.is_(None))


def all_drivers(sweep: str | None = None) -> Select[*tuple[Any, ...]]:
    """Select every driver, or those of one sweep, oldest first, as the fields of DriverView."""
    columns = [getattr(Driver, column.key) for column in Driver.__table__.columns]
    fields = [column.label(_COLUMNS.get(column.key, column.key)) for column in columns]
    query = select(*fields).order_by(Driver.started_at, Driver.id)
    return query if sweep is None else query.where(Driver.sweep_id == sweep)


def cancel(connection: Connection, sweep: str, trials: Sequence[str] | None) -> None:
    """Insert a request to cancel each of `trials`, or the whole sweep for None."""
    at = now(connection)
    chosen = [None] if trials is None else trials
    rows = [{"sweep_id": sweep, "trial_id": trial, "created_at": at} for trial in chosen]
    if rows:
        connection.execute(insert(Cancellation), rows)


def cancelled(sweep: str, driver: str) -> Select[str | None]:
    """Select the trials that a driver is asked to cancel; NULL among them: the whole sweep.

    Requests from before the driver began are ignored: the sweep was resumed after them.
    """
    begun = select(Driver.started_at).where(Driver.id == driver).scalar_subquery()
    received = (Cancellation.sweep_id == sweep, Cancellation.created_at >= begun)
    return select(Cancellation.trial_id).where(*received).distinct()


def _interrupt(connection: Connection, whose: ColumnElement[bool], reason: str) -> list[str]:
    """Interrupt the running attempts that `whose` selects. Returns the ids of their trials."""
    running = (Attempt.state == TrialState.RUNNING, whose)
    # Locked first and in the order of ids, so that two callers cannot deadlock.
    locked = select(Attempt.id, Attempt.trial_id).where(*running).order_by(Attempt.id)
    found = connection.execute(locked.with_for_update()).all()
    if not found:
        return []
    ids, trials = [row.id for row in found], [row.trial_id for row in found]
    values = {"state": TrialState.INTERRUPTED, "reason": reason, "ended_at": now(connection)}
    connection.execute(update(Attempt).where(Attempt.id.in_(ids)).values(**values))
    for trial in trials:
        apply_transition(connection, trial, TrialState.INTERRUPTED)
    return sorted(trials)
