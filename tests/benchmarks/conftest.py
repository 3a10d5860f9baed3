"""What benches of the ledger share: databases that wait for the disk, and no-op trials."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def noop(load: Callable[[Path], ModuleType]) -> ModuleType:
    """`noop.py`: a driver of trials that train nothing."""
    return load(Path(__file__).with_name("noop.py"))


@pytest.fixture
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """The URL of an empty ledger in SQLite, or in a PostgreSQL that waits for its disk."""

    def url(database: str) -> str:
        if database == "SQLite":
            return f"sqlite:///{tmp_path}/home/ledger.db"
        return f"{request.getfixturevalue('postgres_schema')}%20-csynchronous_commit%3Don"

    return url
