"""Databases that are locked, restarting, cut off or full, and a ledger that retries."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from gaplab.errors import StorageError, UserError
from gaplab.ledger import Ledger, retry
from gaplab.ledger.retry import RetryPolicy, is_disk_full, is_transient
from gaplab.ledger.views import METRICS
from gaplab.records import Claim, EpochDone
from gaplab.states import TrialState
from tests.builders import (
    attempt_end,
    checkpoints,
    driver_record,
    epoch_done,
    evaluation_record,
    sweep_record,
    trial_record,
)

LOCKED = sqlite3.OperationalError("database is locked")
FULL = sqlite3.OperationalError("database or disk is full")
FOR_EVER = 1e9  # seconds: how long a test waits does not depend on the machine's speed


def done(epoch: int, more_metrics: int = 0) -> EpochDone:
    """Build an epoch whose evaluation has the number of the epoch in each metric."""
    metrics = dict.fromkeys(METRICS, float(epoch)) | {f"m{n}": 1.0 for n in range(more_metrics)}
    return epoch_done("t1", epoch, evaluation_record("t1", epoch, metrics=metrics))


def begin(ledger: Ledger) -> int:
    ledger.add_sweep(sweep_record("s1", trial_record("t1")))
    ledger.add_driver(driver_record("d1"), 900.0)
    return ledger.start_attempt(Claim("t1", "s1", "d1"))


def error(cause: BaseException, kind: type[DBAPIError] = OperationalError) -> DBAPIError:
    return kind("SELECT 1", {}, cause)


class TestRetryPolicy:
    """With a clock that only sleeping advances."""

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
    def test_it_reports_once_that_an_outage_begins_and_once_that_it_ends(
        self, slept: list[float], times: int
    ) -> None:
        reports: list[str] = []
        assert RetryPolicy(600.0, reports.append).run(self.failing(times, LOCKED)) == "done"
        assert len(slept) == times
        if times == 0:
            assert reports == []
        else:
            first, last = reports
            assert first == "the ledger doesn't answer (database is locked); retrying for 600 s"
            assert last == f"the ledger answers again after {sum(slept):.0f} s"

    def test_pauses_grow_up_to_two_seconds(self, slept: list[float]) -> None:
        RetryPolicy(1e9).run(self.failing(3000, LOCKED))
        assert all(0 < each <= 2.0 for each in slept)
        assert max(slept[:2]) < 0.3
        assert min(slept[10:]) >= 1.0

    def test_it_gives_up_after_its_time(self, slept: list[float]) -> None:
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
    def test_a_lasting_error_is_raised_at_once(self, slept: list[float], cause: Exception) -> None:
        with pytest.raises(DBAPIError) as found:
            RetryPolicy(600.0).run(self.failing(1, cause))
        assert found.value.orig is cause
        assert slept == []

    def test_without_seconds_nothing_is_retried(self, slept: list[float]) -> None:
        with pytest.raises(OperationalError, match="locked"):
            RetryPolicy().run(self.failing(1, LOCKED))
        assert slept == []

    @pytest.mark.parametrize("seconds", [0.0, 600.0])
    def test_a_full_disk_is_raised_at_once(self, slept: list[float], seconds: float) -> None:
        with pytest.raises(StorageError, match=r"full\); free space there, then .* resume"):
            RetryPolicy(seconds).run(self.failing(1, FULL))
        assert slept == []

    def test_other_errors_are_raised_as_they_are(self, slept: list[float]) -> None:
        def wrong() -> None:
            raise ValueError("ap is not finite")

        with pytest.raises(ValueError, match="not finite"):
            RetryPolicy(600.0).run(wrong)
        assert slept == []


@pytest.mark.parametrize(
    ("state", "transient", "full"),
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
def test_errors_of_postgresql(state: str, transient: bool, full: bool) -> None:
    cause = psycopg.errors.lookup(state)("why")
    assert (is_transient(error(cause)), is_disk_full(error(cause))) == (transient, full)


def test_a_broken_connection_is_transient() -> None:
    assert is_transient(
        error(psycopg.OperationalError("server closed the connection unexpectedly"))
    )
    assert is_transient(error(psycopg.InterfaceError("the connection is closed")))
    assert not is_transient(error(psycopg.ProgrammingError("wrong"), ProgrammingError))
    broken = ProgrammingError("SELECT 1", {}, psycopg.ProgrammingError("x"), False, True)
    assert is_transient(broken)


class LostAcknowledgement:
    """While active, each transaction is committed, and then fails as if the answer got lost."""

    def __init__(self, ledger: Ledger) -> None:
        self._engine: Engine = ledger._engine
        self.lost = 0

    def __enter__(self) -> "LostAcknowledgement":
        event.listen(self._engine, "commit", self._commit)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "commit", self._commit)

    def _commit(self, connection: Connection) -> None:
        self.lost += 1
        if self.lost % 2:  # the repeated transaction succeeds
            dbapi_connection = connection.connection.dbapi_connection
            assert dbapi_connection is not None
            dbapi_connection.commit()
            raise error(LOCKED)


def test_a_call_whose_answer_is_lost_takes_effect_once(url: str) -> None:
    with Ledger.open(url, RetryPolicy(FOR_EVER)) as ledger:
        with LostAcknowledgement(ledger) as broken:
            attempt = begin(ledger)
            ledger.record_epoch(done(1), attempt)
            ledger.end_attempt(attempt, attempt_end(TrialState.FAILED, "x"))
            second = ledger.start_attempt(Claim("t1", "s1", "d1"))
            assert ledger.renew_lease("d1", 60.0, 0, "") == {second}
        assert broken.lost == 2 * 7
        assert [(a.id, a.state) for a in ledger.attempts("t1")] == [
            (attempt, "failed"),
            (second, "running"),
        ]
        assert [e.epoch for e in ledger.evaluations("t1")] == [1]
        assert checkpoints(ledger, "t1") == {1: "file:///1"}


class TestSQLite:
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/ledger.db"

    @pytest.fixture
    def other(self, tmp_path: Path) -> sqlite3.Connection:
        """Another program's connection to the same file."""
        return sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)

    @staticmethod
    def shorten_busy_timeout(ledger: Ledger) -> None:
        """Let SQLite itself give up soon, so that the RetryPolicy is needed."""

        def configure(made: sqlite3.Connection, _record: Any) -> None:
            made.execute("PRAGMA busy_timeout = 50").close()

        ledger._engine.dispose()
        event.listen(ledger._engine, "connect", configure)

    def test_locked_until_the_outage_is_reported(self, url: str, other: sqlite3.Connection) -> None:
        reports: list[str] = []

        def report(line: str) -> None:
            reports.append(line)
            if len(reports) == 1:
                other.execute("ROLLBACK")

        with Ledger.open(url, RetryPolicy(FOR_EVER, report)) as ledger:
            attempt = begin(ledger)
            self.shorten_busy_timeout(ledger)
            other.execute("BEGIN IMMEDIATE")
            ledger.record_epoch(done(1), attempt)
            other.close()
            ledger.record_epoch(done(2), attempt)
            assert [e.epoch for e in ledger.evaluations("t1")] == [1, 2]
        first, last = reports
        assert first.startswith("the ledger doesn't answer (database is locked)")
        assert last.startswith("the ledger answers again")

    def test_locked_for_too_long(self, url: str, other: sqlite3.Connection) -> None:
        with Ledger.open(url, RetryPolicy(0.1)) as ledger:
            attempt = begin(ledger)
            self.shorten_busy_timeout(ledger)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(UserError, match=r"ledger: no answer .*locked.*gaplab resume"):
                ledger.record_epoch(done(1), attempt)
            assert ledger.states(["t1"]) == {"t1": "running"}  # a reader is not blocked
            other.close()
            ledger.record_epoch(done(1), attempt)

    def test_a_full_disk(self, url: str) -> None:
        """A limit of pages stands for the disk. What was stored before it is still there."""

        def limit(made: sqlite3.Connection, _record: Any) -> None:
            made.execute("PRAGMA max_page_count = 60").close()

        with Ledger.open(url, RetryPolicy(FOR_EVER)) as ledger:
            attempt = begin(ledger)
            ledger._engine.dispose()
            event.listen(ledger._engine, "connect", limit)
            stored: list[int] = []

            def fill() -> None:
                while len(stored) < 1000:
                    ledger.record_epoch(done(len(stored), more_metrics=100), attempt)
                    stored.append(len(stored))

            with pytest.raises(StorageError, match=r"disk is full\); free space there, then cont"):
                fill()
            assert [e.epoch for e in ledger.evaluations("t1")] == stored
            event.remove(ledger._engine, "connect", limit)
            ledger._engine.dispose()
            ledger.record_epoch(done(1000), attempt)
            assert len(ledger.evaluations("t1")) == len(stored) + 1


class TestPostgreSQL:
    def test_a_restart_while_a_driver_writes(self, own_postgres: Any) -> None:
        reports: list[str] = []
        half, down, outage = threading.Event(), threading.Event(), threading.Event()

        def report(line: str) -> None:
            reports.append(line)
            outage.set()

        def write(ledger: Ledger, attempt: int) -> None:
            for epoch in range(200):
                if epoch == 60:
                    half.set()
                if epoch == 80:
                    down.wait()
                ledger.record_epoch(done(epoch), attempt)

        with Ledger.open(own_postgres.url, RetryPolicy(FOR_EVER, report)) as ledger:
            attempt = begin(ledger)
            with ThreadPoolExecutor(1) as pool:
                job = pool.submit(write, ledger, attempt)
                job.add_done_callback(lambda _: half.set())  # if the writer fails early
                job.add_done_callback(lambda _: outage.set())
                half.wait()
                own_postgres.stop()
                down.set()
                outage.wait()
                own_postgres.start()
                job.result()
            found = ledger.evaluations("t1")
            assert [(e.epoch, e.metrics["ap"]) for e in found] == [(n, n) for n in range(200)]
            assert len(ledger.attempts("t1")) == 1
            assert ledger.renew_lease("d1", 60.0, 0, "") == {attempt}
        assert [each.split(" (")[0].split(" after")[0] for each in reports] == [
            "the ledger doesn't answer",
            "the ledger answers again",
        ]

    def test_a_connection_that_breaks_at_any_statement(self, postgres_schema: str) -> None:
        """Each write is stored once, whichever of its statements the server does not answer."""
        cutter, left, cuts = create_engine(postgres_schema), [0], list[int]()
        cut = text("SELECT pg_terminate_backend(:pid, 600000)")

        def before(connection: Connection, *_: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                driver: Any = connection.connection.dbapi_connection
                with cutter.begin() as other:
                    assert other.execute(cut, {"pid": driver.info.backend_pid}).scalar_one()
                cuts.append(driver.info.backend_pid)

        with Ledger.open(postgres_schema, RetryPolicy(FOR_EVER)) as ledger:
            attempt = begin(ledger)
            for name in ("before_cursor_execute", "commit"):
                event.listen(ledger._engine, name, before)
            epoch, broken = 0, 0
            while len(cuts) == broken:
                epoch, broken = epoch + 1, broken + 1
                left[0] = epoch
                ledger.record_epoch(done(epoch), attempt)
            assert len(cuts) >= 4  # cost, evaluation, checkpoint, commit
            assert [e.epoch for e in ledger.evaluations("t1")] == list(range(1, epoch + 1))
            assert checkpoints(ledger, "t1") == {n: f"file:///{n}" for n in range(1, epoch + 1)}
            assert len(ledger.attempts("t1")) == 1
        cutter.dispose()

    def test_connections_that_are_cut_again_and_again(self, postgres_schema: str) -> None:
        """Each write is stored once, wherever in it the connection breaks."""
        name, cutter = f"cut_{uuid4().hex}", create_engine(postgres_schema)
        url = f"{postgres_schema}&application_name={name}"
        cut = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :who"
        )
        requested, cuts = threading.Semaphore(0), list[Any]()

        def disturb() -> None:
            for _ in range(20):
                requested.acquire()
                with cutter.begin() as connection:
                    cuts.extend(connection.execute(cut, {"who": name}))

        with Ledger.open(url, RetryPolicy(FOR_EVER)) as ledger, ThreadPoolExecutor(1) as pool:
            attempt = begin(ledger)
            job = pool.submit(disturb)
            try:
                for epoch in range(200):
                    if epoch % 10 == 0:
                        requested.release()
                    ledger.record_epoch(done(epoch), attempt)
            finally:
                requested.release(20)
                job.result()
            ledger.record_epoch(done(200), attempt)
            assert [e.epoch for e in ledger.evaluations("t1")] == list(range(201))
        cutter.dispose()
        assert cuts

    def test_a_server_that_stays_away(self, own_postgres: Any) -> None:
        with Ledger.open(own_postgres.url, RetryPolicy(0.1)) as ledger:
            ledger.now()
            own_postgres.stop()
            try:
                with pytest.raises(
                    UserError, match=r"no answer .* check that the database is running"
                ) as raised:
                    ledger.now()
                assert "\n" not in str(raised.value)
            finally:
                own_postgres.start()
            assert ledger.now()
