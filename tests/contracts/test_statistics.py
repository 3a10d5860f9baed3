"""Statistics of a SQLite ledger, by which it chooses indexes."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from gaplab.ledger import Ledger, statistics
from gaplab.ledger.queries import Query
from gaplab.ledger.selection import Selection
from gaplab.ledger.views import RowFilter
from gaplab.records import Claim
from tests.builders import MACHINE, evaluation_record, sweep_record, trial_record


def known(path: Path) -> int:
    """Return the number of evaluations according to the statistics; 0 without any."""
    with sqlite3.connect(path) as connection:
        query = "SELECT max(CAST(stat AS INTEGER)) FROM sqlite_stat1 WHERE tbl = 'evaluation'"
        return connection.execute(query).fetchone()[0] or 0


def write(path: Path, *epochs: int) -> None:
    """Add evaluations of these epochs and close the ledger."""
    with Ledger.open(f"sqlite:///{path}") as ledger:
        ledger.add_sweep(sweep_record("s1", trial_record()))
        attempt = ledger.start_attempt(Claim("t1", "s1", machine=MACHINE, token="a"))
        for epoch in epochs:
            ledger.record(evaluation_record(epoch=epoch), attempt)


def test_they_are_refreshed_when_a_large_ledger_has_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "LEAST", 3)
    path = tmp_path / "ledger.db"
    for epochs, expected in (((1, 2), 0), ((3,), 3), ((4, 5), 3), ((6,), 6)):
        write(path, *epochs)
        assert known(path) == expected


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with one evaluation, in which SQLite plans as in one with many."""
    found = tmp_path / "ledger.db"
    write(found, 1)
    return found


def steps_of(path: Path, make: Callable[[Selection], Query]) -> list[str]:
    """Return the steps of the plan of a query."""
    with Ledger.open(f"sqlite:///{path}") as ledger, ledger._engine.connect() as connection:
        compiled = make(Selection(connection, RowFilter())).compile(
            connection, compile_kwargs={"render_postcompile": True}
        )
        values = tuple(compiled.params[name] for name in compiled.positiontup or ())
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", values).all()
    return [str(row[-1]) for row in plan]


def test_varied_keys_are_found_by_section(path: Path) -> None:
    """One trial of each section is enough, so nothing reads all trials."""
    steps = steps_of(path, lambda selection: selection._sections())
    own = [step for step in steps if " trial_section " in step]
    assert own
    assert all("ix_trial_section_section_id_trial_id (section_id=?)" in step for step in own)
    others = [step for step in steps if " chosen_evaluation " in step]
    assert others
    assert all("(trial_id=?" in step for step in others)


def test_groups_are_computed_from_an_index_alone(path: Path) -> None:
    """Not from the rows of the table, which an order by AP reads at random places."""
    steps = steps_of(path, lambda selection: selection.grouping(["assignment"]).query())
    assert steps[1].startswith(
        "SEARCH chosen_evaluation USING COVERING INDEX ix_chosen_evaluation_grouped"
    )
    assert steps.index("SCAN parts") < steps.index("USE TEMP B-TREE FOR GROUP BY")  # few rows


def test_a_ledger_that_another_program_writes_to_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    write(path, 1)
    monkeypatch.setattr(statistics, "LEAST", 1)
    ledger = Ledger.open(f"sqlite:///{path}")
    with ledger._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    with sqlite3.connect(path) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger.close()
    assert known(path) == 0
