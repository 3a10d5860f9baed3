"""Waiting for a database that is restarting, locked or out of reach for a while."""

import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from gaplab.errors import StorageError, UserError

T = TypeVar("T")

_PASSING = ("08", "40", "53", "55", "57")
"""Classes of PostgreSQL's errors that pass: connection, conflict, resources, locks, shutdown."""
_FULL = ("53100", "database or disk is full")


def _quiet(text: str) -> None:
    pass


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds (0: not at all), and whom to tell when it begins and ends."""

    seconds: float = 0.0
    say: Callable[[str], None] = _quiet

    def wait_for(self, action: Callable[[], T]) -> T:
        """What `action` returns; it is one transaction and is tried again when its error passes.

        Raises StorageError for a full disk, UserError when the patience is over, and any other
        error as it came.
        """
        began, tries = time.monotonic(), 0
        while True:
            try:
                found = action()
            except DBAPIError as error:
                self._bear(error, time.monotonic() - began, tries)
            else:
                if tries:
                    self.say(f"the ledger answers again after {time.monotonic() - began:.0f} s")
                return found
            tries += 1
            time.sleep(min(2.0, 0.05 * 2.0 ** min(tries, 6)) * random.uniform(0.5, 1.0))

    def _bear(self, error: DBAPIError, waited: float, tries: int) -> None:
        """Return where it is worth to try again."""
        cause = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
        if is_full(error):
            raise StorageError(
                f"ledger: can't be written ({cause}); free space there, then go on with "
                "`gaplab resume`"
            ) from error
        if not self.seconds or not passes(error):
            raise error
        if waited >= self.seconds:
            raise UserError(
                f"ledger: no answer for {waited:.0f} s ({cause}); see that the database runs, then "
                "go on with `gaplab resume`"
            ) from error
        if not tries:
            self.say(f"the ledger doesn't answer ({cause}); waiting up to {self.seconds:.0f} s")


def passes(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed later."""
    if isinstance(error.orig, sqlite3.Error):
        return "locked" in str(error.orig) or "busy" in str(error.orig)
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    lost = state is None and type(error.orig).__name__ in ("OperationalError", "InterfaceError")
    return lost or str(state)[:2] in _PASSING


def is_full(error: DBAPIError) -> bool:
    """Whether the disk of the database is full."""
    state = getattr(error.orig, "sqlstate", None)
    return state == _FULL[0] or _FULL[1] in str(error.orig)
