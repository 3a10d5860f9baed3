"""Open a database and upgrade its tables to the version that this gaplab knows.

The version is stored in a table with a name of its own, so that a ledger can share a PostgreSQL
database with another Alembic user such as MLflow.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnClause,
    Connection,
    Engine,
    Text,
    column,
    create_engine,
    event,
    func,
    inspect,
    select,
    table,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError

from gaplab.errors import UserError
from gaplab.ledger.address import SQLITE, masked, parse_url, shown
from gaplab.ledger.clock import add_clock

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0016"
"""The newest migration. Given here so that opening an up-to-date ledger does not import Alembic."""
VERSION_TABLE = "gaplab_version"
WRITE = "gaplab_write"
"""Execution option of connections that write: in SQLite they take the write lock at BEGIN."""
MIGRATE = "migrate"
"""Value of WRITE for connections that migrate. They switch foreign keys off: to change a table,
SQLite rebuilds it, which would delete the rows that refer to it."""
BUSY_SECONDS = 30.0
"""How long SQLite waits for another program's transaction."""
_MIGRATION_LOCK = 0x6761706C  # any number, the same in every release of gaplab


def open_engine(url: str, create: bool = True) -> Engine:
    """Connect to the ledger at `url` for writing, and upgrade it.

    Args:
        url: see `parse_url`.
        create: whether to create a SQLite file, with its folder, that does not exist.

    Raises:
        UserError: the URL is malformed, the database cannot be reached or is not a database, it
            does not exist and is not to be created, or it was written by a newer gaplab.
    """
    where = parse_url(url)
    sqlite = where.drivername == SQLITE
    engine = _sqlite_engine(where, create) if sqlite else postgresql_engine(where)
    with lasting_errors(engine):
        with engine.connect() as connection:
            current = read_version(connection)
        if current != HEAD:
            with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
                _upgrade(connection)
            engine.dispose()  # its connection does not check foreign keys
    return engine


@contextmanager
def lasting_errors(engine: Engine) -> Iterator[None]:
    """Dispose of the engine after an error. Errors of its driver become a UserError of one line."""
    where = engine.url
    try:
        yield
    except (DBAPIError, UnicodeError) as error:  # the latter for a name that no host can have
        engine.dispose()
        said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        cause = masked((said or type(error).__name__).splitlines()[0], where)
        if "readonly database" in cause:
            raise UserError(
                f"ledger {shown(where)}: can't be written (you have no permission); ask its owner"
            ) from error
        raise UserError(
            f"ledger {shown(where)}: {cause}; give the URL of a gaplab ledger, or of an empty "
            "database for a new one"
        ) from error
    except UserError:
        engine.dispose()
        raise


def alembic_config(connection: Connection) -> "Config":
    """Return a configuration with which Alembic's commands run on `connection`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    """Run the missing migrations. Drivers that open an empty database together take turns."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    current = read_version(connection)
    if current == HEAD:
        return
    from alembic import command

    check_known(current, connection.engine.url)
    command.upgrade(alembic_config(connection), "head")
    _check_references(connection)


def check_known(version: str | None, where: URL) -> None:
    """Raise UserError for a version of a newer gaplab; None is that of an empty database."""
    if version is not None and not (version.isdecimal() and int(version) <= int(HEAD)):
        raise UserError(
            f"ledger {shown(where)}: written by a newer gaplab (version {version}, this one knows "
            f"up to {HEAD}); upgrade gaplab"
        )


def _check_references(connection: Connection) -> None:
    """Raise RuntimeError if a migration of a SQLite file left a dangling reference."""
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            raise RuntimeError(f"migration broke a reference: {tuple(broken)}")


def read_version(connection: Connection) -> str | None:
    """Return the version of the ledger's tables; None for a database without them."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: ColumnClause[str] = column("version_num", Text)
    return connection.execute(select(version).select_from(table(VERSION_TABLE))).scalar()


def postgresql_engine(where: URL) -> Engine:
    """Create an engine that replaces connections which the server has dropped while idle."""
    engine = create_engine(where)
    event.listen(engine, "checkin", _record_idle)
    event.listen(engine, "checkout", _check_idle)
    return engine


_TRUSTED = 1.0
"""Seconds for which an idle connection is not checked: a check costs as much as a write."""


def _record_idle(_connection: Any, record: Any) -> None:
    record.info["idle since"] = time.monotonic()


def _check_idle(connection: Any, record: Any, _fairy: Any) -> None:
    """Check a connection that has been idle for long. Raises DisconnectionError if it is broken."""
    if time.monotonic() - record.info.get("idle since", float("inf")) > _TRUSTED:
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise DisconnectionError from error


def _sqlite_engine(where: URL, create: bool) -> Engine:
    """Create an engine that emits BEGIN and COMMIT itself instead of Python's sqlite3 module."""
    path = Path(where.database or "")
    if not create and not path.exists():
        raise UserError(f"ledger {shown(where)}: no such file; correct the URL")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"ledger {shown(where)}: its folder can't be created ({error.strerror}); choose a "
            "folder you can write to"
        ) from error
    engine = create_engine(where, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None
    add_clock(connection)
    _enter_wal(connection)
    for pragma in ("synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode. Retries, because SQLite's busy timeout does not cover this change."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITE, False)
    if writes == MIGRATE:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
