"""Give empty databases the tables of the ledger quickly: migrations take most of a test's time."""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, event, func, inspect, select

from gaplab.ledger import migrate
from gaplab.ledger.migrate import VERSION_TABLE

READING = ("SELECT", "PRAGMA")
Script = list[tuple[str, Any]]
"""Statements and their values."""


class QuickUpgrade:
    """Stands for `migrate._upgrade`; gives each other empty database what the first one has.

    Args:
        real: the function, which upgrades all other databases.
    """

    def __init__(self, real: Callable[[Connection], None]) -> None:
        self.real = real
        self._scripts: dict[str, Script] = {}

    def __call__(self, connection: Connection) -> None:
        dialect = connection.dialect.name
        if dialect == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(migrate._MIGRATION_LOCK)))
        if inspect(connection).has_table(VERSION_TABLE):
            self.real(connection)
        elif dialect in self._scripts:
            cursor = connection.connection.cursor()
            for statement, values in self._scripts[dialect]:
                cursor.execute(statement, values)
            cursor.close()
        elif dialect == "postgresql":
            self._scripts[dialect] = list(joined(self._recorded(connection)))
        else:
            self.real(connection)
            self._scripts[dialect] = list(contents(connection))

    def _recorded(self, connection: Connection) -> Script:
        """Upgrade an empty database; return the statements that wrote, with their values."""
        found: Script = []

        def note(_on: Any, _cursor: Any, statement: str, values: Any, *_more: Any) -> None:
            if not statement.lstrip().upper().startswith(READING):
                found.append((statement, values))

        event.listen(connection, "before_cursor_execute", note)
        try:
            self.real(connection)
        finally:
            event.remove(connection, "before_cursor_execute", note)
        return found


def joined(script: Script) -> Iterator[tuple[str, Any]]:
    """Join statements without values, which PostgreSQL takes together."""
    for has_values, group in groupby(script, key=lambda each: bool(each[1])):
        if has_values:
            yield from group
        else:
            yield ";".join(statement.replace("%%", "%") for statement, _ in group), None


def contents(connection: Connection) -> Iterator[tuple[str, Any]]:
    """Yield statements that make the tables, indexes, views and rows of a file of SQLite."""
    own = "SELECT name, sql FROM sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'sqlite_%'"
    made = connection.exec_driver_sql(f"{own} ORDER BY type <> 'table', rowid").all()
    yield from ((str(sql), ()) for _, sql in made)
    yield from (("ANALYZE", ()), ("DELETE FROM sqlite_stat1", ()))
    for table in (*inspect(connection).get_table_names(), "sqlite_stat1"):
        for row in connection.exec_driver_sql(f"SELECT * FROM {table}"):
            yield f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", tuple(row)
