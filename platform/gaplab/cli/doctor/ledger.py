"""The ledger: reachable, with a schema that this gaplab supports, and stored safely.

A ledger in SQLite must lie on a local disk; a connection to PostgreSQL must be encrypted, and both
clocks must agree.
"""

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gaplab.cli.doctor.finding import Finding, ok, problem, warn
from gaplab.cli.doctor.network import is_loopback
from gaplab.errors import UserError
from gaplab.ledger.address import SQLITE, masked, parse_url
from gaplab.ledger.migrate import HEAD
from gaplab.ledger.readonly import SqliteFile
from gaplab.storage.home import Home

_TIMEOUT = 5  # seconds to wait for a connection
_SKEW = 5.0  # seconds
_SHARED = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs"),
        *("lustre", "gpfs", "beegfs", "ceph", "glusterfs", "ocfs2", "gfs2", "orangefs"),
        *("fuse.sshfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone"),
    }
)
"""File systems that several machines can share. They lack the shared memory that WAL needs."""


@dataclass(frozen=True)
class Sqlite:
    """Facts about a ledger in a file."""

    path: Path
    exists: bool
    filesystem: str  # its kind, "" if unknown
    version: str | None = None  # of the schema, None if there are no tables yet
    error: str = ""  # why the file cannot be read


@dataclass(frozen=True)
class Postgres:
    """Facts about a ledger in PostgreSQL; after an error only those that the URL contains."""

    host: str  # "" for a socket of this machine
    password: bool  # whether the URL contains one
    sslmode: str = "prefer"
    tls: bool = False
    version: str | None = None  # of the schema, None if there are no tables yet
    skew: float = 0.0  # seconds that the server's clock is ahead of this machine's
    error: str = ""  # why the server cannot be reached


def check_ledger(home: Home) -> list[Finding]:
    """Inspect and check the ledger that commands use with this home folder."""
    try:
        where = parse_url(home.ledger_url)
    except UserError as error:
        what, _, remedy = str(error).removeprefix("ledger: ").partition("; ")
        return [problem("ledger", f"{what} (GAPLAB_LEDGER)", remedy)]
    if where.drivername == SQLITE:
        return check_sqlite(inspect_sqlite(Path(where.database or "")))
    return check_postgres(inspect_postgres(home.ledger_url))


def inspect_sqlite(path: Path) -> Sqlite:
    """Return the facts about the file without changing it."""
    kind = filesystem(path.resolve(), mounts())
    if not path.exists():
        return Sqlite(path, False, kind)
    try:
        return Sqlite(path, True, kind, _sqlite_version(path))
    except sqlite3.Error as error:
        return Sqlite(path, True, kind, error=str(error))


def mounts() -> list[tuple[Path, str]]:
    """Return mount points and kinds of all file systems, the latest last."""
    return [(Path(each.mountpoint), each.fstype) for each in psutil.disk_partitions(all=True)]


def filesystem(path: Path, mounts: Iterable[tuple[Path, str]]) -> str:
    """Return the kind of file system that holds the absolute `path`, "" if unknown.

    The deepest mount point that contains the path decides, of equal ones the latest.
    """
    best, kind = Path(), ""
    for mountpoint, found in mounts:
        if path.is_relative_to(mountpoint) and len(mountpoint.parts) >= len(best.parts):
            best, kind = mountpoint, found
    return kind


def check_sqlite(ledger: Sqlite) -> list[Finding]:
    """Return findings about the file and the file system below it."""
    if ledger.error:
        what, remedy = f"{ledger.path}: {ledger.error}", "repair the file or restore a backup"
        found = problem("ledger", what, remedy)
    elif not ledger.exists:
        what = f"{ledger.path} does not exist yet; `gaplab run` creates it"
        found = ok("ledger", what)
    else:
        found = _check_version(str(ledger.path), ledger.version)
    return [found, _disk(ledger)]


def _sqlite_version(path: Path) -> str | None:
    """Return the schema version. Raises sqlite3.Error if the file is not a database."""
    tables = "SELECT 1 FROM sqlite_master WHERE name = 'gaplab_version'"
    with closing(SqliteFile(path).connect()) as connection:
        if connection.execute(tables).fetchone() is None:
            return None
        row = connection.execute("SELECT version_num FROM gaplab_version").fetchone()
    return None if row is None else str(row[0])


def _disk(ledger: Sqlite) -> Finding:
    if ledger.filesystem in _SHARED:
        what = f"SQLite can lose data on {ledger.filesystem}, which several machines can share"
        remedy = "keep --home on a local disk, or set GAPLAB_LEDGER to a PostgreSQL database"
        return problem("ledger's disk", what, remedy)
    return ok("ledger's disk", ledger.filesystem or "unknown file system")


def _check_version(where: str, version: str | None) -> Finding:
    if version is None:
        return ok("ledger", f"{where} is empty; `gaplab run` creates its tables")
    if version > HEAD:
        what = f"{where} has schema version {version}, but this gaplab supports only up to {HEAD}"
        return problem("ledger", what, "upgrade gaplab")
    later = "" if version == HEAD else f"; `gaplab upgrade` upgrades it to {HEAD}"
    return ok("ledger", f"{where}, schema version {version}{later}")


def inspect_postgres(url: str) -> Postgres:
    """Connect and return the facts without changing anything. Raises UserError as `parse_url`."""
    where = parse_url(url)
    scheme, _, rest = url.partition("://")
    dsn = f"{scheme.partition('+')[0]}://{rest}"  # without SQLAlchemy's name of the driver
    host, password = "", False
    try:
        parts = conninfo_to_dict(dsn)
        host, password = str(parts.get("host") or ""), bool(parts.get("password"))
        dsn = make_conninfo(dsn, connect_timeout=_TIMEOUT)
        with psycopg.connect(dsn, autocommit=True) as connection:
            return _connected(connection, host, password)
    except (psycopg.Error, UnicodeError) as error:  # the latter for a name that no host can have
        said = (str(error).strip() or "no reason").splitlines()[0]
        return Postgres(host, password, error=masked(said, where))


def _connected(connection: psycopg.Connection[Any], host: str, password: bool) -> Postgres:
    before = time.time()
    clock = float(_value(connection, "SELECT extract(epoch FROM clock_timestamp())"))
    skew = clock - (before + time.time()) / 2
    tables = _value(connection, "SELECT to_regclass('gaplab_version')")
    version = _value(connection, "SELECT version_num FROM gaplab_version") if tables else None
    info = connection.info
    sslmode = info.get_parameters().get("sslmode", "prefer")
    tls = bool(connection.pgconn.ssl_in_use)
    return Postgres(host or info.host, password, sslmode, tls, version, skew)


def _value(connection: psycopg.Connection[Any], query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def check_postgres(ledger: Postgres) -> list[Finding]:
    """Return findings about the connection, the schema, the password and the clock."""
    name = f"PostgreSQL at {ledger.host or 'a socket of this machine'}"
    if ledger.error:
        remedy = "start the server, or correct GAPLAB_LEDGER"
        return [*_password(ledger), problem("ledger", f"{name}: {ledger.error}", remedy)]
    version = _check_version(name, ledger.version)
    return [version, *_password(ledger), _encryption(ledger), _clock(ledger)]


def _password(ledger: Postgres) -> list[Finding]:
    if not ledger.password:
        return []
    what = "GAPLAB_LEDGER contains a password, which every process started from here inherits"
    remedy = "move it to a password file (~/.pgpass, mode 0600)"
    return [warn("ledger's password", what, remedy)]


def _encryption(ledger: Postgres) -> Finding:
    check = "ledger's encryption"
    if all(map(is_loopback, ledger.host.split(","))):
        return ok(check, "not needed: the connection stays on this machine")
    if not ledger.tls:
        what = f"the connection to {ledger.host} is not encrypted"
        remedy = "turn on TLS in the server and add ?sslmode=verify-full to GAPLAB_LEDGER"
        return problem(check, what, remedy)
    if ledger.sslmode not in ("verify-ca", "verify-full"):
        what = f"TLS, but sslmode={ledger.sslmode} does not verify the server's certificate"
        return warn(check, what, "add ?sslmode=verify-full to GAPLAB_LEDGER")
    return ok(check, f"TLS, sslmode={ledger.sslmode}")


def _clock(ledger: Postgres) -> Finding:
    direction = "ahead of" if ledger.skew > 0 else "behind"
    what = f"{abs(ledger.skew):.1f} s {direction} this machine's clock"
    if abs(ledger.skew) > _SKEW:
        remedy = "synchronise both clocks (NTP): leases and times of attempts depend on them"
        return warn("ledger's clock", what, remedy)
    return ok("ledger's clock", what)
