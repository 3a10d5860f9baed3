"""Databases that are locked, restarting, cut off or full, and a ledger that waits for them."""

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from gaplab.errors import StorageError, UserError
from gaplab.ledger import Ledger, retry
from gaplab.ledger.retry import RetryPolicy, is_disk_full, is_transient
from gaplab.ledger.views import METRICS
from gaplab.records import (
    Claim,
    Cost,
    DriverRecord,
    EpochDone,
    EvaluationRecord,
    SweepRecord,
    TrialRecord,
)

TRIAL = TrialRecord("t1", {}, "poto", "o2o", "shapes", 0, 500, 1)
LOCKED = sqlite3.OperationalError("database is locked")
FULL = sqlite3.OperationalError("database or disk is full")


def done(epoch: int, classes: int = 0) -> EpochDone:
    metrics = {**dict.fromkeys(METRICS, float(epoch)), **{f"m{n}": 1.0 for n in range(classes)}}
    found = EvaluationRecord("t1", epoch, "o2o", True, "default", metrics, ())
    return EpochDone("t1", epoch, 500, {}, (found,), f"uri-{epoch}", Cost())


def begin(ledger: Ledger) -> int:
    ledger.add_sweep(SweepRecord("s1", "s1", "name: s", (TRIAL,)))
    ledger.add_driver(DriverRecord("d1", "s1", "n", "boot", 1, 2, "c", 0), 900.0)
    return ledger.start_attempt(Claim("t1", "s1", "d1"))


def error(cause: BaseException, kind: type[DBAPIError] = OperationalError) -> DBAPIError:
    return kind("SELECT 1", {}, cause)


class TestWaiting:
    """Against a clock of ours."""

    @pytest.fixture
    def slept(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        found: list[float] = []
        clock = SimpleNamespace(monotonic=lambda: sum(found), sleep=found.append)
        monkeypatch.setattr(retry, "time", clock)
        return found

    @staticmethod
    def failing(times: int, cause: BaseException) -> Callable[[], str]:
        left = [cause] * times

        def action() -> str:
            if left:
                raise error(left.pop())
            return "done"

        return action

    @pytest.mark.parametrize("times", [0, 1, 2, 20])
    def test_it_tells_once_that_it_waits_and_once_that_it_is_over(
        self, slept: list[float], times: int
    ) -> None:
        said: list[str] = []
        assert RetryPolicy(600.0, said.append).run(self.failing(times, LOCKED)) == "done"
        assert len(slept) == times
        if times == 0:
            assert said == []
        else:
            first, last = said
            assert first == "the ledger doesn't answer (database is locked); retrying for 600 s"
            assert last == f"the ledger answers again after {sum(slept):.0f} s"

    def test_pauses_grow_but_not_for_ever(self, slept: list[float]) -> None:
        RetryPolicy(1e9).run(self.failing(3000, LOCKED))
        assert all(0 < each <= 2.0 for each in slept)
        assert max(slept[:2]) < 0.3
        assert min(slept[10:]) >= 1.0

    def test_it_ends(self, slept: list[float]) -> None:
        with pytest.raises(UserError, match=r"ledger: no answer for 3\d s \(database is locked\)"):
            RetryPolicy(30.0).run(self.failing(10**6, LOCKED))
        assert 30.0 <= sum(slept) <= 32.0

    @pytest.mark.parametrize(
        "cause",
        [
            sqlite3.OperationalError("no such table: trial"),
            sqlite3.OperationalError("disk I/O error"),
            sqlite3.IntegrityError("UNIQUE constraint failed: attempt.token"),
            sqlite3.DatabaseError("file is not a database"),
        ],
    )
    def test_what_doesn_t_pass_comes_at_once(self, slept: list[float], cause: Exception) -> None:
        with pytest.raises(DBAPIError) as found:
            RetryPolicy(600.0).run(self.failing(1, cause))
        assert found.value.orig is cause
        assert slept == []

    def test_without_patience_nothing_is_waited_for(self, slept: list[float]) -> None:
        with pytest.raises(OperationalError, match="locked"):
            RetryPolicy().run(self.failing(1, LOCKED))
        assert slept == []

    @pytest.mark.parametrize("seconds", [0.0, 600.0])
    def test_a_full_disk_is_said_at_once(self, slept: list[float], seconds: float) -> None:
        with pytest.raises(StorageError, match=r"full\); free space there, then .* resume"):
            RetryPolicy(seconds).run(self.failing(1, FULL))
        assert slept == []

    def test_errors_of_its_own_pass_through(self, slept: list[float]) -> None:
        def wrong() -> None:
            raise ValueError("ap is not finite")

        with pytest.raises(ValueError, match="not finite"):
            RetryPolicy(600.0).run(wrong)
        assert slept == []


@pytest.mark.parametrize(
    ("state", "passing", "full"),
    [
        ("08006", True, False),
        ("40P01", True, False),
        ("40001", True, False),
        ("53300", True, False),
        ("53100", True, True),
        ("55P03", True, False),
        ("57P01", True, False),
        ("57P03", True, False),
        ("23505", False, False),
        ("42P01", False, False),
        ("28P01", False, False),
        ("22003", False, False),
    ],
)
def test_errors_of_postgresql(state: str, passing: bool, full: bool) -> None:
    import psycopg

    cause = psycopg.errors.lookup(state)("why")
    assert (is_transient(error(cause)), is_disk_full(error(cause))) == (passing, full)


def test_a_connection_that_broke_passes() -> None:
    import psycopg

    assert is_transient(
        error(psycopg.OperationalError("server closed the connection unexpectedly"))
    )
    assert is_transient(error(psycopg.InterfaceError("the connection is closed")))
    assert not is_transient(error(psycopg.ProgrammingError("wrong"), ProgrammingError))
    broken = ProgrammingError("SELECT 1", {}, psycopg.ProgrammingError("x"), False, True)
    assert is_transient(broken)


class TestSQLite:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "ledger.db"

    def hurry(self, ledger: Ledger) -> None:
        """SQLite's own patience ends soon, so that ours is needed."""
        listen = lambda made, _record: made.execute("PRAGMA busy_timeout = 50").close()  # noqa: E731
        ledger._engine.dispose()
        event.listen(ledger._engine, "connect", listen)

    def test_locked_for_two_seconds(self, path: Path) -> None:
        said: list[str] = []
        with Ledger.open(f"sqlite:///{path}", RetryPolicy(60.0, said.append)) as ledger:
            attempt = begin(ledger)
            self.hurry(ledger)
            other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            other.execute("BEGIN IMMEDIATE")
            release = threading.Timer(2.0, lambda: other.execute("ROLLBACK"))
            release.start()
            ledger.record_epoch(done(1), attempt)
            release.join()
            other.close()
            ledger.record_epoch(done(2), attempt)
            assert [e.epoch for e in ledger.evaluations("t1")] == [1, 2]
        assert [each.split(" (")[0] for each in said[:1]] == ["the ledger doesn't answer"]
        assert [each[:24] for each in said[1:]] == ["the ledger answers again"]

    def test_locked_for_too_long(self, path: Path) -> None:
        with Ledger.open(f"sqlite:///{path}", RetryPolicy(0.3)) as ledger:
            attempt = begin(ledger)
            self.hurry(ledger)
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(UserError, match=r"ledger: no answer .*locked.*gaplab resume"):
                ledger.record_epoch(done(1), attempt)
            assert ledger.states(["t1"]) == {"t1": "running"}  # a reader doesn't wait
            other.close()
            ledger.record_epoch(done(1), attempt)

    def test_a_full_disk(self, path: Path) -> None:
        """The limit of pages stands for the disk; what was told as kept is there afterwards."""
        with Ledger.open(f"sqlite:///{path}", RetryPolicy(60.0)) as ledger:
            attempt = begin(ledger)
            ledger._engine.dispose()
            limit = lambda made, _record: made.execute("PRAGMA max_page_count = 60").close()  # noqa: E731
            event.listen(ledger._engine, "connect", limit)
            told: list[int] = []

            def fill() -> None:
                while len(told) < 1000:
                    ledger.record_epoch(done(len(told), classes=100), attempt)
                    told.append(len(told))

            with pytest.raises(StorageError, match=r"disk is full\); free space there, then cont"):
                fill()
            assert [e.epoch for e in ledger.evaluations("t1")] == told
            event.remove(ledger._engine, "connect", limit)
            ledger._engine.dispose()
            ledger.record_epoch(done(1000), attempt)
            assert len(ledger.evaluations("t1")) == len(told) + 1


class TestPostgreSQL:
    def test_a_restart_while_a_driver_writes(self, own_postgres: Any) -> None:
        said: list[str] = []
        half, down = threading.Event(), threading.Event()

        def write(ledger: Ledger, attempt: int) -> None:
            for epoch in range(200):
                if epoch == 60:
                    half.set()
                if epoch == 80:
                    assert down.wait(60.0)
                ledger.record_epoch(done(epoch), attempt)

        with Ledger.open(own_postgres.url, RetryPolicy(120.0, said.append)) as ledger:
            attempt = begin(ledger)
            with ThreadPoolExecutor(1) as pool:
                job = pool.submit(write, ledger, attempt)
                assert half.wait(60.0)
                own_postgres.stop()
                down.set()
                while not said and not job.done():
                    time.sleep(0.05)
                own_postgres.start()
                job.result()
            assert [e.epoch for e in ledger.evaluations("t1")] == list(range(200))
            assert {e.metrics["ap"] - e.epoch for e in ledger.evaluations("t1")} == {0.0}
            assert len(ledger.attempts("t1")) == 1
            assert ledger.renew_lease("d1", 60.0, 0, "") == {attempt}
        assert [each.split(" (")[0].split(" after")[0] for each in said] == [
            "the ledger doesn't answer",
            "the ledger answers again",
        ]

    def test_connections_that_are_cut_again_and_again(self, postgres_schema: str) -> None:
        """Each write is kept once, wherever in it the connection breaks."""
        name, engine = f"cut_{uuid4().hex}", create_engine(postgres_schema)
        url = f"{postgres_schema}&application_name={name}"
        cut = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :who"
        )
        over, cuts = threading.Event(), list[Any]()

        def disturb() -> None:
            while not over.wait(0.15):
                with engine.begin() as connection:
                    cuts.extend(connection.execute(cut, {"who": name}))

        with Ledger.open(url, RetryPolicy(120.0)) as ledger, ThreadPoolExecutor(1) as pool:
            attempt = begin(ledger)
            job = pool.submit(disturb)
            try:
                for epoch in range(200):
                    ledger.record_epoch(done(epoch), attempt)
            finally:
                over.set()
                job.result()
            assert [e.epoch for e in ledger.evaluations("t1")] == list(range(200))
        engine.dispose()
        assert cuts

    def test_a_server_that_stays_away(self, own_postgres: Any) -> None:
        with Ledger.open(own_postgres.url, RetryPolicy(0.5)) as ledger:
            ledger.now()
            own_postgres.stop()
            try:
                with pytest.raises(
                    UserError, match=r"no answer .* check that the database is running"
                ) as e:
                    ledger.now()
                assert "\n" not in str(e.value)
            finally:
                own_postgres.start()
            assert ledger.now()
