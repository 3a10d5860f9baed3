"""Retry a transaction while its database is locked, restarting or unreachable."""

import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from gaplab.errors import StorageError, UserError

T = TypeVar("T")

_TRANSIENT = ("08", "40", "53", "55", "57")
"""Classes of PostgreSQL's SQLSTATE after which a retry may succeed: connection, transaction
rollback, insufficient resources, object not in the required state, operator intervention."""
_DISK_FULL = "53100"
OUTAGE_SECONDS = 900.0
"""How long a driver waits for a ledger that does not answer. Training goes on meanwhile."""


def _ignore(message: str) -> None:
    pass


@dataclass(frozen=True)
class RetryPolicy:
    """How long a transaction is retried while the database does not answer.

    Attributes:
        seconds: how long to retry after the first failure; 0 disables retries.
        report: called with one line when an outage begins, and with one when it ends.
    """

    seconds: float = 0.0
    report: Callable[[str], None] = _ignore

    def run(self, action: Callable[[], T]) -> T:
        """Run `action`, one transaction, until it succeeds or fails with a lasting error.

        Returns:
            What `action` returns.

        Raises:
            StorageError: the disk of the database is full.
            UserError: the database has not answered for `seconds`.
            DBAPIError: the error would not go away, or retries are disabled.
        """
        began, failures = time.monotonic(), 0
        while True:
            try:
                result = action()
            except DBAPIError as error:
                self._check(error, time.monotonic() - began, failures)
            else:
                if failures:
                    self.report(f"the ledger answers again after {time.monotonic() - began:.0f} s")
                return result
            failures += 1
            time.sleep(min(2.0, 0.05 * 2.0 ** min(failures, 6)) * random.uniform(0.5, 1.0))

    def _check(self, error: DBAPIError, waited: float, failures: int) -> None:
        """Raise unless the transaction is to be retried after `error`."""
        cause = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
        if is_disk_full(error):
            raise StorageError(
                f"ledger: can't be written ({cause}); free space there, then continue with "
                "`gaplab resume`"
            ) from error
        if not self.seconds or not is_transient(error):
            raise error
        if waited >= self.seconds:
            raise UserError(
                f"ledger: no answer for {waited:.0f} s ({cause}); check that the database is "
                "running, then continue with `gaplab resume`"
            ) from error
        if not failures:
            self.report(f"the ledger doesn't answer ({cause}); retrying for {self.seconds:.0f} s")


def is_transient(error: DBAPIError) -> bool:
    """Return whether the same transaction may succeed later."""
    if isinstance(error.orig, sqlite3.Error):
        return "locked" in str(error.orig) or "busy" in str(error.orig)
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    broken = state is None and type(error.orig).__name__ in ("OperationalError", "InterfaceError")
    return broken or str(state)[:2] in _TRANSIENT


def is_disk_full(error: DBAPIError) -> bool:
    """Return whether the disk of the database is full."""
    state = getattr(error.orig, "sqlstate", None)
    return state == _DISK_FULL or "database or disk is full" in str(error.orig)
