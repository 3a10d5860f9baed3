"""The URL of a ledger: checked, and shown in messages without its secrets."""

import re
from pathlib import PurePosixPath

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from gaplab.errors import UserError

SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
_DRIVERS = {
    SQLITE: SQLITE,
    "sqlite+pysqlite": SQLITE,
    "postgresql": POSTGRESQL,
    "postgres": POSTGRESQL,
    POSTGRESQL: POSTGRESQL,
}
"""Scheme of a URL -> SQLAlchemy's name of the driver that is used."""
_FORMS = "sqlite:////folder/ledger.db or postgresql+psycopg://user@host/database"
_SHOWN = frozenset(
    {
        *("host", "hostaddr", "port", "dbname", "user", "service", "application_name", "options"),
        *("connect_timeout", "sslmode", "sslrootcert", "target_session_attrs", "gssencmode"),
    }
)
"""Options in a URL's query whose values are printed; all others may be secrets."""
_HIDDEN = "***"


def parse_url(url: str) -> URL:
    """Return the URL with the driver that gaplab uses.

    Args:
        url: `sqlite:////folder/ledger.db`, in which special characters of the path are escaped
            (`?` as `%3F`), or `postgresql+psycopg://user@host/database`.

    Raises:
        UserError: the URL is malformed or names another kind of database. No secret is shown.
    """
    try:
        where = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is not a number
        raise UserError(f"ledger: its URL is malformed; write {_FORMS}") from None
    if _is_split_wrong(where):
        what = "a special character in its URL is not escaped (write @ as %40, options after ?)"
        raise UserError(f"ledger: {what}; write {_FORMS}")
    driver = _DRIVERS.get(where.drivername)
    if driver is None:
        problem = "not a SQLite file or a PostgreSQL through psycopg"
    elif driver == SQLITE:
        problem = _sqlite_problem(where, has_options="?" in url)
    else:
        problem = _postgresql_problem(where)
    if driver is None or problem:
        raise UserError(f"ledger {shown(where)}: {problem}; write {_FORMS}")
    return where.set(drivername=driver)


def shown(where: URL) -> str:
    """Return the URL for messages: without its password and without options that may be secret."""
    hidden = where.update_query_dict({key: _HIDDEN for key in where.query if key not in _SHOWN})
    return hidden.render_as_string().replace("%2A%2A%2A", _HIDDEN)


def masked(text: str, where: URL) -> str:
    """Return a message of a database driver with the secrets of the URL replaced by `***`."""
    secrets = [str(where.password or "")]
    for key, values in where.normalized_query.items():
        secrets += values if key not in _SHOWN else ()
    for secret in filter(None, secrets):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _HIDDEN, text)
    return text


def _is_split_wrong(where: URL) -> bool:
    """Return whether a part of the URL probably contains another one, which may be the password."""
    host, database = where.host or "", where.database or ""
    options = "=" in database and "&" in database and where.get_backend_name() != SQLITE
    return any(each in host for each in "@= ") or options


def _sqlite_problem(where: URL, has_options: bool) -> str:
    """Return what is wrong with the URL of a file; empty if nothing is."""
    if has_options:
        return "a SQLite file takes no options (a ? that belongs to its path is written %3F)"
    if where.host or not where.database or where.database == ":memory:":
        return "not the path of a file"
    if not PurePosixPath(where.database).is_absolute():
        return "its path is relative, so it would change with the working directory"
    return ""


def _postgresql_problem(where: URL) -> str:
    """Return what is wrong with the URL of a server; empty if nothing is."""
    if where.database or {"dbname", "service"} & set(where.query):
        return ""
    return "it names no database"
