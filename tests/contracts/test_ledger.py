"""What every ledger does, on SQLite and on a real PostgreSQL."""

import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, insert, inspect, select, text

from detectors.evaluation.metrics import ClassGap
from gaplab.errors import UserError
from gaplab.ledger import Ledger, reading
from gaplab.ledger.claims import ClaimError
from gaplab.ledger.migrate import HEAD, MIGRATE, VERSION_TABLE, WRITE, alembic_config, open_engine
from gaplab.ledger.models import Base, Checkpoint
from gaplab.ledger.views import METRICS, CostKey, Coverage, RowFilter
from gaplab.ledger.views import Cost as MeanCost
from gaplab.records import (
    AttemptEnd,
    CancelRequest,
    Claim,
    Cost,
    EpochDone,
    EvaluationRecord,
    Machine,
    SweepRecord,
    TrialRecord,
)
from gaplab.states import TrialState

TABLES = ("sweep", "trial", "sweep_trial", "attempt", "evaluation", "checkpoint")
"""Those of the first version."""
MACHINE = Machine("node-1", "cpu", 2, 0.0)
SUCCESS = AttemptEnd(TrialState.SUCCEEDED, "", Cost(20.0, 0.0, 10.0, 512.0))
FAILURE = AttemptEnd(TrialState.FAILED, "loss is not finite", Cost(1.0, 0.5, 2.0, 100.0))
NUMBERS = {name: float(place) for place, name in enumerate(METRICS)}
CROWD = {"ap": 1.0, "ap_nms": 2.5, "gap": -1.5, "mmr": 61.25, "mmr_nms": 60.0, "mmr_gap": 1.25}
RULE = {"nms_iou": 0.6, "order": "nms_then_cut", "level_range": None, "class_wise": True}


def trial(identity: str, seed: int = 0, **changes) -> TrialRecord:
    config = {"assignment": {"name": "poto", "alpha": 0.8}, "seed": seed}
    return replace(TrialRecord(identity, config, "poto", "o2o", "shapes", seed, 12, 1), **changes)


def sweep(identity: str, *trials: TrialRecord, name: str = "first") -> SweepRecord:
    return SweepRecord(identity, name, "name: first", trials)


def evaluation(identity: str = "t1", epoch: int = 1, **changes) -> EvaluationRecord:
    classes = (ClassGap("circle", 1.5, 2.0, -0.5), ClassGap("square", None, None, None))
    record = EvaluationRecord(identity, epoch, "o2o", True, "default", dict(NUMBERS), classes)
    return replace(record, **changes)


def checkpoints(ledger: Ledger, trial: str) -> dict[int, str]:
    """Epochs and addresses of the trial's checkpoints."""
    query = select(Checkpoint.epoch, Checkpoint.uri).where(Checkpoint.trial_id == trial)
    with ledger._engine.connect() as connection:
        return {row.epoch: row.uri for row in connection.execute(query)}


@pytest.fixture
def started(ledger: Ledger) -> tuple[Ledger, int]:
    """A ledger with sweep s1 of trials t1 and t2, and the id of t1's running attempt."""
    ledger.add_sweep(sweep("s1", trial("t1"), trial("t2", seed=1)))
    return ledger, ledger.start_attempt(Claim("t1", "s1", machine=MACHINE))


def _insert(connection: Any, table: Any, **values: Any) -> None:
    connection.execute(insert(table).values(**values))


class TestMigration:
    @pytest.fixture
    def engine(self, url: str) -> Iterator[Engine]:
        engine = open_engine(url)
        yield engine
        engine.dispose()

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

    def test_names_of_constraints_equal_migrations(self, engine: Engine) -> None:
        migrated, inspector = MetaData(), inspect(engine)
        migrated.reflect(engine)
        for table in Base.metadata.tables.values():
            names = {each.name for each in table.constraints}
            assert {each.name for each in migrated.tables[table.name].constraints} == names
            checks = {each["name"] for each in inspector.get_check_constraints(table.name)}
            assert checks == {name for name in names if str(name).startswith("ck_")}

    def test_down_to_nothing_and_up_again(self, url: str, engine: Engine) -> None:
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            command.downgrade(alembic_config(connection), "base")
        assert inspect(engine).get_table_names() == [VERSION_TABLE]
        with Ledger.open(url) as ledger:
            ledger.add_sweep(sweep("s1", trial("t1")))
            assert ledger.states(["t1"]) == {"t1": "waiting"}

    @pytest.fixture
    def first(self, engine: Engine) -> list[dict[str, Any]]:
        """Makes the ledger one of version 0001, with evaluations, which are returned."""
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            command.downgrade(alembic_config(connection), "base")
            command.upgrade(alembic_config(connection), "0001")
            tables = MetaData()
            tables.reflect(connection)
            now = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
            add = {name: partial(_insert, connection, tables.tables[name]) for name in TABLES}
            add["sweep"](id="s1", name="first", spec="name: first", created_at=now)
            known = vars(trial("t1")) | {"state": "succeeded", "created_at": now}
            add["trial"](**known)
            add["sweep_trial"](sweep_id="s1", trial_id="t1", position=0)
            about = {"node": "n", "device": "cpu", "workers": 1, "gpus": 0.0, "driver": "default"}
            key = {"id": 7, "trial_id": "t1", "sweep_id": "s1", "number": 1}
            add["attempt"](**key, **about, state="succeeded", reason="", started_at=now)
            classes = [{"name": "größe", "ap": 1 / 3, "ap_nms": None, "gap": None}]
            key = {"trial_id": "t1", "attempt_id": 7, "branch": "o2o", "is_primary": True}
            key |= {"protocol": "default", "classes": classes, "created_at": now}
            rows = [key | {"epoch": e} | {n: v / 7 + e for n, v in NUMBERS.items()} for e in (1, 2)]
            for row in rows:
                add["evaluation"](**row)
            add["checkpoint"](trial_id="t1", epoch=2, uri="file:///2", created_at=now)
        return rows

    def test_the_first_version_s_evaluations_stay(
        self, url: str, first: list[dict[str, Any]]
    ) -> None:
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
            [row] = ledger.rows(RowFilter())
            assert (row.ar_gap, row.more) == (first[1]["ar_gap"], {})
            crowd = evaluation(epoch=3, protocol="crowdhuman", metrics=CROWD, rule=RULE)
            assert ledger.record(crowd, 7)

    def test_back_to_the_first_version(
        self, url: str, engine: Engine, first: list[dict[str, Any]]
    ) -> None:
        with Ledger.open(url) as ledger:
            ledger.record(evaluation(epoch=3, metrics=CROWD, rule=RULE), 7)
            wider = {**NUMBERS, "ap_small": None, "ar1": 3.0}
            ledger.record(evaluation(epoch=4, metrics=wider, candidates="c", matches="m"), 7)
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            command.downgrade(alembic_config(connection), "0001")
        tables = MetaData()
        tables.reflect(engine)
        kept = tables.tables["evaluation"]
        assert "protocol" not in tables.tables
        assert set(kept.columns.keys()) == first[0].keys()
        assert not any(column.nullable for column in kept.columns)
        with engine.connect() as connection:
            rows = connection.execute(select(kept).order_by(kept.c.epoch)).mappings().all()
        assert [row["epoch"] for row in rows] == [1, 2, 4]
        for row, wanted in zip(rows, [*first, NUMBERS], strict=True):
            assert {name: row[name] for name in METRICS} == {n: wanted[n] for n in METRICS}
        with Ledger.open(url) as ledger:
            assert [e.metrics for e in ledger.evaluations("t1")][2] == NUMBERS

    def test_an_upgrade_that_fails_changes_nothing(
        self, url: str, engine: Engine, first: list[dict[str, Any]]
    ) -> None:
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            connection.execute(text("CREATE TABLE protocol (mine TEXT)"))
        with pytest.raises(UserError, match="already exists"):
            Ledger.open(url)
        columns = {column["name"] for column in inspect(engine).get_columns("evaluation")}
        assert columns == first[0].keys()
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            connection.execute(text("DROP TABLE protocol"))
        with Ledger.open(url) as ledger:
            assert len(ledger.evaluations("t1")) == 2

    def test_many_upgrade_the_first_version_together(
        self, url: str, first: list[dict[str, Any]]
    ) -> None:
        with ThreadPoolExecutor(4) as pool:
            ledgers = list(pool.map(Ledger.open, [url] * 4))
        assert [len(each.evaluations("t1")) for each in ledgers] == [2] * 4
        for each in ledgers:
            each.close()

    def test_many_open_an_empty_database_together(self, url: str) -> None:
        with ThreadPoolExecutor(6) as pool:
            ledgers = list(pool.map(Ledger.open, [url] * 6))
        assert [each.sweeps() for each in ledgers] == [[]] * 6
        for each in ledgers:
            each.close()

    def test_a_newer_ledger_is_refused(self, url: str, engine: Engine) -> None:
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        with pytest.raises(UserError, match=r"written by a newer gaplab \(version 9999"):
            Ledger.open(url)

    def test_shares_a_database_with_another_alembic_user(self, url: str, engine: Engine) -> None:
        with engine.execution_options(**{WRITE: MIGRATE}).begin() as connection:
            connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
            connection.execute(text("INSERT INTO alembic_version VALUES ('of mlflow')"))
        with Ledger.open(url) as ledger:
            assert ledger.sweeps() == []


class TestEmpty:
    def test_everything_is_empty(self, ledger: Ledger) -> None:
        assert ledger.sweeps() == []
        assert ledger.states([]) == ledger.states(["t1"]) == {}
        assert ledger.trials("s1") == ledger.attempts("t1") == ledger.evaluations("t1") == []
        assert list(ledger.all_trials()) == list(ledger.all_trials("s1")) == []
        assert list(ledger.all_evaluations()) == list(ledger.all_evaluations("s1")) == []
        assert ledger.protocols() == {}
        assert ledger.mark_orphaned_lost("driver died") == []
        assert ledger.drivers() == ledger.drivers("s1") == []
        assert ledger.cancelled("s1", "d1") == CancelRequest()
        assert ledger.costs() == {}
        assert ledger.rows(RowFilter()) == ledger.coverage(RowFilter()) == []

    def test_a_sweep_without_trials(self, ledger: Ledger) -> None:
        ledger.add_sweep(sweep("s1"))
        assert ledger.sweep("s1").total == 0
        assert ledger.sweeps()[0].counts["waiting"] == 0

    def test_unknown_ones_are_user_errors(self, ledger: Ledger) -> None:
        for find in (ledger.sweep, ledger.find_sweep, ledger.find_trial):
            with pytest.raises(UserError, match="'abc': not in the ledger"):
                find("abc")


class TestSweeps:
    def test_round_trip(self, ledger: Ledger) -> None:
        config = {"a": [1, 2.5, None, True], "ü": {"b": "日本 ☃ '\"%"}, "big": 2**53}
        first = trial("t2", seed=2**40, config=config, dataset="Zellen-ß", results_version=3)
        before = datetime.now(UTC)
        ledger.add_sweep(replace(sweep("s1", first, trial("t1")), name="größe ☃", spec="ü: 1\n"))
        found = ledger.sweep("s1")
        assert (found.name, found.spec, found.total) == ("größe ☃", "ü: 1\n", 2)
        assert before <= found.created_at <= datetime.now(UTC)
        assert found.created_at.utcoffset() == timedelta(0)
        views = ledger.trials("s1")
        assert [view.id for view in views] == ["t2", "t1"]
        assert {**vars(views[0]), "state": 0, "created_at": 0} == {
            **vars(first),
            "state": 0,
            "created_at": 0,
        }
        assert ledger.find_trial("t2") == views[0]

    def test_adding_again_changes_nothing(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, SUCCESS)
        before = (ledger.sweeps(), ledger.trials("s1"))
        ledger.add_sweep(sweep("s1", trial("t1"), trial("t2", seed=1)))
        assert (ledger.sweeps(), ledger.trials("s1")) == before

    def test_a_trial_is_shared_and_keeps_its_row(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, SUCCESS)
        other = sweep("s2", trial("t3"), trial("t1", config={}), name="second")
        ledger.add_sweep(other)
        assert [(v.id, v.state) for v in ledger.trials("s2")] == [
            ("t3", "waiting"),
            ("t1", "succeeded"),
        ]
        assert ledger.trials("s2")[1].config == trial("t1").config
        assert [each.id for each in ledger.sweeps()] == ["s2", "s1"]
        assert ledger.sweep("s2").counts == dict.fromkeys(TrialState, 0) | {
            "waiting": 1,
            "succeeded": 1,
        }

    def test_an_id_with_other_trials_is_refused(self, started: tuple[Ledger, int]) -> None:
        ledger, _ = started
        with pytest.raises(ValueError, match="sweep s1 is in the ledger with other trials"):
            ledger.add_sweep(sweep("s1", trial("t1"), trial("t9")))
        assert ledger.states(["t9"]) == {}

    def test_two_drivers_add_the_same_trials(self, url: str, ledger: Ledger) -> None:
        trials = [trial(f"t{number}") for number in range(300)]
        with Ledger.open(url) as other, ThreadPoolExecutor(2) as pool:
            one = pool.submit(ledger.add_sweep, sweep("s1", *trials))
            two = pool.submit(other.add_sweep, sweep("s2", *reversed(trials)))
            one.result(), two.result()
        assert [each.total for each in ledger.sweeps()] == [300, 300]

    def test_states_of_very_many(self, ledger: Ledger) -> None:
        ids = [f"t{number}" for number in range(40_000)]
        ledger.add_sweep(sweep("s1", *(trial(each) for each in ids[:3])))
        assert ledger.states(ids) == dict.fromkeys(ids[:3], "waiting")


class TestFinding:
    @pytest.fixture(autouse=True)
    def _sweeps(self, ledger: Ledger) -> None:
        ledger.add_sweep(sweep("aa11", trial("f00d"), trial("f0_x"), name="table-3"))
        ledger.add_sweep(sweep("aa22", trial("beef"), name="table-3"))
        ledger.add_sweep(sweep("b%33", name="Größe"))

    def test_sweep(self, ledger: Ledger) -> None:
        for wanted, found in (
            ("aa1", "aa11"),
            ("aa11", "aa11"),
            ("table-3", "aa22"),
            ("Größe", "b%33"),
            ("b%", "b%33"),
        ):
            assert ledger.find_sweep(wanted).id == found

    def test_no_single_sweep(self, ledger: Ledger) -> None:
        for wanted, message in (
            ("aa", "'aa': begins several ids (aa11, aa22); give more of it"),
            ("tabel-3", "'tabel-3': not in the ledger; did you mean table-3?"),
            ("%", "'%': not in the ledger; there are Größe, aa11, aa22, b%33, table-3"),
            ("", "'': not in the ledger; there are Größe, aa11, aa22, b%33, table-3"),
        ):
            with pytest.raises(UserError) as error:
                ledger.find_sweep(wanted)
            assert str(error.value) == f"sweep {message}"

    def test_trial(self, ledger: Ledger) -> None:
        assert ledger.find_trial("be").id == "beef"
        assert ledger.find_trial("f0_").id == "f0_x"
        with pytest.raises(UserError, match=r"begins several ids \(f00d, f0_x\)"):
            ledger.find_trial("f0")
        with pytest.raises(UserError, match="did you mean beef"):
            ledger.find_trial("beff")


class TestAttempts:
    def test_start(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        [view] = ledger.attempts("t1")
        assert (view.id, view.number, view.state, view.sweep) == (attempt, 1, "running", "s1")
        assert (view.node, view.device, view.workers, view.gpus) == ("node-1", "cpu", 2, 0.0)
        assert view.ended_at is view.wall_seconds is None
        assert ledger.states(["t1", "t2"]) == {"t1": "running", "t2": "waiting"}

    def test_fail_try_again_succeed(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, FAILURE)
        assert ledger.states(["t1"]) == {"t1": "failed"}
        ledger.end_attempt(ledger.start_attempt(Claim("t1", "s1", machine=MACHINE)), SUCCESS)
        first, second = ledger.attempts("t1")
        assert (first.number, first.state, first.reason) == (1, "failed", "loss is not finite")
        assert (first.cpu_seconds, first.gpu_seconds, first.wall_seconds) == (1.0, 0.5, 2.0)
        assert (second.number, second.state, second.peak_memory_mib) == (2, "succeeded", 512.0)
        assert second.ended_at is not None
        assert first.started_at <= second.started_at <= second.ended_at
        assert ledger.states(["t1"]) == {"t1": "succeeded"}

    def test_running_succeeded_unknown_or_foreign_can_not_start(
        self, started: tuple[Ledger, int]
    ) -> None:
        ledger, attempt = started
        with pytest.raises(ValueError, match="trial t1 can't start: it is running"):
            ledger.start_attempt(Claim("t1", "s1", machine=MACHINE))
        ledger.end_attempt(attempt, SUCCESS)
        with pytest.raises(ValueError, match="trial t1 can't start: it is succeeded"):
            ledger.start_attempt(Claim("t1", "s1", machine=MACHINE))
        with pytest.raises(ValueError, match="trial t9 can't start: it is not in the ledger"):
            ledger.start_attempt(Claim("t9", "s1", machine=MACHINE))
        with pytest.raises(ValueError, match="trial t2 can't start: it is not in sweep s9"):
            ledger.start_attempt(Claim("t2", "s9", machine=MACHINE))
        assert ledger.states(["t2"]) == {"t2": "waiting"}
        assert len(ledger.attempts("t1")) == 1

    def test_only_one_of_many_claims_a_trial(self, url: str, ledger: Ledger) -> None:
        ledger.add_sweep(sweep("s1", trial("t1")))

        def claim(each: Ledger) -> int:
            try:
                return each.start_attempt(Claim("t1", "s1", machine=MACHINE))
            except ValueError:
                return 0

        with Ledger.open(url) as other, ThreadPoolExecutor(8) as pool:
            claims = list(pool.map(claim, [ledger, other] * 8))
        assert sorted(claims)[:-1] == [0] * 15
        assert [view.id for view in ledger.attempts("t1")] == [max(claims)]

    def test_end_again(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, SUCCESS)
        before = ledger.attempts("t1")
        ledger.end_attempt(attempt, replace(SUCCESS, cost=Cost()))
        assert ledger.attempts("t1") == before
        with pytest.raises(ValueError, match="can't end as failed: it is succeeded"):
            ledger.end_attempt(attempt, FAILURE)
        with pytest.raises(ValueError, match="can't end as failed: it is not in the ledger"):
            ledger.end_attempt(attempt + 1, FAILURE)
        assert ledger.states(["t1"]) == {"t1": "succeeded"}

    def test_costs_must_be_finite(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        with pytest.raises(ValueError, match="not finite: gpu_seconds, wall_seconds"):
            ledger.end_attempt(
                attempt, replace(SUCCESS, cost=Cost(gpu_seconds=math.inf, wall_seconds=math.nan))
            )
        assert ledger.states(["t1"]) == {"t1": "running"}

    def test_any_reason_becomes_one_line(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, replace(FAILURE, reason="CUDA\n error\0\udcff  ☃\n"))
        assert ledger.attempts("t1")[0].reason == r"CUDA error\x00\udcff ☃"


class TestEvaluations:
    def test_round_trip(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        classes = (ClassGap("größe ☃", 1 / 3, 2 / 3, -1 / 3), ClassGap("b", None, None, None))
        metrics = {name: value / 7 for name, value in NUMBERS.items()}
        wanted = evaluation(
            **{"classes": classes, "metrics": metrics, "branch": "o2m", "primary": False},
            **{"candidates": "s3://b/ü", "matches": "file:///m ☃", "rule": RULE},
        )
        assert ledger.record(wanted, attempt) is True
        [found] = ledger.evaluations("t1")
        assert found.attempt == attempt
        assert {key: vars(found)[key] for key in vars(wanted)} == vars(wanted)

    @pytest.mark.parametrize(
        "metrics",
        [
            {"ap": 1.0, "ap_nms": 2.0, "gap": -1.0},
            CROWD,
            {**NUMBERS, "ap_small": None, "ap_small_nms": None, "ar@1": 1 / 3, "größe ☃": 1e-300},
            {**NUMBERS, "ar": None, "ar_gap": None},
            {"ap": 0, "ap_nms": 1, "gap": -1, "trial_id": 3.5, "more": 0.0},
        ],
    )
    def test_any_metrics_come_back(
        self, started: tuple[Ledger, int], metrics: dict[str, float | None]
    ) -> None:
        ledger, attempt = started
        ledger.record(evaluation(metrics=metrics), attempt)
        [found], [row] = ledger.evaluations("t1"), ledger.rows(RowFilter())
        assert found.metrics == metrics
        assert {name: getattr(row, name) for name in METRICS} == {
            name: metrics.get(name) for name in METRICS
        }
        others = {name: value for name, value in metrics.items() if name not in METRICS}
        assert {name: row.more[name] for name in others} == others

    def test_the_first_stays(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        assert ledger.record(evaluation(), attempt)
        before = ledger.evaluations("t1")
        changed = {name: value + 1 for name, value in NUMBERS.items()}
        for _ in range(3):
            assert ledger.record(evaluation(metrics=changed, classes=()), attempt) is False
        assert ledger.evaluations("t1") == before

    def test_epoch_branch_and_protocol_are_the_key(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        records = [
            evaluation(epoch=epoch, branch=branch, protocol=protocol)
            for epoch in (2, 1)
            for branch in ("o2o", "o2m")
            for protocol in ("defcn", "default")
        ]
        assert all(ledger.record(each, attempt) for each in records)
        found = [(each.epoch, each.branch, each.protocol) for each in ledger.evaluations("t1")]
        assert found == sorted((each.epoch, each.branch, each.protocol) for each in records)

    def test_one_row_from_many_connections(self, started: tuple[Ledger, int], url: str) -> None:
        ledger, attempt = started
        records = [
            evaluation(epoch=number % 5, metrics=dict.fromkeys(METRICS, float(number)))
            for number in range(100)
        ]
        with Ledger.open(url) as other, ThreadPoolExecutor(8) as pool:
            jobs = [
                pool.submit((ledger, other)[number % 2].record, each, attempt)
                for number, each in enumerate(records)
            ]
            new = [each for each, job in zip(records, jobs, strict=True) if job.result()]
        found = ledger.evaluations("t1")
        assert sorted(each.epoch for each in new) == [0, 1, 2, 3, 4]
        assert {each.epoch: each.metrics for each in found} == {e.epoch: e.metrics for e in new}
        assert len(found) == 5

    def test_not_finite_is_refused(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match="trial t1, epoch 1: not finite: gap"):
                ledger.record(evaluation(metrics={**NUMBERS, "gap": value}), attempt)
            with pytest.raises(ValueError, match="not finite: ar1"):
                ledger.record(evaluation(metrics={**NUMBERS, "ar1": value}), attempt)
            with pytest.raises(ValueError, match="class a: not finite: ap_nms"):
                ledger.record(evaluation(classes=(ClassGap("a", None, value, 0.0),)), attempt)
        assert ledger.evaluations("t1") == []

    def test_ap_and_gap_are_required(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        for metrics in ({**NUMBERS, "ap": None, "gap": None}, {"ap_nms": 1.0, "ar": 2.0}):
            with pytest.raises(ValueError, match="trial t1, epoch 1: no value for ap, gap"):
                ledger.record(evaluation(metrics=metrics), attempt)
        assert ledger.evaluations("t1") == []

    def test_addresses_are_filled_in_once(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.record(evaluation(), attempt)
        ledger.record(evaluation(epoch=2), attempt)
        other = {name: value + 1 for name, value in NUMBERS.items()}
        for addresses, wanted in (
            ({}, ("", "")),
            ({"candidates": "c1"}, ("c1", "")),
            ({"candidates": "c2", "matches": "m1"}, ("c1", "m1")),
            ({"matches": "m2"}, ("c1", "m1")),
            ({}, ("c1", "m1")),
        ):
            again = evaluation(metrics=other, classes=(), **addresses)
            assert ledger.record(again, attempt) is False
            found, untouched = ledger.evaluations("t1")
            assert (found.candidates, found.matches, found.metrics) == (*wanted, NUMBERS)
            assert (untouched.candidates, untouched.matches) == ("", "")

    def test_the_attempt_must_be_the_trial_s(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        for identity, number in (("t2", attempt), ("t1", attempt + 1), ("t9", attempt)):
            with pytest.raises(
                ValueError, match=f"attempt {number} is not one of trial {identity}"
            ):
                ledger.record(evaluation(identity), number)

    def test_a_new_protocol_after_the_end(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.end_attempt(attempt, SUCCESS)
        assert ledger.record(evaluation(protocol="defcn"), attempt)
        assert ledger.states(["t1"]) == {"t1": "succeeded"}


class TestProtocols:
    def test_the_first_rule_is_kept(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.record(evaluation(), attempt)
        assert ledger.protocols() == {}
        ledger.record(evaluation(epoch=2, rule=RULE), attempt)
        ledger.record(evaluation(epoch=3, rule=dict(reversed(RULE.items()))), attempt)
        ledger.record(evaluation(epoch=4), attempt)
        ledger.record(evaluation(protocol="a", rule={"nms_iou": 0.5}), attempt)
        assert ledger.protocols() == {"a": {"nms_iou": 0.5}, "default": RULE}
        assert list(ledger.protocols()) == ["a", "default"]
        assert [e.rule for e in ledger.evaluations("t1")] == [{"nms_iou": 0.5}, *[RULE] * 4]

    def test_one_name_never_has_two_meanings(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.record(evaluation(rule=RULE), attempt)
        for other in (RULE | {"nms_iou": 0.5}, RULE | {"new": 1}, {"nms_iou": 0.6}):
            for epoch in (1, 2):
                with pytest.raises(ValueError, match="protocol default is in the ledger with ano"):
                    ledger.record(evaluation(epoch=epoch, rule=other), attempt)
        with pytest.raises(ValueError, match="not JSON compliant"):
            ledger.record(evaluation(protocol="b", rule={"nms_iou": math.nan}), attempt)
        assert ledger.protocols() == {"default": RULE}
        assert [e.epoch for e in ledger.evaluations("t1")] == [1]

    def test_a_rule_comes_with_its_evaluation_or_not_at_all(
        self, started: tuple[Ledger, int]
    ) -> None:
        ledger, attempt = started
        with pytest.raises(ValueError, match="is not one of trial t2"):
            ledger.record(evaluation("t2", rule=RULE), attempt)
        assert ledger.protocols() == {}

    def test_many_connections_agree_on_one_rule(
        self, started: tuple[Ledger, int], url: str
    ) -> None:
        ledger, attempt = started
        records = [evaluation(epoch=n, rule={"nms_iou": n % 4 / 4}) for n in range(80)]

        def kept(number: int, each: EvaluationRecord) -> bool:
            try:
                return (ledger, other)[number // 4 % 2].record(each, attempt)
            except ValueError:
                return False

        with Ledger.open(url) as other, ThreadPoolExecutor(8) as pool:
            told = list(pool.map(kept, range(80), records))
        [rule] = ledger.protocols().values()
        assert told == [each.rule == rule for each in records]
        assert len(ledger.evaluations("t1")) == 20

    def test_a_driver_and_a_reevaluation_side_by_side(
        self, started: tuple[Ledger, int], url: str
    ) -> None:
        """Both write the same new protocols and addresses, in opposite orders."""
        ledger, attempt = started
        every = [
            evaluation(epoch=epoch, protocol=protocol, rule={"name": protocol}, candidates="c")
            for epoch in range(5)
            for protocol in "abcdefgh"
        ]
        done = EpochDone("t1", 5, 12, {}, tuple(every), "", Cost())
        back = replace(done, evaluations=tuple(reversed(every)))
        with Ledger.open(url) as other, ThreadPoolExecutor(2) as pool:
            one = pool.submit(ledger.record_epoch, done, attempt)
            two = pool.submit(other.record_epoch, back, attempt)
            one.result(), two.result()
        assert len(ledger.evaluations("t1")) == len(every)
        assert list(ledger.protocols()) == list("abcdefgh")


class TestCheckpoints:
    def test_each_epoch_has_one(self, started: tuple[Ledger, int]) -> None:
        ledger, _ = started
        ledger.add_checkpoint("t1", 2, "s3://bucket/ü/2")
        ledger.add_checkpoint("t1", 1, "file:///1")
        assert checkpoints(ledger, "t1") == {1: "file:///1", 2: "s3://bucket/ü/2"}
        assert checkpoints(ledger, "t2") == {}

    def test_the_newest_address_of_an_epoch_counts(self, started: tuple[Ledger, int]) -> None:
        ledger, _ = started
        for address in ("a", "b", "b"):
            ledger.add_checkpoint("t1", 2, address)
        assert checkpoints(ledger, "t1") == {2: "b"}

    def test_of_an_unknown_trial(self, ledger: Ledger) -> None:
        with pytest.raises(ValueError, match="trial t9 is not in the ledger"):
            ledger.add_checkpoint("t9", 1, "a")


class TestEpochs:
    def done(self, epoch: int, *evaluations: EvaluationRecord, checkpoint: str = "") -> EpochDone:
        checkpoint = checkpoint or f"file:///{epoch}"
        return EpochDone("t1", epoch, 12, {}, evaluations, checkpoint, Cost())

    def test_evaluations_and_checkpoint(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        both = (evaluation(), evaluation(branch="o2m", primary=False))
        ledger.record_epoch(self.done(1, *both), attempt)
        ledger.record_epoch(self.done(2), attempt)
        assert [(e.epoch, e.branch) for e in ledger.evaluations("t1")] == [(1, "o2m"), (1, "o2o")]
        assert checkpoints(ledger, "t1") == {1: "file:///1", 2: "file:///2"}

    def test_a_resumed_trial_says_it_all_again(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.record_epoch(self.done(1, evaluation(epoch=1)), attempt)
        ledger.end_attempt(attempt, FAILURE)
        second = ledger.start_attempt(Claim("t1", "s1", machine=MACHINE))
        again = self.done(2, evaluation(epoch=1), evaluation(epoch=2))
        for _ in range(2):
            ledger.record_epoch(again, second)
        found = [(each.epoch, each.attempt) for each in ledger.evaluations("t1")]
        assert found == [(1, attempt), (2, second)]

    def test_a_finished_trial_asked_for_once_more(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        ledger.add_sweep(sweep("s2", trial("t3")))
        other = ledger.start_attempt(Claim("t3", "s2"))
        ledger.record_epoch(replace(self.done(1, evaluation("t3")), trial="t3"), other)
        ledger.record_epoch(self.done(12, evaluation(epoch=12)), attempt)
        assert not ledger.rerun("t1")  # it runs
        ledger.end_attempt(attempt, SUCCESS)
        assert ledger.rerun("t1")
        assert not ledger.rerun("t1")
        assert not ledger.rerun("t9")
        assert ledger.states(["t1", "t3"]) == {"t1": "waiting", "t3": "running"}
        assert (ledger.evaluations("t1"), checkpoints(ledger, "t1")) == ([], {})
        assert (len(ledger.evaluations("t3")), len(checkpoints(ledger, "t3"))) == (1, 1)
        with pytest.raises(ClaimError, match="is over: it is succeeded"):
            ledger.record_epoch(self.done(12, evaluation(epoch=12)), attempt)
        second = ledger.start_attempt(Claim("t1", "s1", after=attempt))
        ledger.record_epoch(self.done(1, evaluation()), second)
        assert [(e.epoch, e.attempt) for e in ledger.evaluations("t1")] == [(1, second)]
        assert [a.state for a in ledger.attempts("t1")] == ["succeeded", "running"]

    def test_all_or_nothing(self, started: tuple[Ledger, int]) -> None:
        ledger, attempt = started
        bad = evaluation(branch="o2m", metrics={**NUMBERS, "ap": math.nan})
        with pytest.raises(ValueError, match="not finite: ap"):
            ledger.record_epoch(self.done(1, evaluation(), bad), attempt)
        assert ledger.evaluations("t1") == []
        assert checkpoints(ledger, "t1") == {}


class TestExport:
    @pytest.fixture
    def many(self, ledger: Ledger) -> Ledger:
        """Sweep s1 of 30 trials, the later half also in s2 backwards; 3 evaluations for each."""
        trials = [trial(f"t{number:02d}", number) for number in range(30)]
        ledger.add_sweep(sweep("s1", *trials))
        ledger.add_sweep(sweep("s2", *reversed(trials[15:]), name="second"))
        for each in reversed(trials):
            attempt = ledger.start_attempt(Claim(each.id, "s1", machine=MACHINE))
            for epoch in (2, 1):
                ledger.record(evaluation(each.id, epoch, rule=RULE), attempt)
            crowd = evaluation(each.id, 2, protocol="crowd", metrics=CROWD, candidates="c")
            ledger.record(crowd, attempt)
        return ledger

    @pytest.fixture(params=[1000, 7])
    def rows_at_once(self, request: pytest.FixtureRequest, monkeypatch: Any) -> None:
        monkeypatch.setattr(reading, "_AT_ONCE", request.param)

    @pytest.mark.usefixtures("rows_at_once")
    def test_everything(self, many: Ledger) -> None:
        trials, found = list(many.all_trials()), list(many.all_evaluations())
        assert trials == many.trials("s1")
        assert found == [each for t in trials for each in many.evaluations(t.id)]
        assert len(found) == 90

    @pytest.mark.usefixtures("rows_at_once")
    def test_of_one_sweep(self, many: Ledger) -> None:
        trials, found = list(many.all_trials("s2")), list(many.all_evaluations("s2"))
        assert trials == many.trials("s2")
        wanted = [each for t in reversed(trials) for each in many.evaluations(t.id)]
        assert found == wanted
        assert len(found) == 45
        assert list(many.all_trials("s")) == list(many.all_evaluations("second")) == []

    def test_writing_while_reading(self, many: Ledger, url: str) -> None:
        """What is read is of one moment; who reads slowly stops nobody."""
        reading = many.all_evaluations()
        first = next(reading)
        with Ledger.open(url) as other:
            attempt = other.attempts("t29")[0].id
            assert other.record(evaluation("t29", 9), attempt)
        assert len([first, *reading]) == 90
        assert len(list(many.all_evaluations())) == 91

    def test_reading_may_stop_early(self, many: Ledger) -> None:
        for _ in range(30):
            assert next(many.all_trials()).id == "t00"
            assert next(many.all_evaluations("s2")).trial == "t15"


class TestStored:
    def test_as_it_was_added(self, ledger: Ledger) -> None:
        with pytest.raises(UserError, match="none in the ledger yet"):
            ledger.stored_sweep()
        first = sweep("s1", trial("t2"), trial("t1", seed=3), name="one")
        second = sweep("s2", trial("t9"), name="two")
        ledger.add_sweep(first)
        ledger.add_sweep(second)
        assert ledger.stored_sweep() == second
        assert ledger.stored_sweep("one") == ledger.stored_sweep("s1") == first
        with pytest.raises(UserError, match="did you mean two"):
            ledger.stored_sweep("tow")


class TestQuestions:
    def test_costs_are_means_of_whole_successes(self, ledger: Ledger) -> None:
        ledger.add_sweep(sweep("s1", *(trial(f"t{n}", n) for n in range(3)), trial("u", epochs=3)))
        for identity, wall in (("t0", 10.0), ("t1", 30.0), ("u", 4.0)):
            attempt = ledger.start_attempt(Claim(identity, "s1", machine=MACHINE))
            ledger.end_attempt(
                attempt, AttemptEnd(TrialState.SUCCEEDED, "", Cost(2 * wall, wall / 2, wall))
            )
        for end in (FAILURE, replace(SUCCESS, cost=Cost(wall_seconds=1.0))):  # resumed: only a part
            ledger.end_attempt(ledger.start_attempt(Claim("t2", "s1", machine=MACHINE)), end)
        assert ledger.costs() == {
            CostKey("shapes", "poto", 12): MeanCost(20.0, 40.0, 10.0, 2),
            CostKey("shapes", "poto", 3): MeanCost(4.0, 8.0, 2.0, 1),
        }

    @pytest.fixture
    def measured(self, started: tuple[Ledger, int]) -> Ledger:
        """t1: three epochs, two branches, default and defcn; t2: one epoch; s2 holds t1, too."""
        ledger, first = started
        ledger.add_sweep(sweep("s2", trial("t1"), name="second"))
        second = ledger.start_attempt(Claim("t2", "s1", machine=MACHINE))
        for epoch, ap in ((1, 5.0), (2, 9.0), (3, 9.0), (4, 7.0)):
            for branch in ("o2o", "o2m"):
                metrics = {**NUMBERS, "ap": ap}
                each = evaluation(epoch=epoch, metrics=metrics, branch=branch)
                ledger.record(replace(each, primary=branch == "o2o"), first)
        ledger.record(evaluation(protocol="defcn", epoch=4), first)
        ledger.record(evaluation("t2"), second)
        addresses = {"candidates": "file:///c", "matches": "file:///m"}
        ledger.record(evaluation("t2", protocol="crowd", metrics=CROWD, **addresses), second)
        return ledger

    def test_rows(self, measured: Ledger) -> None:
        t1, t2 = ("t1", "s2", 4, "o2o"), ("t2", "s1", 1, "o2o")
        for wanted, found in (
            (RowFilter(), [t1, t2]),
            (RowFilter(epoch="best"), [("t1", "s2", 3, "o2o"), t2]),
            (RowFilter(epoch=2), [("t1", "s2", 2, "o2o")]),
            (RowFilter(branch="o2m"), [("t1", "s2", 4, "o2m")]),
            (RowFilter(protocol="defcn"), [t1]),
            (RowFilter(sweep="s1"), [("t1", "s1", 4, "o2o"), t2]),
            (RowFilter(sweep="s2", assignment="poto", dataset="shapes"), [t1]),
            (RowFilter(dataset="coco"), []),
            (RowFilter(assignment="fcos"), []),
            (RowFilter(protocol="o2f"), []),
            (RowFilter(protocol="crowd"), [("t2", "s1", 1, "o2o")]),
            (RowFilter(trials=("t2", "t9")), [t2]),
            (RowFilter(trials=("t1", "t2"), sweep="s2"), [t1]),
            (RowFilter(trials=()), []),
        ):
            rows = measured.rows(wanted)
            assert sorted((row.trial, row.sweep, row.epoch, row.branch) for row in rows) == found
            assert {row.protocol for row in rows} <= {wanted.protocol}

    def test_a_row_s_fields(self, measured: Ledger) -> None:
        [row] = measured.rows(RowFilter(epoch=2))
        about = (row.sweep_name, row.assignment, row.family, row.dataset, row.seed, row.state)
        assert about == ("second", "poto", "o2o", "shapes", 0, "running")
        assert (row.epochs, row.results_version, row.config) == (12, 1, trial("t1").config)
        assert {name: getattr(row, name) for name in METRICS} == {**NUMBERS, "ap": 9.0}

    def test_a_row_of_another_evaluator(self, measured: Ledger) -> None:
        [row] = measured.rows(RowFilter(protocol="crowd"))
        assert (row.ap, row.ap_nms, row.gap) == (1.0, 2.5, -1.5)
        assert {getattr(row, name) for name in METRICS[3:]} == {None}
        assert row.more == {name: value for name, value in CROWD.items() if name not in METRICS}
        assert (row.candidates, row.matches) == ("file:///c", "file:///m")
        [row] = measured.rows(RowFilter(epoch=2))
        assert (row.more, row.candidates, row.matches) == ({}, "", "")

    def test_coverage(self, measured: Ledger) -> None:
        default = [Coverage("default", "o2m", 1, 4), Coverage("default", "o2o", 1, 4)]
        crowd, defcn = Coverage("crowd", "o2o", 1, 1), Coverage("defcn", "o2o", 4, 4)
        assert measured.coverage(RowFilter()) == [crowd, *default, defcn]
        assert measured.coverage(RowFilter(sweep="s2", epoch=9, protocol="x")) == [
            *default,
            Coverage("defcn", "o2o", 4, 4),
        ]
        assert measured.coverage(RowFilter(dataset="coco")) == []
        assert measured.coverage(RowFilter(trials=("t1",))) == [*default, defcn]
        assert measured.coverage(RowFilter(trials=())) == []


class TestUrls:
    @pytest.mark.parametrize(
        "url", ["ledger.db", "", "mysql://host/db", "sqlite://", "sqlite:///:memory:"]
    )
    def test_not_a_ledger_s(self, url: str) -> None:
        with pytest.raises(UserError, match=r"write sqlite:////folder/ledger\.db or postgresql"):
            Ledger.open(url)

    def test_unreachable_and_its_password(self) -> None:
        with pytest.raises(UserError, match="Connection refused") as error:
            Ledger.open("postgresql://me:secret@127.0.0.1:1/gaplab")
        assert "secret" not in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("content", [b"GIF89a" * 1000, b"SQLite format 3\0" + b"\1" * 5000])
    def test_a_file_that_is_no_database(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "ledger.db"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"ledger\.db: file is not a database; give the URL"):
            Ledger.open(f"sqlite:///{path}")
        assert path.read_bytes() == content

    def test_a_folder_that_can_t_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="choose a folder you can write to"):
            Ledger.open(f"sqlite:///{tmp_path}/file/ledger.db")


_WRITER = """
import sys
from gaplab.ledger.repository import Ledger
from gaplab.records import EvaluationRecord
from detectors.evaluation.metrics import ClassGap
ledger = Ledger.open(sys.argv[1])
classes = tuple(ClassGap(f"class {n}", 1.0, 1.0, 0.0) for n in range(50))
for epoch in range(1_000_000):
    metrics = dict.fromkeys(sys.argv[3].split(), float(epoch))
    ledger.record(EvaluationRecord("t1", epoch, "o2o", True, "default", metrics, classes),
                  int(sys.argv[2]))
    print(epoch, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_was_told_is_kept(
    started: tuple[Ledger, int], url: str
) -> None:
    ledger, attempt = started
    arguments = [sys.executable, "-c", _WRITER, url, str(attempt), " ".join(METRICS)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            assert writer.stdout.readline()
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        told = 50 + len([line for line in writer.stdout.read().split("\n")[:-1] if line])
    found = ledger.evaluations("t1")
    assert told <= len(found) <= told + 1
    assert [each.epoch for each in found] == list(range(len(found)))
    assert all(set(each.metrics.values()) == {float(each.epoch)} for each in found)
    assert all(len(each.classes) == 50 for each in found)
    assert ledger.mark_orphaned_lost("driver died") == ["t1"]


def test_sqlite_settings(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/ledger.db")
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    assert found == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}
