"""The clock of a ledger: the same for every driver that shares the database server."""

import sqlite3
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Text, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from gaplab.ledger.models import UtcDateTime

_NAME = "gaplab_now"


class Clock(FunctionElement[datetime]):
    """SQL expression for the current time: the server's, or this machine's for a SQLite file."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(Clock, "postgresql")
def _compile_postgresql(_element: Clock, _compiler: SQLCompiler, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(Clock, "sqlite")
def _compile_sqlite(_element: Clock, _compiler: SQLCompiler, **_: Any) -> str:
    return f"{_NAME}()"


class UtcText(FunctionElement[str]):
    """A column of `UtcDateTime` as text without a time zone: `2026-01-02 03:04:05.000678`."""

    type = Text()
    inherit_cache = True


@compiles(UtcText)
def _stored_text(element: UtcText, compiler: SQLCompiler, **options: Any) -> str:
    """Return the column: SQLite stores this text."""
    return compiler.process(element.clauses, **options)


@compiles(UtcText, "postgresql")
def _formatted_text(element: UtcText, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"


def add_clock(connection: sqlite3.Connection) -> None:
    """Define the function that `Clock` calls in SQLite; it returns text as SQLAlchemy writes it."""
    connection.create_function(_NAME, 0, lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"))


def now(connection: Connection) -> datetime:
    """Return the ledger's time, in UTC."""
    return connection.execute(_NOW).scalar_one()


_NOW = select(Clock())
