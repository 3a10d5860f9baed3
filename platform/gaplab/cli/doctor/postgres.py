"""A ledger in PostgreSQL: reachable, encrypted on the way, and with the same time."""

import time
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gaplab.cli.doctor.finding import Finding
from gaplab.cli.doctor.hosts import is_loopback
from gaplab.cli.doctor.revision import check_version

_PATIENCE = 5  # seconds
_SKEW = 5.0  # seconds


@dataclass(frozen=True)
class Postgres:
    """host: "" for a socket of this machine; password: it stands in the address; tls: encrypted.

    version: of the tables, None where there are none; skew: seconds that its clock is ahead of
    ours; error: why it can't be reached, and then the last four mean nothing.
    """

    host: str
    password: bool
    sslmode: str = "prefer"
    tls: bool = False
    version: str | None = None
    skew: float = 0.0
    error: str = ""


def look(url: str) -> Postgres:
    """What a connection tells; it changes nothing."""
    try:
        parts = conninfo_to_dict(_libpq(url))
    except psycopg.Error as error:
        return Postgres("", password=False, error=_line(error))
    host, password = str(parts.get("host") or ""), bool(parts.get("password"))
    try:
        return _connected(url, host, password)
    except psycopg.Error as error:
        return Postgres(host, password, error=_line(error))


def check_postgres(found: Postgres) -> list[Finding]:
    """Password, connection, and what only a connection tells."""
    name = f"PostgreSQL at {found.host or 'a socket of this machine'}"
    if found.error:
        remedy = "start it, or correct GAPLAB_LEDGER"
        return [*_password(found), Finding("problem", "ledger", f"{name}: {found.error}", remedy)]
    return [check_version(name, found.version), *_password(found), _tls(found), _clock(found)]


def _password(found: Postgres) -> list[Finding]:
    if not found.password:
        return []
    what = "GAPLAB_LEDGER holds a password, which every process started from here inherits"
    remedy = "put it into a passfile (~/.pgpass, mode 0600) and leave it out of the address"
    return [Finding("warn", "ledger's password", what, remedy)]


def _tls(found: Postgres) -> Finding:
    check = "ledger's encryption"
    if all(map(is_loopback, found.host.split(","))):
        return Finding("ok", check, "not needed: it doesn't leave this machine")
    if not found.tls:
        what = f"the connection to {found.host} is not encrypted"
        remedy = "turn TLS on in the server and add ?sslmode=verify-full to GAPLAB_LEDGER"
        return Finding("problem", check, what, remedy)
    if found.sslmode not in ("verify-ca", "verify-full"):
        what = f"TLS, but sslmode={found.sslmode} takes any server's word for who it is"
        return Finding("warn", check, what, "add ?sslmode=verify-full to GAPLAB_LEDGER")
    return Finding("ok", check, f"TLS, sslmode={found.sslmode}")


def _clock(found: Postgres) -> Finding:
    ahead = "ahead of" if found.skew > 0 else "behind"
    what = f"{abs(found.skew):.1f} s {ahead} this machine's"
    if abs(found.skew) > _SKEW:
        remedy = "synchronise both clocks (NTP): leases and times of attempts depend on them"
        return Finding("warn", "ledger's clock", what, remedy)
    return Finding("ok", "ledger's clock", what)


def _connected(url: str, host: str, password: bool) -> Postgres:
    text = make_conninfo(_libpq(url), connect_timeout=_PATIENCE)
    with psycopg.connect(text, autocommit=True) as connection:
        before = time.time()
        clock = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
        middle = (before + time.time()) / 2
        table = connection.execute("SELECT to_regclass('gaplab_version') IS NOT NULL").fetchone()
        version = None
        if table and table[0]:
            version = connection.execute("SELECT version_num FROM gaplab_version").fetchone()
        return Postgres(
            host,
            password,
            sslmode=_option(connection, "sslmode"),
            tls=bool(connection.pgconn.ssl_in_use),
            version=str(version[0]) if version else None,
            skew=float(clock[0]) - middle if clock else 0.0,
        )


def _option(connection: "psycopg.Connection[tuple[object, ...]]", name: str) -> str:
    """A setting of the connection, defaults and PG* variables included."""
    found = {each.keyword.decode(): each.val for each in connection.pgconn.info}
    value = found.get(name)
    return value.decode() if value else ""


def _libpq(url: str) -> str:
    """SQLAlchemy's form of the address as libpq reads it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
