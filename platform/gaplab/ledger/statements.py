"""INSERT statements with ON CONFLICT clauses, which SQLite and PostgreSQL both have."""

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from gaplab.ledger.models import Base


def insert_of(dialect: str, table: Table | type[Base]) -> sqlite.Insert | postgresql.Insert:
    """Return the INSERT of a dialect, which has ON CONFLICT clauses."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def insert_new(connection: Connection, table: type[Base], values: list[dict[str, Any]]) -> None:
    """Insert the rows whose keys are new."""
    if values:
        query = insert_of(connection.dialect.name, table).on_conflict_do_nothing()
        connection.execute(query, values)
