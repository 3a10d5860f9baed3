"""Statistics of a SQLite file, by which it chooses indexes. PostgreSQL keeps its own by itself."""

from contextlib import suppress

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

LEAST = 1000
"""Number of evaluations below which every choice is fast."""
_GROWTH = 2
_SOME = text("SELECT count(*) FROM (SELECT 1 FROM evaluation LIMIT :least)")
_ROWS = text("SELECT max(rowid) FROM evaluation")
_KNOWN = text("SELECT max(CAST(stat AS INTEGER)) FROM sqlite_stat1 WHERE tbl = 'evaluation'")


def refresh(reading: Engine, writing: Engine) -> None:
    """Refresh the statistics of a ledger that has grown to twice its size since the last time.

    Takes milliseconds, because few rows of each index are read. A ledger that can't be written
    keeps the old ones: they change no result.

    Args:
        reading: connects to the database.
        writing: connects to it for writing.
    """
    if reading.dialect.name != "sqlite":
        return
    with suppress(DBAPIError):
        if _has_grown(reading):
            with writing.begin() as connection:
                connection.execute(text("PRAGMA analysis_limit = 400"))
                connection.execute(text("ANALYZE"))


def _has_grown(reading: Engine) -> bool:
    with reading.connect() as connection:
        if connection.execute(_SOME, {"least": LEAST}).scalar_one() < LEAST:
            return False
        known = connection.execute(_KNOWN).scalar_one() or 0
        return bool(connection.execute(_ROWS).scalar_one() >= _GROWTH * known)
