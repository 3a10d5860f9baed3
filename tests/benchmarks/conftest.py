"""Fixtures of the benchmarks: a ledger that waits for the disk, and trials that train nothing."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from gaplab.cli import COLLECT_AFTER


@pytest.fixture(autouse=True)
def garbage() -> Iterator[None]:
    """Search for garbage as seldom as a command of gaplab does."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER)
    yield
    gc.set_threshold(*before)


@pytest.fixture(scope="session")
def noop(load: Callable[[Path], ModuleType]) -> ModuleType:
    """Return the module `noop.py`: a driver of trials that train nothing."""
    return load(Path(__file__).with_name("noop.py"))


@pytest.fixture
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that gives the URL of an empty ledger; its database waits for the disk."""

    def url(database: str) -> str:
        if database == "SQLite":
            return f"sqlite:///{tmp_path}/home/ledger.db"
        return f"{request.getfixturevalue('postgres_schema')}%20-csynchronous_commit%3Don"

    return url
