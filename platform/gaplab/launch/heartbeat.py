"""A driver's heartbeat: renew the lease, hear who cancels, bury drivers that died."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from gaplab.errors import UserError
from gaplab.launch.decisions import Demand, lost_reason
from gaplab.launch.process import living, machine
from gaplab.ledger import Ledger
from gaplab.records import DriverRecord


@dataclass(frozen=True)
class News:
    """What a heartbeat brought: attempts that are still ours, trials to leave alone (an empty id:
    all), and what all drivers on our cluster want. at: time.monotonic() when it was asked for.
    """

    at: float = float("-inf")
    held: frozenset[int] = frozenset()
    cancelled: frozenset[str] = frozenset()
    demands: tuple[Demand, ...] = ()


@dataclass
class Wish:
    """What the driver wants of its cluster, and what it waits for; for others to read."""

    wants: int = 0
    waits_for: str = ""


@dataclass
class Heart:
    """Beats every five seconds, or quarter of a shorter lease, in a thread of its own: a driver
    that is busy, or waits for a slow disk, is not taken for dead.
    """

    ledger: Ledger
    driver: DriverRecord
    lease: float
    wish: Wish = field(default_factory=Wish)
    hear: Callable[[News], None] = lambda news: None
    _silent: dict[str, datetime] = field(default_factory=dict)

    def __enter__(self) -> "Heart":
        bury_the_dead(self.ledger, self._silent)
        self.ledger.enlist(self.driver, self.lease)
        self.hear(self.beat())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="gaplab-heart", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=self.lease)
        with suppress(UserError):  # then its lease runs out
            self.ledger.retire(self.driver.id)

    def beat(self) -> News:
        """Renew the lease and look around."""
        at, wish, mine = time.monotonic(), self.wish, self.driver
        held = self.ledger.renew(mine.id, self.lease, wish.wants, wish.waits_for)
        cancelled = self.ledger.cancelled(mine.sweep, mine.id)
        bury_the_dead(self.ledger, self._silent, mine.id)
        near = [each for each in self.ledger.drivers() if each.cluster == mine.cluster]
        demands = tuple(Demand(each.id, each.priority, each.wants) for each in near)
        return News(at, frozenset(held), frozenset(cancelled), demands)

    def _live(self) -> None:
        while not self._over.wait(min(5.0, self.lease / 4)):
            try:
                self.hear(self.beat())
            except Exception:  # whatever it is, the driver meets it in its own writes
                self._over.wait(1.0)


def bury_the_dead(ledger: Ledger, silent: dict[str, datetime], but: str = "") -> list[str]:
    """Interrupt what drivers that died have left running; its trials. but: who asks, and lives.

    silent: leases that were over at the last look, kept between looks. Only one that is over at two
    looks is believed: when the ledger was away for long, everybody gets time to renew.
    """
    known, found = [each for each in ledger.drivers() if each.id != but], list[str]()
    alive, at = living(each.lease().process for each in known), ledger.now()
    for each in known:
        reason = lost_reason(each.lease(), at, machine(), alive)
        late = reason is not None and each.lease_until <= at
        if reason and (not late or silent.get(each.id) == each.lease_until):
            found += ledger.bury(each, reason)
        elif late:
            silent[each.id] = each.lease_until
    return found + ledger.bury_strangers("its driver is not known")
