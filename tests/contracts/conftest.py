"""Ledgers for the tests of their contract: each runs on SQLite and on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gaplab.ledger import Ledger
from gaplab.records import Claim
from tests.builders import MACHINE, driver_record, sweep_record, trial_record


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/home/ledger.db"
    schema: str = request.getfixturevalue("postgres_schema")
    return f"{schema}%20-csynchronous_commit%3Doff"  # does not wait for the disk


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """An empty ledger."""
    with Ledger.open(url) as ledger:
        yield ledger


@pytest.fixture
def started(ledger: Ledger) -> tuple[Ledger, int]:
    """A ledger with sweep s1 of trials t1 and t2, and the id of t1's running attempt."""
    ledger.add_sweep(sweep_record("s1", trial_record("t1"), trial_record("t2", seed=1)))
    return ledger, ledger.start_attempt(Claim("t1", "s1", machine=MACHINE))


@pytest.fixture
def two(ledger: Ledger) -> Ledger:
    """A ledger with sweeps s1 (t1, t2, t3) and s2 (t1), and drivers d1 and d2 of s1."""
    ledger.add_sweep(sweep_record("s1", *(trial_record(f"t{n}") for n in (1, 2, 3))))
    ledger.add_sweep(sweep_record("s2", trial_record("t1")))
    ledger.add_driver(driver_record("d1"), 60.0)
    ledger.add_driver(driver_record("d2", node="größe", priority=-5), 60.0)
    return ledger
