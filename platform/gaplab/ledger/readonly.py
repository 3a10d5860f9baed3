"""Open a ledger for reading only: nothing is created, locked or upgraded.

SQLite in WAL mode needs the files `-wal` and `-shm` beside the database. While a program has the
ledger open for writing they are there, and a reader uses them. When no program has, they are not,
and SQLite would have to create them, which leaves files behind and fails without the permission to
write. The file is then read as immutable: without locks. `SqliteFile.read` repeats a read during
which the file has changed.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, StaticPool, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from gaplab.errors import UserError
from gaplab.ledger.address import SQLITE, parse_url, shown
from gaplab.ledger.clock import add_clock
from gaplab.ledger.migrate import (
    BUSY_SECONDS,
    HEAD,
    check_known,
    lasting_errors,
    postgresql_engine,
    read_version,
)
from gaplab.ledger.models import Base

T = TypeVar("T")


class OutdatedError(UserError):
    """The ledger was written by an older gaplab and has to be upgraded before it can be read."""


class _State(NamedTuple):
    """What changes when a SQLite database is written."""

    wal: bool  # whether a program has it open for writing, or has crashed while it had
    changed: int  # in nanoseconds
    size: int


class SqliteFile:
    """A SQLite database that is only read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def connect(self) -> sqlite3.Connection:
        """Connect without creating a file. Raises sqlite3.Error."""
        options = "mode=ro" if self.state.wal else "mode=ro&immutable=1"
        address = f"file:{quote(str(self._path))}?{options}"
        connection = sqlite3.connect(address, BUSY_SECONDS, uri=True, check_same_thread=False)
        connection.isolation_level = None
        add_clock(connection)
        return connection

    def read(self, action: Callable[[], T]) -> T:
        """Run `action`, one transaction, again if a program has changed the file meanwhile."""
        while True:
            before = self.state
            try:
                result = action()
            except DBAPIError:
                if not self._has_changed(before):
                    raise
            else:
                if not self._has_changed(before):
                    return result

    def check_unchanged(self, before: _State) -> None:
        """Raise UserError if what was read since then may be a mixture of two states."""
        if self._has_changed(before):
            raise UserError(
                f"ledger {self._path}: has changed while it was read; run the command again"
            )

    @property
    def state(self) -> _State:
        """The state of the file now, to compare with a later one."""
        try:
            found = self._path.stat()
        except OSError:
            return _State(False, 0, 0)
        return _State(os.path.exists(f"{self._path}-wal"), found.st_mtime_ns, found.st_size)

    def _has_changed(self, before: _State) -> bool:
        after = self.state  # with a -wal, SQLite itself gives each transaction a snapshot
        return before != after and not (before.wal and after.wal)


def open_readonly(url: str) -> tuple[Engine, SqliteFile | None]:
    """Connect to the ledger at `url`, which exists and has the schema of this gaplab.

    Returns:
        The engine, and the file of a SQLite ledger.

    Raises:
        UserError: the URL is malformed, or there is no ledger there that can be read.
        OutdatedError: it was written by an older gaplab.
    """
    where = parse_url(url)
    file = None
    if where.drivername == SQLITE:
        file = SqliteFile(Path(where.database or ""))
        engine = _sqlite_engine(where, file)
    else:
        engine = postgresql_engine(where).execution_options(postgresql_readonly=True)
    with lasting_errors(engine), engine.connect() as connection:
        _check_version(connection, where)
    return engine, file


def empty_engine() -> Engine:
    """Return the engine of a ledger in memory that holds nothing."""
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    event.listen(engine, "connect", lambda connection, _record: add_clock(connection))
    Base.metadata.create_all(engine)
    return engine


def _sqlite_engine(where: URL, file: SqliteFile) -> Engine:
    """Create an engine that connects anew for each transaction: the right way may change."""
    path = where.database or ""
    if not os.path.exists(path):
        raise UserError(
            f"ledger {shown(where)}: no such file; correct the URL, or start a sweep with it"
        )
    if not os.access(path, os.R_OK):
        raise UserError(f"ledger {path}: can't be read (Permission denied); ask its owner")
    engine = create_engine(where, creator=file.connect, poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _check_version(connection: Connection, where: URL) -> None:
    """Raise UserError unless the ledger has the schema of this gaplab."""
    current = read_version(connection)
    if current is None:
        raise UserError(f"ledger {shown(where)}: holds no ledger; start a sweep with it")
    if current != HEAD:
        check_known(current, where)
        raise OutdatedError(
            f"ledger {shown(where)}: of an older gaplab (version {current}, this one reads "
            f"{HEAD}); somebody who may write to it upgrades it with: gaplab upgrade"
        )
