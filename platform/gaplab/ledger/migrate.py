"""Opening a database and bringing its tables to the version this gaplab knows.

The version is kept in a table of our own name, so that a ledger can share a PostgreSQL database
with another Alembic user such as MLflow.
"""

import sqlite3
import time
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
    make_url,
    select,
    table,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError

from gaplab.errors import UserError
from gaplab.ledger.clock import give_clock

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0003"
"""The newest migration. Known here so that opening an up-to-date ledger need not import Alembic."""
VERSION_TABLE = "gaplab_version"
WRITE = "gaplab_write"
"""Execution option of connections that write: on SQLite they take the write lock at BEGIN."""
MIGRATE = "migrate"
"""Value of WRITE for connections that migrate: SQLite rebuilds a table to change it, and would
delete what refers to its rows."""
_FORMS = "sqlite:////folder/ledger.db or postgresql+psycopg://user@host/database"
_PATIENCE = 30.0  # seconds to wait for another program's transaction
_LOCK = 0x6761706C  # any fixed number, the same in every gaplab


def open_engine(url: str) -> Engine:
    """Connect to the ledger at `url` and upgrade it; a SQLite file is created with its folder.

    Raises UserError when the URL is unusable, the database can't be reached or isn't one, or was
    written by a newer gaplab.
    """
    where = _parse(url)
    engine = _sqlite(where) if where.get_backend_name() == "sqlite" else _postgresql(where)
    try:
        with engine.connect() as connection:
            current = _version(connection)
        if current != HEAD:
            with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
                _upgrade(connection)
            engine.dispose()  # what migrates doesn't watch foreign keys
    except DBAPIError as error:
        engine.dispose()
        cause = str(error.orig).strip().splitlines()[0]
        raise UserError(
            f"ledger {where.render_as_string()}: {cause}; give the URL of a gaplab ledger, or of "
            "an empty database for a new one"
        ) from error
    except UserError:
        engine.dispose()
        raise
    return engine


def alembic_config(connection: Connection) -> "Config":
    """Alembic's configuration, built in code; commands run on `connection`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    """Run the missing migrations; drivers that open an empty database together take turns."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    current = _version(connection)
    if current == HEAD:
        return
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config(connection)
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    if current is not None and current not in known:
        raise UserError(
            f"ledger {connection.engine.url.render_as_string()}: written by a newer gaplab "
            f"(version {current}, this one knows up to {HEAD}); upgrade gaplab"
        )
    command.upgrade(config, "head")
    _check_keys(connection)


def _check_keys(connection: Connection) -> None:
    """Raise where a migration of a SQLite file left a row that refers to nothing."""
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            raise RuntimeError(f"migration broke a reference: {tuple(broken)}")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: ColumnClause[str] = column("version_num", Text)
    return connection.execute(select(version).select_from(table(VERSION_TABLE))).scalar()


def _parse(url: str) -> URL:
    try:
        where = make_url(url)
    except ArgumentError:
        raise UserError(f"ledger: its address is not a database URL; write {_FORMS}") from None
    backend = where.get_backend_name()
    if backend == "sqlite" and where.database and where.database != ":memory:":
        return where.set(drivername="sqlite")
    if backend == "postgresql":
        return where.set(drivername="postgresql+psycopg")
    shown = where.render_as_string()
    raise UserError(f"ledger {shown}: not a SQLite file or a PostgreSQL; write {_FORMS}")


def _postgresql(where: URL) -> Engine:
    """An engine that notices when the server dropped an idle connection."""
    engine = create_engine(where)
    event.listen(engine, "checkin", _note)
    event.listen(engine, "checkout", _ping)
    return engine


_TRUSTED = 1.0
"""Seconds for which an idle connection is held for alive: a ping costs as much as a write."""


def _note(_connection: Any, record: Any) -> None:
    record.info["idle since"] = time.monotonic()


def _ping(connection: Any, record: Any, _fairy: Any) -> None:
    """A connection that was idle for long may be dead; one just used tells so in its own time."""
    if time.monotonic() - record.info.get("idle since", float("inf")) > _TRUSTED:
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise DisconnectionError from error


def _sqlite(where: URL) -> Engine:
    """An engine whose transactions are SQLite's own BEGIN and COMMIT, not the driver's guess."""
    try:
        Path(where.database or "").parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"ledger {where}: {error}; choose a folder you can write to") from error
    engine = create_engine(where, connect_args={"timeout": _PATIENCE})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None
    give_clock(connection)
    _enter_wal(connection)
    for pragma in ("synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _enter_wal(connection: sqlite3.Connection) -> None:
    """SQLite's own time-out doesn't cover a change of journal mode: several openers wait here."""
    deadline = time.monotonic() + _PATIENCE
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
