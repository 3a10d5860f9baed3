"""Mirrors that are killed and databases that are broken, with a real MLflow over SQLite."""

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.mirror import database
from gaplab.mirror.replay import Mirror
from tests.builders import LedgerBench
from tests.gaplab.mirror.mlflow_runs import (
    damage_database,
    milliseconds,
    runs,
    snapshot,
)

pytestmark = [
    # MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

WRITES = (
    "create_experiment",
    "set_experiment_tag",
    "create_run",
    "log_batch",
    "log_text",
    "set_terminated",
    "update_run",
    "restore_run",
)
"""The calls of the client that change MLflow."""


class BrokenError(Exception):
    """Stands for the death of the process."""


@pytest.fixture
def break_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the n-th changing call from now on raise after it took effect; 0: none."""
    from mlflow import MlflowClient

    countdown = {"left": 0}

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = call(self, *args, **kwargs)
            countdown["left"] -= 1
            if countdown["left"] == 0:
                raise BrokenError
            return result

        return counted

    for name in WRITES:
        monkeypatch.setattr(MlflowClient, name, wrap(getattr(MlflowClient, name)))

    def arm(number: int) -> None:
        countdown["left"] = number

    return arm


def test_a_replay_after_one_that_was_killed_at_any_call(
    bench: LedgerBench, break_after: Callable[[int], None]
) -> None:
    """Killed after call n is killed before call n + 1: nothing in between changes MLflow."""
    _, good, bad = bench.small()
    Mirror(bench.home).replay(bench.ledger, bench.add("calm", good, bad, name="calm"))
    calm = json.loads(json.dumps(snapshot(bench, "calm")))
    broken = 0
    for number in range(1, 100):
        name = f"n{number:03d}"
        sweep = bench.add(name, good, bad, name=name)
        break_after(number)
        try:
            Mirror(bench.home).replay(bench.ledger, sweep)
        except BrokenError:
            broken += 1
        else:
            break
        finally:
            break_after(0)
        Mirror(bench.home).replay(bench.ledger, sweep)
        created = {s.id: milliseconds(s.created_at) for s in bench.ledger.sweeps()}
        found = json.dumps(snapshot(bench, name)).replace(name, "calm")
        found = found.replace(str(created[sweep]), str(created["calm"]))
        assert json.loads(found) == calm, f"broken at call {number}"
    assert broken > len(WRITES)
    assert len(runs(bench, name)) == 3  # the one that ran through


def test_the_same_mirror_continues_after_a_failure(
    bench: LedgerBench, break_after: Callable[[int], None]
) -> None:
    sweep, good, _ = bench.small()
    mirror = Mirror(bench.home)
    break_after(6)
    with pytest.raises(BrokenError):
        mirror.replay(bench.ledger, sweep)
    mirror.replay(bench.ledger, sweep)
    mirrored = snapshot(bench)
    Mirror(bench.home).replay(bench.ledger, bench.add("calm", good, name="calm"))
    name = f"dual seed={good.seed}"
    assert mirrored[name][1:] == snapshot(bench, "calm")[name][1:]


def make_outdated(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (damage_database, "file is not a database"),
        (make_outdated, "Detected out-of-date database schema"),
    ],
)
def test_a_broken_database_is_one_line(
    bench: LedgerBench, damage: Callable[[Path], None], why: str
) -> None:
    sweep, _, _ = bench.small()
    damage(bench.home.path / "mlflow.db")
    with pytest.raises(UserError) as raised:
        Mirror(bench.home).replay(bench.ledger, sweep)
    [line] = raised.value.problems
    assert "\n" not in line
    assert why in line
    assert str(bench.home.path / "mlflow.db") in line
    assert f"gaplab mirror {sweep} --home {bench.home.path}" in line


def test_a_locked_database_is_one_line(bench: LedgerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, _, _ = bench.small()
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(bench.home.path / "mlflow.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"database is locked.*gaplab mirror"):
            Mirror(bench.home).replay(bench.ledger, sweep)


def test_the_database_is_created_completely_or_not_at_all(
    bench: LedgerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.home.path / "mlflow.db"
    path.unlink()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    sweep, _, _ = bench.small()
    with pytest.raises(UserError, match="MLflow can't create it"):
        Mirror(bench.home).replay(bench.ledger, sweep)
    assert not path.exists()
