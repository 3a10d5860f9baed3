"""Where contracts of the ledger are tested: SQLite, and a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gaplab.ledger import Ledger


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for one empty ledger."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/home/ledger.db"
    schema: str = request.getfixturevalue("postgres_schema")
    return f"{schema}%20-csynchronous_commit%3Doff"  # no wait for the disk


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url) as ledger:
        yield ledger
