"""Migrations of the ledger, up and down: on SQLite and on a real PostgreSQL."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, Table, insert, inspect, select, text

from detectors.evaluation.metrics import ClassGap
from detectors.evaluation.protocol import PROTOCOLS
from gaplab.errors import UserError
from gaplab.identity import canonical, digest
from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.ledger.migrate import HEAD, MIGRATE, VERSION_TABLE, WRITE, alembic_config, open_engine
from gaplab.ledger.models import Base
from gaplab.ledger.views import METRICS, Order, RowFilter
from gaplab.records import CancelRequest, Claim, Cost, Started
from gaplab.spec.protocols import protocol_key
from gaplab.states import TrialState
from tests.builders import (
    CROWD_VALUES,
    MACHINE,
    METRIC_VALUES,
    NOW,
    RULE,
    attempt_end,
    checkpoints,
    driver_record,
    epoch_done,
    evaluation_record,
    measurement_record,
    sweep_record,
    trial_record,
)
from tests.ledgers import QuickUpgrade

COST = Cost(20.0, 5.0, 10.0, 512.0)


Rows = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def every_migration(quick_upgrade: QuickUpgrade) -> Iterator[None]:
    """Run the migrations in every database but those of the fixture `engine`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gaplab.ledger.migrate._upgrade", quick_upgrade.real)
        yield


@pytest.fixture
def engine(url: str, quick_upgrade: QuickUpgrade) -> Iterator[Engine]:
    """A ledger of the newest version; `test_other_tests_use_the_same_tables` allows the haste."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gaplab.ledger.migrate._upgrade", quick_upgrade)
        engine = open_engine(url)
    yield engine
    engine.dispose()


def begin(engine: Engine) -> AbstractContextManager[Connection]:
    """Begin a transaction that may change tables."""
    return engine.execution_options(**{WRITE: MIGRATE}).begin()


def downgrade(engine: Engine, version: str) -> None:
    with begin(engine) as connection:
        command.downgrade(alembic_config(connection), version)


def tables_of(bind: Engine | Connection) -> Mapping[str, Table]:
    tables = MetaData()
    tables.reflect(bind)
    return tables.tables


def described(engine: Engine) -> dict[str, list[str]]:
    """Describe the columns, keys, constraints and indexes of all tables."""
    found = inspect(engine)
    parts = (
        *(found.get_columns, found.get_pk_constraint, found.get_foreign_keys, found.get_indexes),
        *(found.get_unique_constraints, found.get_check_constraints),
    )
    held = {name: [part(name) for part in parts] for name in found.get_table_names()}
    return {  # SQLite lists constraints in the order of its schema, which a rebuild changes
        name: [str(sorted(map(str, each)) if isinstance(each, list) else each) for each in values]
        for name, values in held.items()
    }


def views_of(engine: Engine) -> dict[str, str | None]:
    found = inspect(engine)
    return {name: found.get_view_definition(name) for name in found.get_view_names()}


def rows_of(engine: Engine) -> dict[str, list[str]]:
    """Return the rows of all tables, and of SQLite's statistics about them."""
    names = [*inspect(engine).get_table_names()]
    names += ["sqlite_stat1"] if engine.dialect.name == "sqlite" else []
    with engine.connect() as connection:
        held = {name: connection.execute(text(f"SELECT * FROM {name}")).all() for name in names}
    return {name: sorted(map(str, rows)) for name, rows in held.items()}


class TestSchema:
    def test_head_is_the_newest_migration(self, engine: Engine) -> None:
        with engine.connect() as connection:
            scripts = ScriptDirectory.from_config(alembic_config(connection))
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            assert scripts.get_heads() == [HEAD]
            assert context.get_current_heads() == (HEAD,)

    def test_models_equal_migrations(self, engine: Engine) -> None:
        with engine.connect() as connection:
            options = {"version_table": VERSION_TABLE, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, Base.metadata) == []

    def test_other_tests_use_the_same_tables(self, url: str, quick_upgrade: QuickUpgrade) -> None:
        """Those of the first empty database and of the next one, made by `tests/ledgers.py`."""
        engine = open_engine(url)
        expected, shown, rows = described(engine), views_of(engine), rows_of(engine)
        assert len(expected) == len(Base.metadata.tables) + 1
        assert shown
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gaplab.ledger.migrate._upgrade", QuickUpgrade(quick_upgrade.real))
            for _ in range(2):
                downgrade(engine, "base")
                with begin(engine) as connection:
                    connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
                again = open_engine(url)
                assert described(again) == expected
                assert views_of(again) == shown
                assert rows_of(again) == rows
                again.dispose()
        engine.dispose()

    def test_names_of_constraints_equal_migrations(self, engine: Engine) -> None:
        migrated, inspector = MetaData(), inspect(engine)
        migrated.reflect(engine)
        for table in Base.metadata.tables.values():
            names = {each.name for each in table.constraints}
            assert {each.name for each in migrated.tables[table.name].constraints} == names
            checks = {each["name"] for each in inspector.get_check_constraints(table.name)}
            assert checks == {name for name in names if str(name).startswith("ck_")}

    def test_down_to_nothing_and_up_again(self, url: str, engine: Engine) -> None:
        downgrade(engine, "base")
        assert inspect(engine).get_table_names() == [VERSION_TABLE]
        with Ledger.open(url) as ledger:
            ledger.add_sweep(sweep_record("s1", trial_record("t1")))
            assert ledger.states(["t1"]) == {"t1": "waiting"}

    def test_many_open_an_empty_database_together(self, url: str) -> None:
        with ThreadPoolExecutor(6) as pool:
            ledgers = list(pool.map(Ledger.open, [url] * 6))
        assert [each.sweeps() for each in ledgers] == [[]] * 6
        for each in ledgers:
            each.close()

    def test_a_newer_ledger_is_refused(self, url: str, engine: Engine) -> None:
        with begin(engine) as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        with pytest.raises(UserError, match=r"written by a newer gaplab \(version 9999"):
            Ledger.open(url)

    def test_shares_a_database_with_another_alembic_user(self, url: str, engine: Engine) -> None:
        with begin(engine) as connection:
            connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
            connection.execute(text("INSERT INTO alembic_version VALUES ('of mlflow')"))
        with Ledger.open(url) as ledger:
            assert ledger.sweeps() == []


class TestFirstVersion:
    """From version 0001, which had fixed metrics and no protocols, and back."""

    @pytest.fixture
    def first(self, engine: Engine) -> Rows:
        """Make the ledger one of version 0001 with two evaluations. Returns their rows."""
        classes = [{"name": "größe", "ap": 1 / 3, "ap_nms": None, "gap": None}]
        key = {"trial_id": "t1", "attempt_id": 7, "branch": "o2o", "is_primary": True}
        key |= {"protocol": "default", "classes": classes, "created_at": NOW}
        rows = [
            key | {"epoch": epoch} | {n: v / 7 + epoch for n, v in METRIC_VALUES.items()}
            for epoch in (1, 2)
        ]
        with begin(engine) as connection:
            command.downgrade(alembic_config(connection), "base")
            command.upgrade(alembic_config(connection), "0001")
            tables = tables_of(connection)
            for name, values in self.other_rows():
                connection.execute(insert(tables[name]).values(**values))
            for row in rows:
                connection.execute(insert(tables["evaluation"]).values(**row))
        return rows

    @staticmethod
    def other_rows() -> Iterator[tuple[str, dict[str, Any]]]:
        yield "sweep", {"id": "s1", "name": "first", "spec": "name: first", "created_at": NOW}
        yield "trial", vars(trial_record("t1")) | {"state": "succeeded", "created_at": NOW}
        yield "sweep_trial", {"sweep_id": "s1", "trial_id": "t1", "position": 0}
        about = {"node": "n", "device": "cpu", "workers": 1, "gpus": 0.0, "driver": "default"}
        key = {"id": 7, "trial_id": "t1", "sweep_id": "s1", "number": 1, "started_at": NOW}
        yield "attempt", {**key, **about, "state": "succeeded", "reason": ""}
        yield "checkpoint", {"trial_id": "t1", "epoch": 2, "uri": "file:///2", "created_at": NOW}

    def test_evaluations_stay(self, url: str, first: Rows) -> None:
        with Ledger.open(url) as ledger:
            found = ledger.evaluations("t1")
            assert [e.metrics for e in found] == [{n: r[n] for n in METRICS} for r in first]
            for each, row in zip(found, first, strict=True):
                assert (each.epoch, each.primary, each.protocol) == (row["epoch"], True, "default")
                assert (each.attempt, each.created_at) == (7, row["created_at"])
                assert each.classes == (ClassGap("größe", 1 / 3, None, None),)
                assert (each.candidates, each.matches, each.rule) == ("", "", {})
            assert ledger.protocols() == {}
            assert checkpoints(ledger, "t1") == {2: "file:///2"}
            [found_row] = ledger.rows(RowFilter())
            assert (found_row.ar_gap, found_row.more) == (first[1]["ar_gap"], {})
            crowd = evaluation_record(
                epoch=3, protocol="crowdhuman", metrics=CROWD_VALUES, rule=RULE
            )
            assert ledger.record(crowd, 7)

    def test_the_way_back(self, url: str, engine: Engine, first: Rows) -> None:
        with Ledger.open(url) as ledger:
            ledger.record(evaluation_record(epoch=3, metrics=CROWD_VALUES, rule=RULE), 7)
            wider = {**METRIC_VALUES, "ap_small": None, "ar1": 3.0}
            ledger.record(evaluation_record(epoch=4, metrics=wider, candidates="c", matches="m"), 7)
        downgrade(engine, "0001")
        tables = tables_of(engine)
        kept = tables["evaluation"]
        assert "protocol" not in tables
        assert set(kept.columns.keys()) == first[0].keys()
        assert not any(column.nullable for column in kept.columns)
        with engine.connect() as connection:
            rows = connection.execute(select(kept).order_by(kept.c.epoch)).mappings().all()
        assert [row["epoch"] for row in rows] == [1, 2, 4]
        for row, wanted in zip(rows, [*first, METRIC_VALUES], strict=True):
            assert {name: row[name] for name in METRICS} == {n: wanted[n] for n in METRICS}
        with Ledger.open(url) as ledger:
            assert [e.metrics for e in ledger.evaluations("t1")][2] == METRIC_VALUES

    def test_an_upgrade_that_fails_changes_nothing(
        self, url: str, engine: Engine, first: Rows
    ) -> None:
        with begin(engine) as connection:
            connection.execute(text("CREATE TABLE protocol (mine TEXT)"))
        with pytest.raises(UserError, match="already exists"):
            Ledger.open(url)
        columns = {column["name"] for column in inspect(engine).get_columns("evaluation")}
        assert columns == first[0].keys()
        with begin(engine) as connection:
            connection.execute(text("DROP TABLE protocol"))
        with Ledger.open(url) as ledger:
            assert len(ledger.evaluations("t1")) == 2

    def test_many_upgrade_the_first_version_together(self, url: str, first: Rows) -> None:
        with ThreadPoolExecutor(4) as pool:
            ledgers = list(pool.map(Ledger.open, [url] * 4))
        assert [len(each.evaluations("t1")) for each in ledgers] == [2] * 4
        for each in ledgers:
            each.close()


class TestSecondVersion:
    """From version 0002, which had no drivers, and back."""

    STATES = ("running", "failed", "succeeded")

    @pytest.fixture
    def second(self, engine: Engine) -> Rows:
        """Make the ledger one of version 0002 with an attempt in each state. Returns their rows."""
        rows = [self.attempt_row(f"t{n}", state) for n, state in enumerate(self.STATES)]
        with begin(engine) as connection:
            command.downgrade(alembic_config(connection), "0002")
            t = tables_of(connection)
            sweep = {"id": "s1", "name": "s1", "spec": "name: s", "created_at": NOW}
            connection.execute(insert(t["sweep"]).values(**sweep))
            for n, row in enumerate(rows):
                trial = vars(trial_record(row["trial_id"]))
                known = trial | {"state": row["state"], "created_at": NOW}
                connection.execute(insert(t["trial"]).values(**known))
                position = {"sweep_id": "s1", "trial_id": row["trial_id"], "position": n}
                connection.execute(insert(t["sweep_trial"]).values(**position))
                made = connection.execute(insert(t["attempt"]).values(**row))
                assert made.inserted_primary_key is not None
                row["id"] = made.inserted_primary_key[0]
                connection.execute(insert(t["evaluation"]).values(**self.evaluation_row(row)))
        return rows

    @staticmethod
    def evaluation_row(attempt: dict[str, Any]) -> dict[str, Any]:
        key = {"trial_id": attempt["trial_id"], "attempt_id": attempt["id"], "epoch": 1}
        key |= {"branch": "o2o", "is_primary": True, "protocol": "default"}
        more = {"classes": [], "more": {}, "candidates": "", "matches": ""}
        return key | more | METRIC_VALUES | {"created_at": NOW}

    @staticmethod
    def attempt_row(name: str, state: str) -> dict[str, Any]:
        key = {"trial_id": name, "sweep_id": "s1", "number": 1}
        about = {"node": "n", "device": "cpu", "workers": 1, "gpus": 0.0, "driver": "/old/home"}
        how = {"state": state, "reason": "größe" if state == "failed" else "", "started_at": NOW}
        over = {"ended_at": None if state == "running" else NOW}
        return key | about | how | over | vars(COST)

    def test_attempts_stay_and_running_ones_are_orphaned(self, url: str, second: Rows) -> None:
        with Ledger.open(url) as ledger:
            for row in second:
                [found] = ledger.attempts(row["trial_id"])
                kept = {"trial": row["trial_id"], "sweep": "s1"}
                kept |= {k: v for k, v in row.items() if k not in ("trial_id", "sweep_id")}
                assert {name: getattr(found, name) for name in kept} == kept
                assert (found.fault, found.notes, found.provenance) == ("", [], {})
                assert [e.attempt for e in ledger.evaluations(found.trial)] == [row["id"]]
            assert len({ledger.attempts(row["trial_id"])[0].token for row in second}) == 3
            assert ledger.drivers() == []
            assert ledger.mark_orphaned_lost("its driver is not known") == ["t0"]
            ledger.add_driver(driver_record("d1"), 60.0)
            for name in ("t0", "t1"):
                again = ledger.start_attempt(Claim(name, "s1", "d1"))
                assert again > max(row["id"] for row in second)
                ledger.end_attempt(again, attempt_end(TrialState.CANCELLED, "x"))
            with pytest.raises(ClaimError, match="it is succeeded"):
                ledger.start_attempt(Claim("t2", "s1", "d1"))

    def test_the_way_back(self, url: str, engine: Engine, second: Rows) -> None:
        with Ledger.open(url) as ledger:
            ledger.mark_orphaned_lost("its driver is not known")
            ledger.add_driver(driver_record("d1"), 60.0)
            ledger.cancel("s1", ["t1"])
            for name, state in (
                ("t0", TrialState.PREEMPTED),
                ("t1", TrialState.CANCELLED),
                ("t1", TrialState.STOPPED),
            ):
                ledger.end_attempt(
                    ledger.start_attempt(Claim(name, "s1", "d1")), attempt_end(state)
                )
        downgrade(engine, "0002")
        tables = tables_of(engine)
        attempts, trials = tables["attempt"], tables["trial"]
        assert set(attempts.columns.keys()) == second[0].keys()
        assert not {"driver", "cancellation"} & set(tables)
        with engine.connect() as connection:
            rows = connection.execute(select(attempts).order_by(attempts.c.id)).mappings().all()
            states = {row.id: row.state for row in connection.execute(select(trials))}
        assert states == {"t0": "interrupted", "t1": "interrupted", "t2": "succeeded"}
        assert [(r["trial_id"], r["number"], r["state"]) for r in rows] == [
            ("t0", 1, "interrupted"),
            ("t1", 1, "failed"),
            ("t2", 1, "succeeded"),
            ("t0", 2, "interrupted"),
            ("t1", 2, "interrupted"),
            ("t1", 3, "interrupted"),
        ]
        assert {k: rows[1][k] for k in ("reason", *vars(COST))} == {"reason": "größe", **vars(COST)}
        with Ledger.open(url) as ledger:  # upgraded again, with everything that refers to attempts
            assert [len(ledger.evaluations(t)) for t in ("t0", "t1", "t2")] == [1, 1, 1]
            assert len(ledger.attempts("t1")) == 3

    def test_references_hold_afterwards(self, url: str, second: Rows) -> None:
        with Ledger.open(url) as ledger:
            with pytest.raises(ValueError, match="is not one of trial t0"):
                ledger.record(evaluation_record("t0", 5), second[1]["id"])
            with pytest.raises(ValueError, match="it is not in sweep s9"):
                ledger.start_attempt(Claim("t1", "s9", "d1"))
            assert ledger.record(evaluation_record("t0", 5), second[0]["id"])


class TestThirdVersion:
    """From version 0003, in which an empty trial id stood for a whole sweep, and back."""

    REQUESTS = (("s1", ""), ("s2", "t1"))

    def rows(self, engine: Engine) -> list[tuple[str, str | None]]:
        table = tables_of(engine)["cancellation"]
        with engine.connect() as connection:
            found = connection.execute(select(table).order_by(table.c.id)).all()
        return [(row.sweep_id, row.trial_id) for row in found]

    @pytest.fixture
    def third(self, engine: Engine) -> Engine:
        """A ledger of version 0003 with a request to cancel a sweep and one to cancel a trial."""
        downgrade(engine, "0003")
        with begin(engine) as connection:
            table = tables_of(connection)["cancellation"]
            for sweep, trial in self.REQUESTS:
                values = {"sweep_id": sweep, "trial_id": trial, "created_at": NOW}
                connection.execute(insert(table).values(**values))
        return engine

    def test_an_empty_trial_becomes_null(self, url: str, third: Engine) -> None:
        with Ledger.open(url):
            assert self.rows(third) == [("s1", None), ("s2", "t1")]

    def test_the_way_back(self, url: str, third: Engine) -> None:
        with Ledger.open(url) as ledger:
            ledger.cancel("s3")
            ledger.cancel("s3", ["t9"])
        downgrade(third, "0003")
        assert self.rows(third) == [*self.REQUESTS, ("s3", ""), ("s3", "t9")]
        column = tables_of(third)["cancellation"].c.trial_id
        assert not column.nullable
        indexes = {each["name"] for each in inspect(third).get_indexes("cancellation")}
        assert indexes == {"ix_cancellation_sweep_id"}

    def test_requests_are_received_after_the_upgrade(self, url: str, third: Engine) -> None:
        """Also those that were made before it, by drivers that were running then."""
        with begin(third) as connection:
            table = tables_of(connection)["driver"]
            driver = {
                ("sweep_id" if k == "sweep" else k): v for k, v in vars(driver_record()).items()
            }
            times = {"started_at": NOW, "lease_until": NOW, "ended_at": None}
            connection.execute(insert(table).values(**driver, **times, wants=0, waits_for=""))
        with Ledger.open(url) as ledger:
            assert ledger.cancelled("s1", "d1") == CancelRequest(all_trials=True)


class TestFourthVersion:
    """From version 0004, in which attempts and sweeps had no settings of their own, and back."""

    CONFIG: ClassVar[dict[str, Any]] = {"resources": {"workers": 2}}

    def test_settings_are_those_of_the_trial(self, url: str, engine: Engine) -> None:
        with Ledger.open(url) as ledger:
            ledger.add_sweep(sweep_record("s1", trial_record("t1")))
            ledger.add_sweep(sweep_record("s1", trial_record("t1", config=self.CONFIG)))
            attempt = ledger.start_attempt(Claim("t1", "s1", config=self.CONFIG))
            ledger.record(evaluation_record("t1"), attempt)
        downgrade(engine, "0004")
        tables = tables_of(engine)
        assert not {"config"} & {*tables["sweep_trial"].c.keys(), *tables["attempt"].c.keys()}
        with Ledger.open(url) as ledger:
            first = trial_record("t1").config
            assert [each.config for each in ledger.trials("s1")] == [first]
            assert [each.config for each in ledger.attempts("t1")] == [first]
            assert [each.config for each in ledger.rows(RowFilter())] == [first]
            assert ledger.attempts("t1")[0].id == attempt


class TestFifthVersion:
    """From version 0005, whose evaluations had no ground truth in their key, and back."""

    KEY = ("trial_id", "epoch", "branch", "protocol")

    @pytest.fixture
    def fifth(self, url: str, engine: Engine) -> Engine:
        """A ledger of version 0005 with evaluations of one trial at two epochs."""
        with Ledger.open(url) as ledger:
            ledger.add_sweep(sweep_record("s1", trial_record("t1")))
            attempt = ledger.start_attempt(Claim("t1", "s1"))
            for epoch in (1, 2):
                ledger.record(evaluation_record(epoch=epoch, rule=RULE, matches="m"), attempt)
        downgrade(engine, "0005")
        return engine

    def key(self, engine: Engine) -> list[str]:
        return [column.name for column in tables_of(engine)["evaluation"].primary_key.columns]

    def test_evaluations_are_those_of_the_own_data(self, url: str, fifth: Engine) -> None:
        assert self.key(fifth) == [*self.KEY]
        with Ledger.open(url) as ledger:
            assert self.key(fifth) == [*self.KEY, "truth"]
            found = ledger.evaluations("t1", None)
            assert [(e.epoch, e.truth, e.metrics, e.matches) for e in found] == [
                (epoch, "", METRIC_VALUES, "m") for epoch in (1, 2)
            ]
            [attempt] = ledger.attempts("t1")
            assert ledger.record(evaluation_record(truth="0123456789ab"), attempt.id)
            assert not ledger.record(evaluation_record(), attempt.id)

    def test_the_way_back(self, url: str, fifth: Engine) -> None:
        with Ledger.open(url) as ledger:
            [attempt] = ledger.attempts("t1")
            for truth in ("", "0123456789ab"):
                ledger.record(evaluation_record(epoch=3, truth=truth), attempt.id)
        downgrade(fifth, "0005")
        assert self.key(fifth) == [*self.KEY]
        indexes = {each["name"] for each in inspect(fifth).get_indexes("evaluation")}
        assert indexes == {"ix_evaluation_protocol_is_primary_trial_id_branch_epoch"}
        with Ledger.open(url) as ledger:
            assert [(e.epoch, e.truth) for e in ledger.evaluations("t1", None)] == [
                (1, ""),
                (2, ""),
                (3, ""),
            ]


class TestAbsolutePaths:
    """From version 0007, in which paths of files in the home folder were absolute, and back."""

    HOMES = ("/home/a/.gaplab", "/data/trials/a?b c%20ü/code/x", "/")
    OTHERS = ("", "s3://bucket/trials/t1/x", "/elsewhere/x", "trials/t1/x")

    @pytest.fixture
    def absolute(self, url: str, engine: Engine) -> Engine:
        """A ledger of version 0007 with one epoch per home or other URI."""
        with Ledger.open(url) as ledger:
            ledger.add_sweep(sweep_record("s1", trial_record("t1")))
            attempt = ledger.start_attempt(Claim("t1", "s1"))
            for epoch, (folder, code) in enumerate(self.written(), 1):
                record = evaluation_record(
                    epoch=epoch, candidates=f"{folder}", matches=f"{folder}/default.parquet"
                )
                done = epoch_done("t1", epoch, record, checkpoint=f"{folder}.pt")
                ledger.record_epoch(done, attempt)
                ledger.end_attempt(attempt, attempt_end(TrialState.INTERRUPTED))
                attempt = ledger.start_attempt(Claim("t1", "s1"))
                provenance = {"code": {"commit": "c", "uri": code}, "seed": epoch}
                ledger.begin_attempt(attempt, Started("t1", MACHINE, epoch, provenance))
        downgrade(engine, "0007")
        return engine

    def written(self) -> list[tuple[str, str]]:
        homes = [each.rstrip("/") for each in self.HOMES]
        inside = [(f"{each}/trials/t1/c/epoch=1", f"{each}/code/0a1b.diff") for each in homes]
        return [*inside, *((each, each) for each in self.OTHERS)]

    def test_those_in_a_home_become_relative(self, url: str, absolute: Engine) -> None:
        expected = ["trials/t1/c/epoch=1"] * len(self.HOMES) + list(self.OTHERS)
        codes = ["code/0a1b.diff"] * len(self.HOMES) + list(self.OTHERS)
        with Ledger.open(url) as ledger:
            found = ledger.evaluations("t1")
            assert [each.candidates for each in found] == expected
            assert [each.matches for each in found] == [f"{e}/default.parquet" for e in expected]
            assert list(checkpoints(ledger, "t1").values()) == [f"{e}.pt" for e in expected]
            first, *attempts = ledger.attempts("t1")
            assert first.provenance == {}
            assert [each.provenance for each in attempts] == [
                {"code": {"commit": "c", "uri": code}, "seed": epoch}
                for epoch, code in enumerate(codes, 1)
            ]


class TestClippedBoxes:
    """From version 0008, in which every protocol clipped boxes before suppression, and back."""

    NAMES: ClassVar = {
        "default": "default",
        "o2f": "o2f",
        "defcn": "o2f",
        "onenet": "custom-ed4e8788",
        "crowdhuman": "custom-e07e4f0d",
        "custom-{}": "custom-{}",
    }
    """Name of a protocol before -> after; `{}` stands for the digest of its values."""

    OWN: ClassVar[dict[str, Any]] = {"nms_iou": 0.7, "level_range": 0}
    ADDED: ClassVar[dict[str, Any]] = {"cap_at_points": False, "clip": "before"}

    @staticmethod
    def named(name: str, rule: Mapping[str, Any]) -> str:
        return name.format(digest(canonical(rule), 8))

    @pytest.fixture
    def eighth(self, url: str, engine: Engine) -> Engine:
        """A ledger of version 0008: a trial with one evaluation per protocol."""
        own = {"preset": self.named("custom-{}", self.OWN), **self.OWN}
        config = {"evaluation": {"protocol": own, "every": 1}, "seed": 3}
        with Ledger.open(url) as ledger:
            ledger.add_sweep(sweep_record("s1", trial_record("t1", config=config)))
            attempt = ledger.start_attempt(Claim("t1", "s1"))
        downgrade(engine, "0008")
        tables = tables_of(engine)
        with begin(engine) as connection:
            ap = dict.fromkeys(("ap", "ap_nms", "gap"), 1.0)
            row = {"trial_id": "t1", "epoch": 1, "branch": "o2o", "truth": "", "is_primary": True}
            more = {"attempt_id": attempt, "more": {}, "classes": [], "created_at": NOW}
            for place, before in enumerate(self.NAMES):
                name = self.named(before, self.OWN)
                where = {"protocol": name, "candidates": f"c{place}", "matches": ""}
                connection.execute(
                    insert(tables["evaluation"]).values(**row, **more, **ap, **where)
                )
                rule = {"id": name, "rule": self.OWN, "created_at": NOW}
                connection.execute(insert(tables["protocol"]).values(**rule))
        return engine

    def test_evaluations_are_named_after_what_they_measured(self, url: str, eighth: Engine) -> None:
        with Ledger.open(url) as ledger:
            found = {e.protocol: (e.candidates, e.rule) for e in ledger.evaluations("t1")}
            own = ledger.trials("s1")[0].protocol
        rule = self.OWN | self.ADDED
        kept = [name for name in self.NAMES if name != "defcn"]  # o2f has the same values
        assert found == {
            self.named(self.NAMES[name], rule): (f"c{list(self.NAMES).index(name)}", rule)
            for name in kept
        }
        assert own == self.named("custom-{}", rule)

    def test_the_own_name_is_that_of_the_spec(self) -> None:
        """Fixed in the migration, because presets may change again."""
        for name in ("defcn", "onenet", "crowdhuman"):
            old = PROTOCOLS[name].model_copy(update=self.ADDED)
            assert self.NAMES[name] == protocol_key(old)

    def test_the_way_back(self, url: str, eighth: Engine) -> None:
        unclipped = self.OWN | self.ADDED | {"clip": "after"}
        with Ledger.open(url) as ledger:
            [attempt] = ledger.attempts("t1")
            ledger.record(evaluation_record(protocol="onenet", rule=unclipped), attempt.id)
        downgrade(eighth, "0008")
        with eighth.connect() as connection:
            tables = tables_of(eighth)
            rules = {row.id: row.rule for row in connection.execute(select(tables["protocol"]))}
            names = {row.protocol for row in connection.execute(select(tables["evaluation"]))}
        assert names == rules.keys() == {"default", "o2f", self.named("custom-{}", self.OWN)}
        assert all(rule == self.OWN for rule in rules.values())


class TestPositives:
    """From version 0009, in which epochs had losses only, and back."""

    def test_epochs_of_earlier_versions_have_none(self, url: str, engine: Engine) -> None:
        losses = {1: {"o2o.cls": 1 / 3}, 2: {"o2o.cls": 0.25}}
        with Ledger.open(url) as ledger:
            ledger.add_sweep(sweep_record("s1", trial_record("t1")))
            attempt = ledger.start_attempt(Claim("t1", "s1"))
            done = epoch_done("t1", 1, losses=losses[1], positives={"o2o.rank": 2.0})
            ledger.record_epoch(done, attempt)
        downgrade(engine, "0009")
        with Ledger.open(url) as ledger:
            assert ledger.positives("t1") == {}
            done = epoch_done("t1", 2, losses=losses[2], positives={"o2o.rank": 3.0})
            ledger.record_epoch(done, attempt)
            assert ledger.losses("t1") == losses
            assert ledger.positives("t1") == {2: {"o2o.rank": 3.0}}


class TestMeasurements:
    """From version 0010, which had no measurements, and back."""

    def test_the_table_comes_and_goes(self, url: str, engine: Engine) -> None:
        with Ledger.open(url) as ledger:
            ledger.add_measurement(measurement_record())
        downgrade(engine, "0010")
        assert "measurement" not in tables_of(engine)
        measured = measurement_record(
            name="größe 'x'; --",
            metrics={**METRIC_VALUES, "ap_small": None},
            classes=(ClassGap("été", 1.5, None, None),),
            source={"detections": "/a b/é.json"},
        )
        with Ledger.open(url) as ledger:
            assert ledger.measurements() == []
            ledger.add_measurement(measured)
            [found] = ledger.find_measurements("größe 'x'; --")
            assert {key: vars(found)[key] for key in vars(measured)} == vars(measured)

    def test_its_key_and_columns(self, engine: Engine) -> None:
        key = inspect(engine).get_pk_constraint("measurement")
        assert (key["name"], key["constrained_columns"]) == ("pk_measurement", ["id", "protocol"])
        assert not any(each["nullable"] for each in inspect(engine).get_columns("measurement"))


class TestSettings:
    """From version 0011, in which results were filtered in Python, and back."""

    TABLES = ("evaluation_classes", "chosen_evaluation", "setting", "trial_section")

    @staticmethod
    def held(engine: Engine, names: Iterable[str]) -> dict[str, list[Any]]:
        tables = tables_of(engine)
        with engine.connect() as connection:
            return {
                name: sorted(map(repr, connection.execute(select(tables[name])).all()))
                for name in names
            }

    def test_the_migration_writes_what_the_ledger_writes(self, url: str, engine: Engine) -> None:
        hostile = {"name": "'; --", "list": list(range(300)), "none": {}, "größe": 2**70, "x": None}
        first = trial_record("t1", config={"data": hostile, "seed": 1, "on": True}, seed=2**40)
        second = trial_record("t2", config={"data": hostile, "seed": 2, "lr": 1e-300})
        wanted = RowFilter(epoch="best", order=Order("trial"))
        with Ledger.open(url) as ledger:
            ledger.add_sweep(sweep_record("s1", first, second))
            attempt = ledger.start_attempt(Claim("t1", "s1"))
            for epoch, ap, branch in (
                (3, 1.0, "o2o"),
                (1, 5.0, "o2o"),
                (2, 5.0, "o2o"),
                (1, 0, ""),
            ):
                metrics = {**METRIC_VALUES, "ap": ap, "ar": None}
                ledger.record(
                    evaluation_record("t1", epoch, branch=branch, metrics=metrics), attempt
                )
            ledger.add_measurement(measurement_record(source={"file": "a.json"}, rule=RULE))
            before = self.held(engine, [*self.TABLES, "evaluation"])
            views = ledger.evaluations("t1"), ledger.rows(wanted)
        downgrade(engine, "0011")
        tables = tables_of(engine)
        assert not set(self.TABLES) & set(tables)
        assert "classes" in tables["evaluation"].columns
        with Ledger.open(url) as ledger:
            assert self.held(engine, [*self.TABLES, "evaluation"]) == before
            assert (ledger.evaluations("t1"), ledger.rows(wanted)) == views
        assert {name: len(rows) for name, rows in before.items()} == {
            "evaluation": 4,
            "evaluation_classes": 4,
            "chosen_evaluation": 6,
            "setting": 11,
            "trial_section": 8,
        }

    def test_views_for_other_tools(self, url: str, engine: Engine) -> None:
        with Ledger.open(url) as ledger:
            config = {"assignment": {"name": "poto", "alpha": 0.5}}
            ledger.add_sweep(sweep_record("s1", trial_record("t1", config=config)))
            attempt = ledger.start_attempt(Claim("t1", "s1"))
            ledger.record(evaluation_record("t1", 2), attempt)
            ledger.end_attempt(attempt, attempt_end(TrialState.SUCCEEDED))
        wanted = {
            "SELECT trial, state, attempts, gpu_hours * 3600 FROM trials": [
                (
                    "t1",
                    "succeeded",
                    1,
                    pytest.approx(attempt_end(TrialState.STOPPED).cost.gpu_seconds),
                )
            ],
            "SELECT trial, value FROM settings WHERE key = 'assignment.alpha' AND number = 0.5": [
                ("t1", "0.5")
            ],
            "SELECT trial, chosen, epoch, ap FROM results WHERE is_primary ORDER BY chosen": [
                ("t1", "best", 2, 0.0),
                ("t1", "last", 2, 0.0),
            ],
            "SELECT epoch, gap FROM evaluations": [(2, METRIC_VALUES["gap"])],
            "SELECT class, ap, gap FROM classes ORDER BY class": [
                ("circle", 1.5, -0.5),
                ("square", None, None),
            ],
        }
        with engine.connect() as connection:
            for query, rows in wanted.items():
                assert [tuple(row) for row in connection.execute(text(query))] == rows


class TestLaterOptions:
    """From version 0013, in which trials lacked the options that were added after them."""

    OLD: ClassVar[dict[str, Any]] = {"training": {"lr": 0.1, "loss": {}, "o2m_loss": None}}
    NEW: ClassVar[dict[str, Any]] = {
        "training": {
            **{"lr": 0.1, "o2m_loss": None, "accumulate": 1, "colour": 0.0, "compile": False},
            "group_by_aspect": False,
            "loss": {
                **{"cls": "assignment", "cls_target": "degree"},
                **{"mask_points": 64, "mask_weight": 1.0},
            },
            **{"mix_until": 1.0, "mixup": 0.0, "mosaic": 0.0, "sampling_lr": 1.0},
            "sync_batch_norm": False,
        }
    }
    OWN: ClassVar[dict[str, Any]] = {"training": {"loss": None, "mosaic": 0.5}, "seed": 1}

    def test_they_are_added(self, url: str, engine: Engine) -> None:
        with Ledger.open(url) as ledger:
            trials = trial_record("t1", config=self.NEW), trial_record("t3", config={"seed": 1})
            ledger.add_sweep(sweep_record("s1", *trials))
            expected = TestSettings.held(engine, ("setting", "trial_section"))
        downgrade(engine, "base")
        with Ledger.open(url) as ledger:
            old = trial_record("t1", config=self.OLD), trial_record("t3", config={"seed": 1})
            ledger.add_sweep(sweep_record("s1", *old))
            ledger.add_sweep(sweep_record("s2", trial_record("t1", config=self.OWN)))
        downgrade(engine, "0013")
        with Ledger.open(url) as ledger:
            assert [each.config for each in ledger.trials("s1")] == [self.NEW, {"seed": 1}]
            [own] = [each.config for each in ledger.trials("s2")]
            assert (own["training"]["loss"], own["training"]["mosaic"]) == (None, 0.5)
            assert own["training"].keys() == self.NEW["training"].keys() - {"lr", "o2m_loss"}
            assert TestSettings.held(engine, ("setting", "trial_section")) == expected
