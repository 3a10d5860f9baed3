"""The mirror against a real MLflow over SQLite."""

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaplab.errors import UserError
from gaplab.ledger.views import METRICS
from gaplab.mirror import database as mirror_store
from gaplab.mirror.replay import Mirror, MirrorThread
from gaplab.records import Cost, EpochDone, Machine, Started
from gaplab.states import TrialState

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
"""The client's calls that change MLflow."""
MACHINE = Machine("node", "cpu", 1, 0.0)


def client(bench: Any) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=bench.home.mlflow_uri)


def runs(bench: Any, name: str = "paper") -> list[Any]:
    mlflow = client(bench)
    experiment = mlflow.get_experiment_by_name(name)
    return [] if experiment is None else list(mlflow.search_runs([experiment.experiment_id]))


def run_of(bench: Any, trial: str | None, name: str = "paper") -> Any:
    [found] = [run for run in runs(bench, name) if run.data.tags.get("gaplab.trial") == trial]
    return found


def history(bench: Any, run: Any) -> dict[str, list[tuple[int, float, int]]]:
    mlflow = client(bench)
    return {
        key: sorted(
            (m.step, m.value, m.timestamp) for m in mlflow.get_metric_history(run.info.run_id, key)
        )
        for key in run.data.metrics
    }


def files(run: Any) -> dict[str, str]:
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    return {path.name: path.read_text() for path in sorted(folder.glob("*"))}


def snapshot(bench: Any, name: str = "paper") -> dict[str, Any]:
    """All of an experiment but MLflow's own random ids and what is derived from them."""
    found, names = (
        {},
        {run.info.run_id: run.data.tags["mlflow.runName"] for run in runs(bench, name)},
    )
    for run in runs(bench, name):
        tags = {k: v for k, v in run.data.tags.items() if k != "gaplab.mirrored"}
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = names[tags["mlflow.parentRunId"]]
        info = (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name)
        kept = (tags, run.data.params, history(bench, run), files(run), info)
        assert run.data.tags["mlflow.runName"] not in found
        found[run.data.tags["mlflow.runName"]] = kept
    return found


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def test_runs_equal_the_ledger(bench: Any) -> None:
    sweep, good, bad = bench.small()
    assert Mirror(bench.home).replay(bench.ledger, sweep) > 0
    assert len(runs(bench)) == 3
    parent = run_of(bench, None)
    for trial, status in ((good, "FINISHED"), (bad, "FAILED")):
        run, attempts = run_of(bench, trial.id), bench.ledger.attempts(trial.id)
        assert run.info.status == status
        assert run.info.start_time == milliseconds(attempts[0].started_at)
        assert run.info.end_time == milliseconds(attempts[0].ended_at)
        assert run.info.run_name == f"dual-seed{trial.seed}-{trial.id[:8]}"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        wanted: dict[str, list[tuple[int, float, int]]] = {}
        for each in bench.ledger.evaluations(trial.id):
            for key, value in each.metrics.items():
                name = key if each.primary else f"o2m/{key}"
                point = (each.epoch, value, milliseconds(each.created_at))
                wanted.setdefault(name, []).append(point)
        assert history(bench, run) == wanted
        assert len(wanted) == 20
    assert parent.info.status == "FAILED"
    assert parent.info.end_time == milliseconds(bench.ledger.attempts(bad.id)[0].ended_at)


def test_tags_params_and_files(bench: Any) -> None:
    sweep, good, bad = bench.small()
    Mirror(bench.home).replay(bench.ledger, sweep)
    run, parent = run_of(bench, good.id), run_of(bench, None)
    tags = {k[7:]: v for k, v in run.data.tags.items() if k.startswith("gaplab.")}
    del tags["mirrored"]
    assert tags == {
        "kind": "trial",
        "sweep": sweep,
        "trial": good.id,
        "assignment": "dual",
        "family": "hybrid",
        "dataset": "shapes",
        "protocol": "default",
        "results_version": "1",
        "reason": "",
    }
    assert run_of(bench, bad.id).data.tags["gaplab.reason"] == "loss is not finite at step 7"
    shown = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": "per_class.json", "type": "table"}]
    assert run.data.params == {
        "assignment.name": "dual",
        "assignment.alpha": "0.5",
        "seed": "1",
        "evaluation.every": "1",
        "evaluation.protocol.preset": "default",
    }
    assert yaml.safe_load(files(run)["trial.yaml"]) == good.config
    assert json.loads(files(run)["per_class.json"]) == {
        "columns": ["class", "ap", "ap_nms", "gap"],
        "data": [["circle", 1.307, 2.307, -1.0], ["star", None, None, None]],
    }
    assert files(parent) == {"spec.yaml": "name: paper\n"}
    assert parent.info.run_name == sweep


def test_again_changes_nothing(bench: Any) -> None:
    sweep, _, _ = bench.small()
    mirror = Mirror(bench.home)
    mirror.replay(bench.ledger, sweep)
    before = snapshot(bench)
    with closing(sqlite3.connect(bench.home.path / "mlflow.db")) as database:
        rows = list(database.iterdump())
        assert mirror.replay(bench.ledger, sweep) == 0
        assert Mirror(bench.home).replay(bench.ledger, sweep) == 0
        assert list(database.iterdump()) == rows
    assert snapshot(bench) == before


class BrokenError(Exception):
    """What stands for the death of the process."""


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], None]:
    """Makes the n-th changing call from now on raise, before or after it took effect."""
    from mlflow import MlflowClient

    countdown = {"left": -1, "after": 0}

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            countdown["left"] -= 1
            if countdown["left"] != 0:
                return call(self, *args, **kwargs)
            if countdown["after"]:
                call(self, *args, **kwargs)
            raise BrokenError

        return counted

    for name in WRITES:
        monkeypatch.setattr(MlflowClient, name, wrap(getattr(MlflowClient, name)))

    def arm(number: int, after: bool) -> None:
        countdown.update(left=number, after=after)

    return arm


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_call_and_replayed_is_as_if_undisturbed(
    bench: Any, breaking: Callable[[int, bool], None], after: bool
) -> None:
    _, good, bad = bench.small()
    Mirror(bench.home).replay(bench.ledger, bench.add("calm", good, bad, name="calm"))
    calm = json.loads(json.dumps(snapshot(bench, "calm")))
    broken = 0
    for number in range(1, 100):
        name = f"n{number:03d}"
        sweep = bench.add(name, good, bad, name=name)
        breaking(number, after)
        try:
            Mirror(bench.home).replay(bench.ledger, sweep)
        except BrokenError:
            broken += 1
        else:
            break
        finally:
            breaking(-1, False)
        Mirror(bench.home).replay(bench.ledger, sweep)
        created = {s.id: milliseconds(s.created_at) for s in bench.ledger.sweeps()}
        found = json.dumps(snapshot(bench, name)).replace(name, "calm")
        found = found.replace(str(created[sweep]), str(created["calm"]))
        assert json.loads(found) == calm, f"broken at call {number}"
    assert broken > len(WRITES)
    assert len(runs(bench, name)) == 3  # the one that ran through


def test_the_same_mirror_goes_on_after_a_failure(
    bench: Any, breaking: Callable[[int, bool], None]
) -> None:
    sweep, good, _ = bench.small()
    mirror = Mirror(bench.home)
    breaking(6, True)
    with pytest.raises(BrokenError):
        mirror.replay(bench.ledger, sweep)
    mirror.replay(bench.ledger, sweep)
    mirrored = snapshot(bench)
    Mirror(bench.home).replay(bench.ledger, bench.add("calm", good, name="calm"))
    name = f"dual-seed1-{good.id[:8]}"
    assert mirrored[name][1:] == snapshot(bench, "calm")[name][1:]


def test_follows_a_trial_from_waiting_to_the_end(bench: Any) -> None:
    first, second = bench.trial(1), bench.trial(2)
    sweep, mirror = bench.add("s", first, second), Mirror(bench.home)
    mirror.replay(bench.ledger, sweep)
    assert [run.info.status for run in runs(bench)] == ["SCHEDULED"]
    bench.start(first, sweep)
    mirror.replay(bench.ledger, sweep)
    assert run_of(bench, first.id).info.status == "RUNNING"
    assert run_of(bench, first.id).info.end_time is None
    assert run_of(bench, None).info.status == "RUNNING"
    for epoch in (1, 2):
        bench.epoch(first, epoch)
        assert mirror.replay(bench.ledger, sweep) == 21  # 20 metrics and the table of classes
    bench.end(first, TrialState.INTERRUPTED, "the driver was stopped")
    mirror.replay(bench.ledger, sweep)
    assert [run_of(bench, key).info.status for key in (first.id, None)] == ["KILLED", "KILLED"]
    for trial in (first, second):
        bench.start(trial, sweep)
        mirror.replay(bench.ledger, sweep)
        assert run_of(bench, None).info.status == "RUNNING"
        bench.epoch(trial, 3)
        bench.end(trial, TrialState.SUCCEEDED)
    mirror.replay(bench.ledger, sweep)
    assert {run.info.status for run in runs(bench)} == {"FINISHED"}
    run = run_of(bench, first.id)
    assert [step for step, _, _ in history(bench, run)["gap"]] == [1, 2, 3]
    assert run.data.tags["gaplab.reason"] == ""
    assert run.info.end_time == milliseconds(bench.ledger.attempts(first.id)[-1].ended_at)
    assert Mirror(bench.home).replay(bench.ledger, sweep) == 0


def test_a_trial_of_two_sweeps_has_a_run_in_each(bench: Any) -> None:
    sweep, good, _ = bench.small()
    other, mirror = bench.add("other", good), Mirror(bench.home)
    for each in (sweep, other):
        mirror.replay(bench.ledger, each)
    found = [r.data.tags for r in runs(bench) if r.data.tags.get("gaplab.trial") == good.id]
    parents = {r.data.tags["gaplab.sweep"]: r.info.run_id for r in runs(bench) if not r.data.params}
    assert {t["gaplab.sweep"]: t["mlflow.parentRunId"] for t in found} == parents


def test_other_protocols_have_a_prefix(bench: Any) -> None:
    sweep, good, _ = bench.small()
    mirror = Mirror(bench.home)
    mirror.replay(bench.ledger, sweep)
    table = files(run_of(bench, good.id))["per_class.json"]
    bench.epoch(good, 3, "defcn")
    assert mirror.replay(bench.ledger, sweep) == 20
    run = run_of(bench, good.id)
    metrics = {(e.protocol, e.branch): e.metrics for e in bench.ledger.evaluations(good.id)}
    assert run.data.metrics["gap"] == metrics["default", "o2o"]["gap"]
    assert run.data.metrics["defcn/gap"] == metrics["defcn", "o2o"]["gap"]
    assert run.data.metrics["defcn/o2m/gap"] == metrics["defcn", "o2m"]["gap"]
    assert files(run)["per_class.json"] == table


def test_metrics_of_any_name_where_they_have_a_value(bench: Any) -> None:
    trial = bench.trial(1)
    sweep, mirror = bench.add("s", trial), Mirror(bench.home)
    bench.start(trial, sweep)
    bench.epoch(trial, 1, ap_small=None, ap_medium=3.0, ar=None, ar_nms=None, ar_gap=None)
    more = {"ar@1": 4.5, "größe/ß_nms": 0.0, "a.b-c d:e": -1.0, "../up": 2.0}
    bench.epoch(trial, 2, "crowd", mmr=61.5, ap_small=7.0, **more)
    mirror.replay(bench.ledger, sweep)
    found = history(bench, run_of(bench, trial.id))
    values = {key: [(step, value) for step, value, _ in kept] for key, kept in found.items()}
    plain = {key: value for key, value in values.items() if "/" not in key}
    assert plain.keys() == {*METRICS[:-3], "ap_medium"}
    assert plain["ap_medium"] == [(1, 3.0)]
    other = {key.removeprefix("crowd/"): value for key, value in values.items() if "/" in key}
    for name, value in {
        **{"mmr": 61.5, "ap_small": 7.0, "o2m/mmr": 61.5, "a.b-c d:e": -1.0},
        **{"ar_1": 4.5, "größe_ß_nms": 0.0, ".._up": 2.0},
    }.items():
        assert other[name] == [(2, value)]
    assert mirror.replay(bench.ledger, sweep) == Mirror(bench.home).replay(bench.ledger, sweep) == 0


def test_more_than_one_batch_of_everything(bench: Any) -> None:
    trial = bench.trial(1, many={f"k{i}": i for i in range(250)}, long="x" * 7000, empty="")
    sweep = bench.add("s", trial)
    bench.start(trial, sweep)
    for epoch in range(1, 56):
        bench.epoch(trial, epoch)
    Mirror(bench.home).replay(bench.ledger, sweep)
    run = run_of(bench, trial.id)
    assert len(run.data.params) == 250 + 2 + 5
    assert run.data.params["many.k249"] == "249"
    assert run.data.params["long"] == "x" * 6000
    assert sum(map(len, history(bench, run).values())) == 55 * 20
    assert Mirror(bench.home).replay(bench.ledger, sweep) == 0


def test_a_sweep_without_trials(bench: Any) -> None:
    mirror = Mirror(bench.home)
    mirror.replay(bench.ledger, bench.add("empty"))
    assert [run.info.status for run in runs(bench)] == ["FINISHED"]
    assert mirror.replay(bench.ledger, "empty") == 0


def test_what_a_person_deleted_comes_back_once(bench: Any) -> None:
    sweep, good, bad = bench.small()
    Mirror(bench.home).replay(bench.ledger, sweep)
    before = snapshot(bench)
    mlflow, run = client(bench), run_of(bench, good.id)
    mlflow.delete_run(run.info.run_id)
    shutil.rmtree(run.info.artifact_uri.removeprefix("file://"))
    assert Mirror(bench.home).replay(bench.ledger, sweep) == 2  # the two files
    assert snapshot(bench) == before
    mlflow.delete_experiment(run.info.experiment_id)
    Mirror(bench.home).replay(bench.ledger, sweep)
    assert snapshot(bench) == before
    assert run_of(bench, bad.id).info.lifecycle_stage == "active"


def test_two_mirrors_make_no_run_twice(bench: Any) -> None:
    first, second = bench.trial(1), bench.trial(2)
    sweep, one, two = bench.add("s", first, second), Mirror(bench.home), Mirror(bench.home)
    bench.start(first, sweep)
    for mirror in (one, two):
        mirror.replay(bench.ledger, sweep)
    bench.start(second, sweep)
    assert two.replay(bench.ledger, sweep) > 0
    assert one.replay(bench.ledger, sweep) == 0
    assert len(runs(bench)) == 3


def test_only_some_trials(bench: Any) -> None:
    sweep, good, bad = bench.small()
    Mirror(bench.home).replay(bench.ledger, sweep, only={bad.id})
    assert {r.data.tags.get("gaplab.trial") for r in runs(bench)} == {None, bad.id}
    Mirror(bench.home).replay(bench.ledger, sweep)
    assert {r.data.tags.get("gaplab.trial") for r in runs(bench)} == {None, bad.id, good.id}


def test_an_unknown_sweep(bench: Any) -> None:
    with pytest.raises(UserError, match="'nowhere': not in the ledger"):
        Mirror(bench.home).replay(bench.ledger, "nowhere")


def test_a_person_s_own_mlflow_is_left_alone_and_nothing_is_printed(
    bench: Any, tmp_path: Path
) -> None:
    sweep, _, _ = bench.small()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    code = (
        "import sys; from pathlib import Path; from gaplab.storage.home import Home\n"
        "from gaplab.ledger import Ledger; from gaplab.mirror.replay import Mirror\n"
        "assert 'mlflow' not in sys.modules\n"
        "home = Home(Path(sys.argv[1]))\n"
        "with Ledger.open(home.ledger_url) as ledger:\n"
        "    assert Mirror(home).replay(ledger, sys.argv[2]) > 0\n"
    )
    own = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9/",
        "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9/",
        "MLFLOW_EXPERIMENT_NAME": "mine",
        "MLFLOW_RUN_ID": "0" * 32,
        "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
        "MLFLOW_ENABLE_WORKSPACES": "true",
    }
    command = [sys.executable, "-c", code, str(bench.home.path), sweep]
    env = os.environ | own
    done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(elsewhere.iterdir()) == []
    assert len(runs(bench)) == 3


def spoil(path: Path) -> None:
    path.write_bytes(b"this is no database, " * 100)


def outdate(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")


@pytest.mark.parametrize(
    ("damage", "why"),
    [(spoil, "file is not a database"), (outdate, "Detected out-of-date database schema")],
)
def test_a_broken_database_is_one_line(
    bench: Any, damage: Callable[[Path], None], why: str
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


def test_a_locked_database_is_one_line(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, _, _ = bench.small()
    monkeypatch.setattr(mirror_store, "_PATIENCE", 0.1)
    with closing(sqlite3.connect(bench.home.path / "mlflow.db")) as database:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"database is locked.*gaplab mirror"):
            Mirror(bench.home).replay(bench.ledger, sweep)


def events(bench: Any, trial: Any, epoch: int) -> EpochDone:
    done = tuple(bench.ledger.evaluations(trial.id))
    return EpochDone(trial.id, epoch, 3, {}, done, "", Cost())


def test_the_thread_follows_a_sweep(bench: Any) -> None:
    _, good, bad = bench.small()
    late = bench.trial(3)
    bench.add("late", good, bad, late)
    thread = MirrorThread(bench.home, "late")
    bench.start(late, "late")
    thread.notify(Started(late.id, MACHINE, 0))
    deadline = time.monotonic() + 60
    while len(runs(bench)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    bench.epoch(late, 1)
    thread.notify(events(bench, late, 1))
    bench.end(late, TrialState.SUCCEEDED)
    assert thread.close() is None
    assert Mirror(bench.home).replay(bench.ledger, "late") == 0
    assert run_of(bench, late.id).info.status == "FINISHED"


def test_the_thread_mirrors_on_close_what_it_never_heard_of(bench: Any) -> None:
    sweep, _, _ = bench.small()
    assert MirrorThread(bench.home, sweep).close() is None
    assert len(runs(bench)) == 3


def test_the_thread_says_in_one_line_that_mlflow_is_broken(bench: Any) -> None:
    sweep, good, _ = bench.small()
    spoil(bench.home.path / "mlflow.db")
    thread = MirrorThread(bench.home, sweep)
    thread.notify(Started(good.id, MACHINE, 0))
    problem = thread.close()
    assert problem is not None
    assert "\n" not in problem
    assert "file is not a database" in problem
    assert f"gaplab mirror {sweep}" in problem


def test_the_thread_says_that_the_ledger_is_gone(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, _, _ = bench.small()
    monkeypatch.setenv("GAPLAB_LEDGER", "mysql://nowhere/x")
    assert "not a SQLite file or a PostgreSQL" in (MirrorThread(bench.home, sweep).close() or "")


def test_the_end_waits_for_a_stuck_mirror_no_longer_than_asked(bench: Any) -> None:
    sweep, good, _ = bench.small()
    thread = MirrorThread(bench.home, sweep)
    with (bench.home.path / "mlflow.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread.notify(Started(good.id, MACHINE, 0))
        problem = thread.close(0.2)
        assert "not up to date after 0.2 s" in (problem or "")
        assert f"gaplab mirror {sweep}" in (problem or "")
    assert thread.close() is None
    assert len(runs(bench)) == 3


def test_the_database_is_made_whole_or_not_at_all(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.home.path / "mlflow.db"
    path.unlink()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    sweep, _, _ = bench.small()
    with pytest.raises(UserError, match="MLflow can't make it"):
        Mirror(bench.home).replay(bench.ledger, sweep)
    assert not path.exists()
