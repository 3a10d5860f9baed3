"""The ledger: reachable, of a version this gaplab knows, and safe where it lies."""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gaplab.cli.doctor.finding import Finding
from gaplab.cli.doctor.mounts import NETWORK, filesystem, mounted
from gaplab.cli.doctor.postgres import check_postgres
from gaplab.cli.doctor.postgres import look as look_at_postgres
from gaplab.cli.doctor.revision import check_version

_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Sqlite:
    """A ledger in a file. version: None where there are no tables yet; error: why it can't be read.

    kind: of the file system.
    """

    path: Path
    exists: bool
    kind: str
    version: str | None = None
    error: str = ""


def ledger_findings(home: Path) -> list[Finding]:
    """Findings about the ledger that commands with this home folder use. Makes and changes nothing.

    Its address is that of `Home.ledger_url`, which makes the folder.
    """
    url = os.environ.get("GAPLAB_LEDGER") or f"{_SQLITE}{home / 'ledger.db'}"
    if url.startswith(_SQLITE):
        return check_sqlite(look(Path(url.removeprefix(_SQLITE)).absolute()))
    if url.startswith("postgresql"):
        return check_postgres(look_at_postgres(url))
    forms = "sqlite:////folder/ledger.db or postgresql+psycopg://user@host/database"
    return [Finding("problem", "ledger", "GAPLAB_LEDGER is no address of one", f"write {forms}")]


def look(path: Path) -> Sqlite:
    """The file as it is, read without changing it."""
    kind = filesystem(path.resolve(), mounted())
    if not path.exists():
        return Sqlite(path, False, kind)
    try:
        return Sqlite(path, True, kind, _version(path))
    except sqlite3.Error as error:
        return Sqlite(path, True, kind, error=str(error))


def check_sqlite(found: Sqlite) -> list[Finding]:
    """Readable, of a known version, on a disk of this machine."""
    return [_readable(found), _disk(found)]


def _readable(found: Sqlite) -> Finding:
    if found.error:
        remedy = "mend it or bring it back from a copy"
        return Finding("problem", "ledger", f"{found.path}: {found.error}", remedy)
    if not found.exists:
        return Finding("ok", "ledger", f"{found.path} is not there yet; the first command makes it")
    return check_version(str(found.path), found.version)


def _disk(found: Sqlite) -> Finding:
    if found.kind in NETWORK:
        what = f"SQLite on {found.kind}, which several machines may share, can be damaged"
        remedy = "keep --home on a disk of this machine, or set GAPLAB_LEDGER to a PostgreSQL"
        return Finding("problem", "ledger's disk", what, remedy)
    return Finding("ok", "ledger's disk", found.kind or "of an unknown kind")


def _version(path: Path) -> str | None:
    """Raises sqlite3.Error where it is no database."""
    tables = "SELECT 1 FROM sqlite_master WHERE name = 'gaplab_version'"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", 5, uri=True)) as connection:
        if connection.execute(tables).fetchone() is None:
            return None
        row = connection.execute("SELECT version_num FROM gaplab_version").fetchone()
    return None if row is None else str(row[0])
