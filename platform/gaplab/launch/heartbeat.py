"""The heartbeat of a driver: renew its lease, read requests, mark drivers that died as lost."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from gaplab.errors import UserError
from gaplab.launch.decisions import Demand, lost_reason
from gaplab.launch.process import machine_id, running_processes
from gaplab.ledger import Ledger
from gaplab.records import CancelRequest, DriverRecord

INTERVAL = 5.0
"""Seconds between two heartbeats; a quarter of the lease where that is shorter."""
RETRY = 1.0
"""Seconds before the next heartbeat after one that failed."""


@dataclass(frozen=True)
class HeartbeatReport:
    """What one heartbeat read from the ledger."""

    at: float = float("-inf")
    """`time.monotonic()` before the ledger was read."""
    held: frozenset[int] = frozenset()
    """Ids of the running attempts that still belong to the driver."""
    cancelled: CancelRequest = field(default_factory=CancelRequest)
    demands: tuple[Demand, ...] = ()
    """The demands of all drivers that run on the same cluster."""


@dataclass
class DriverDemand:
    """What a driver needs from its cluster, written to the ledger for other drivers to read."""

    slots: int = 0
    """Trials that the driver runs or could start now."""
    waits_for: str = ""
    """What an idle driver is waiting for, in words; empty otherwise."""


@dataclass
class Heartbeat:
    """A context manager that registers a driver and renews its lease in a thread of its own.

    A driver that is busy or waits for a slow disk therefore keeps its lease.

    Args:
        ledger: the ledger.
        driver: the driver to register.
        lease: length of the lease in seconds.
        demand: read at every heartbeat.
        on_report: called with the report of every heartbeat, the first time before any trial
            starts.
    """

    ledger: Ledger
    driver: DriverRecord
    lease: float
    demand: DriverDemand = field(default_factory=DriverDemand)
    on_report: Callable[[HeartbeatReport], None] = lambda report: None
    _expired: dict[str, datetime] = field(default_factory=dict)

    def __enter__(self) -> "Heartbeat":
        mark_lost_drivers(self.ledger, self._expired)
        self.ledger.add_driver(self.driver, self.lease)
        self.on_report(self.beat())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gaplab-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=self.lease)
        with suppress(UserError):  # the lease then expires by itself
            self.ledger.end_driver(self.driver.id)

    def beat(self) -> HeartbeatReport:
        """Renew the lease, mark lost drivers, and return what the ledger says now."""
        at, demand, mine = time.monotonic(), self.demand, self.driver
        held = self.ledger.renew_lease(mine.id, self.lease, demand.slots, demand.waits_for)
        cancelled = self.ledger.cancelled(mine.sweep, mine.id)
        mark_lost_drivers(self.ledger, self._expired, mine.id)
        near = [each for each in self.ledger.drivers() if each.cluster == mine.cluster]
        demands = tuple(Demand(each.id, each.priority, each.demand) for each in near)
        return HeartbeatReport(at, frozenset(held), cancelled, demands)

    def _run(self) -> None:
        while not self._ended.wait(min(INTERVAL, self.lease / 4)):
            try:
                self.on_report(self.beat())
            except Exception:  # whatever it is, the driver meets it in its own writes
                self._ended.wait(RETRY)


def mark_lost_drivers(
    ledger: Ledger, expired: dict[str, datetime], this_driver: str = ""
) -> list[str]:
    """Mark drivers that died as lost and interrupt the attempts that they left running.

    A driver of another machine counts as lost once its lease is found expired by two calls in a
    row: after an outage of the ledger every driver has time to renew its lease.

    Args:
        ledger: the ledger.
        expired: the expired leases found by the previous call, updated in place.
        this_driver: id of the calling driver, which is never marked.

    Returns:
        The ids of the trials that were interrupted.
    """
    known, trials = [each for each in ledger.drivers() if each.id != this_driver], list[str]()
    alive, now = running_processes(each.lease().process for each in known), ledger.now()
    for each in known:
        reason = lost_reason(each.lease(), now, machine_id(), alive)
        late = reason is not None and each.lease_until <= now
        if reason and (not late or expired.get(each.id) == each.lease_until):
            trials += ledger.mark_lost(each, reason)
        elif late:
            expired[each.id] = each.lease_until
    return trials + ledger.mark_orphaned_lost("its driver is not known")
