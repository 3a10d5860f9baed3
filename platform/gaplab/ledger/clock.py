"""One clock for all that share a ledger."""

import sqlite3
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from gaplab.ledger.models import UtcDateTime

_NAME = "gaplab_now"


class Clock(FunctionElement[datetime]):
    """The database server's time; where the database is a file, this machine's."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(Clock, "postgresql")
def _server(_element: Clock, _compiler: SQLCompiler, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(Clock, "sqlite")
def _file(_element: Clock, _compiler: SQLCompiler, **_: Any) -> str:
    return f"{_NAME}()"


def give_clock(connection: sqlite3.Connection) -> None:
    """Teach SQLite the time, written as SQLAlchemy does."""
    connection.create_function(_NAME, 0, lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"))


def now(connection: Connection) -> datetime:
    """The time of the ledger's clock, in UTC."""
    return connection.execute(_NOW).scalar_one()


_NOW = select(Clock())
