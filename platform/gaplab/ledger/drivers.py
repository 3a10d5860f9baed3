"""The ledger's rows of drivers: who runs what, until when, and whom nobody believes any more."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, insert, not_, select, update

from gaplab.ledger.claims import move
from gaplab.ledger.clock import now
from gaplab.ledger.models import Attempt, Cancellation, Driver
from gaplab.ledger.views import DriverView
from gaplab.ledger.writes import insert_new
from gaplab.records import DriverRecord
from gaplab.states import TrialState


def add_driver(connection: Connection, driver: DriverRecord, seconds: float) -> None:
    """Insert the driver with a lease of `seconds`; the same driver once."""
    at = now(connection)
    about = {("sweep_id" if name == "sweep" else name): v for name, v in vars(driver).items()}
    begun = {"wants": 0, "waits_for": "", "started_at": at, "ended_at": None}
    lease = {"lease_until": at + timedelta(seconds=seconds)}
    insert_new(connection, Driver, [about | begun | lease])


def renew_lease(
    connection: Connection, driver: str, seconds: float, demand: int, waits_for: str
) -> set[int]:
    """Lengthen the lease, also one that others thought over; the attempts the driver still has."""
    lease = {"lease_until": now(connection) + timedelta(seconds=seconds), "ended_at": None}
    said = {"wants": demand, "waits_for": waits_for}
    connection.execute(update(Driver).where(Driver.id == driver).values(**lease, **said))
    mine = (Attempt.driver == driver, Attempt.state == TrialState.RUNNING)
    return set(connection.scalars(select(Attempt.id).where(*mine)))


def end_driver(connection: Connection, driver: str) -> None:
    """The driver stops; what it left running is closed by `bury`."""
    over = {"ended_at": now(connection), "wants": 0, "waits_for": ""}
    connection.execute(update(Driver).where(Driver.id == driver).values(**over))


def mark_lost(connection: Connection, driver: DriverView, reason: str) -> list[str]:
    """Interrupt the attempts of a driver that is taken for dead, unless it has renewed its lease
    since it was read; their trials.
    """
    same = (Driver.id == driver.id, Driver.lease_until == driver.lease_until)
    over = update(Driver).where(*same).values(ended_at=now(connection), wants=0, waits_for="")
    if connection.execute(over).rowcount == 0:
        return []
    return _interrupt(connection, Attempt.driver == driver.id, reason)


def mark_orphaned_lost(connection: Connection, reason: str) -> list[str]:
    """Interrupt running attempts whose driver is not in the ledger, or has ended; their trials."""
    alive = select(Driver.id).where(Driver.ended_at.is_(None))
    return _interrupt(connection, not_(Attempt.driver.in_(alive)), reason)


def living() -> Select[*tuple[Any, ...]]:
    """The drivers that have not ended as far as the ledger knows, oldest first."""
    return drivers().where(Driver.ended_at.is_(None))


def drivers(sweep: str | None = None) -> Select[*tuple[Any, ...]]:
    """All drivers, oldest first; or those of one sweep."""
    columns = [getattr(Driver, column.key) for column in Driver.__table__.columns]
    renamed = {"sweep_id": "sweep", "wants": "demand"}
    labels = [column.label(renamed.get(column.key, column.key)) for column in columns]
    query = select(*labels).order_by(Driver.started_at, Driver.id)
    return query if sweep is None else query.where(Driver.sweep_id == sweep)


def cancel(connection: Connection, sweep: str, trials: Sequence[str] | None) -> None:
    """Add the request to cancel `trials` of a sweep, or for None the whole sweep."""
    at = now(connection)
    chosen = [""] if trials is None else trials
    rows = [{"sweep_id": sweep, "trial_id": trial, "created_at": at} for trial in chosen]
    if rows:
        connection.execute(insert(Cancellation), rows)


def cancelled(sweep: str, driver: str) -> Select[str]:
    """The trials that the driver of a sweep is to leave alone; an empty id: all of them.

    What was asked before the driver began does not concern it: somebody resumed the sweep since.
    """
    begun = select(Driver.started_at).where(Driver.id == driver).scalar_subquery()
    mine = (Cancellation.sweep_id == sweep, Cancellation.created_at >= begun)
    return select(Cancellation.trial_id).where(*mine).distinct()


def _interrupt(connection: Connection, whose: ColumnElement[bool], reason: str) -> list[str]:
    running = (Attempt.state == TrialState.RUNNING, whose)
    # In the order of ids and locked first, so that two who bury can't wait for each other.
    locked = select(Attempt.id, Attempt.trial_id).where(*running).order_by(Attempt.id)
    found = connection.execute(locked.with_for_update()).all()
    if not found:
        return []
    ids, trials = [row.id for row in found], [row.trial_id for row in found]
    values = {"state": TrialState.INTERRUPTED, "reason": reason, "ended_at": now(connection)}
    connection.execute(update(Attempt).where(Attempt.id.in_(ids)).values(**values))
    for trial in trials:
        move(connection, trial, TrialState.INTERRUPTED)
    return sorted(trials)
