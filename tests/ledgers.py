"""Give empty databases the tables of the ledger quickly: migrations take most of a test's time."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event, func, inspect, select

from gaplab.ledger import migrate
from gaplab.ledger.migrate import VERSION_TABLE

READING = ("SELECT", "PRAGMA")


class QuickUpgrade:
    """Stands for `migrate._upgrade`; runs its statements again for each other empty database.

    Args:
        real: the function, which upgrades all other databases.
    """

    def __init__(self, real: Callable[[Connection], None]) -> None:
        self.real = real
        self._statements: dict[str, list[tuple[str, Any]]] = {}

    def __call__(self, connection: Connection) -> None:
        dialect = connection.dialect.name
        if dialect == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(migrate._MIGRATION_LOCK)))
        if inspect(connection).has_table(VERSION_TABLE):
            self.real(connection)
        elif dialect in self._statements:
            for statement, values in self._statements[dialect]:
                connection.exec_driver_sql(statement, values or None)
        else:
            self._statements[dialect] = self._recorded(connection)

    def _recorded(self, connection: Connection) -> list[tuple[str, Any]]:
        """Upgrade an empty database; return the statements that wrote, with their values."""
        found: list[tuple[str, Any]] = []

        def note(_on: Any, _cursor: Any, statement: str, values: Any, *_more: Any) -> None:
            if not statement.lstrip().upper().startswith(READING):
                found.append((statement, values))

        event.listen(connection, "before_cursor_execute", note)
        try:
            self.real(connection)
        finally:
            event.remove(connection, "before_cursor_execute", note)
        return found
