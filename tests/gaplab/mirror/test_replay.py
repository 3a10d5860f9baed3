"""The mirror against a real MLflow over SQLite."""

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from gaplab.cli import main
from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.views import METRICS
from gaplab.mirror.replay import Mirror
from gaplab.results.measurement.measure import keep
from gaplab.results.measurement.measuring import measure
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home
from tests.builders import LedgerBench
from tests.gaplab.mirror.mlflow_runs import (
    client,
    files,
    folder_of,
    history,
    milliseconds,
    run_of,
    runs,
    snapshot,
)
from tests.gaplab.results.measurement.foreign import write_foreign

pytestmark = [
    # MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


def test_runs_equal_the_ledger(bench: LedgerBench) -> None:
    sweep, good, bad = bench.small()
    assert Mirror(bench.home).replay(bench.ledger, sweep) > 0
    assert len(runs(bench)) == 3
    parent = run_of(bench, None)
    for trial, status in ((good, "FINISHED"), (bad, "FAILED")):
        run, attempts = run_of(bench, trial.id), bench.ledger.attempts(trial.id)
        assert run.info.status == status
        assert run.info.start_time == milliseconds(attempts[0].started_at)
        assert run.info.end_time == milliseconds(attempts[0].ended_at)
        assert run.info.run_name == f"dual seed={trial.seed}"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        wanted: dict[str, list[tuple[int, float | None, int]]] = {}
        for each in bench.ledger.evaluations(trial.id):
            for key, value in each.metrics.items():
                name = key if each.primary else f"o2m.{key}"
                point = (each.epoch, value, milliseconds(each.created_at))
                wanted.setdefault(name, []).append(point)
        assert history(bench, run) == wanted
        assert len(wanted) == 20
    assert parent.info.status == "FAILED"
    assert parent.info.end_time == milliseconds(bench.ledger.attempts(bad.id)[0].ended_at)


def test_tags_params_and_files(bench: LedgerBench) -> None:
    sweep, good, bad = bench.small()
    report = bench.home.report_path(sweep)
    report.parent.mkdir()
    report.write_text("<p>AP → gap</p>")
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
    assert yaml.safe_load(files(bench, run)["trial.yaml"]) == good.config
    assert json.loads(files(bench, run)["per_class.json"]) == {
        "columns": ["class", "ap", "ap_nms", "gap"],
        "data": [["circle", 1.307, 2.307, -1.0], ["star", None, None, None]],
    }
    assert files(bench, parent) == {
        "spec.yaml": "name: paper\n",
        "report.html": report.read_text(),
    }
    assert parent.info.run_name == sweep


def test_a_second_replay_changes_nothing(bench: LedgerBench) -> None:
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


def test_follows_a_trial_from_waiting_to_the_end(bench: LedgerBench) -> None:
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


def test_a_trial_of_two_sweeps_has_a_run_in_each(bench: LedgerBench) -> None:
    sweep, good, _ = bench.small()
    other, mirror = bench.add("other", good), Mirror(bench.home)
    for each in (sweep, other):
        mirror.replay(bench.ledger, each)
    found = [r.data.tags for r in runs(bench) if r.data.tags.get("gaplab.trial") == good.id]
    parents = {r.data.tags["gaplab.sweep"]: r.info.run_id for r in runs(bench) if not r.data.params}
    assert {t["gaplab.sweep"]: t["mlflow.parentRunId"] for t in found} == parents


def test_other_protocols_have_a_prefix(bench: LedgerBench) -> None:
    sweep, good, _ = bench.small()
    mirror = Mirror(bench.home)
    mirror.replay(bench.ledger, sweep)
    table = files(bench, run_of(bench, good.id))["per_class.json"]
    bench.epoch(good, 3, "defcn")
    assert mirror.replay(bench.ledger, sweep) == 20
    run = run_of(bench, good.id)
    metrics = {(e.protocol, e.branch): e.metrics for e in bench.ledger.evaluations(good.id)}
    assert run.data.metrics["gap"] == metrics["default", "o2o"]["gap"]
    assert run.data.metrics["defcn.gap"] == metrics["defcn", "o2o"]["gap"]
    assert run.data.metrics["defcn.o2m.gap"] == metrics["defcn", "o2m"]["gap"]
    assert files(bench, run)["per_class.json"] == table


def test_metrics_of_any_name_where_they_have_a_value(bench: LedgerBench) -> None:
    trial = bench.trial(1)
    sweep, mirror = bench.add("s", trial), Mirror(bench.home)
    bench.start(trial, sweep)
    bench.epoch(trial, 1, ap_small=None, ap_medium=3.0, ar=None, ar_nms=None, ar_gap=None)
    more = {"ar@1": 4.5, "größe/ß_nms": 0.0, "a.b-c d:e": -1.0, "../up": 2.0}
    bench.epoch(trial, 2, "crowd", mmr=61.5, ap_small=7.0, **more)
    mirror.replay(bench.ledger, sweep)
    found = history(bench, run_of(bench, trial.id))
    values = {key: [(step, value) for step, value, _ in kept] for key, kept in found.items()}
    plain = {k: value for k, value in values.items() if not k.startswith(("crowd.", "o2m."))}
    assert plain.keys() == {*METRICS[:-3], "ap_medium"}
    assert plain["ap_medium"] == [(1, 3.0)]
    other = {key.removeprefix("crowd."): value for key, value in values.items()}
    for name, value in {
        **{"mmr": 61.5, "ap_small": 7.0, "o2m.mmr": 61.5, "a.b-c d:e": -1.0},
        **{"ar_1": 4.5, "größe_ß_nms": 0.0, ".._up": 2.0},
    }.items():
        assert other[name] == [(2, value)]
    assert mirror.replay(bench.ledger, sweep) == Mirror(bench.home).replay(bench.ledger, sweep) == 0


def test_more_than_one_batch_of_everything(bench: LedgerBench) -> None:
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


def test_a_sweep_without_trials(bench: LedgerBench) -> None:
    mirror = Mirror(bench.home)
    mirror.replay(bench.ledger, bench.add("empty"))
    assert [run.info.status for run in runs(bench)] == ["FINISHED"]
    assert mirror.replay(bench.ledger, "empty") == 0


def test_what_a_person_deleted_is_restored_once(bench: LedgerBench) -> None:
    sweep, good, bad = bench.small()
    Mirror(bench.home).replay(bench.ledger, sweep)
    before = snapshot(bench)
    mlflow, run = client(bench), run_of(bench, good.id)
    mlflow.delete_run(run.info.run_id)
    shutil.rmtree(folder_of(bench, run))
    assert Mirror(bench.home).replay(bench.ledger, sweep) == 2  # the two files
    assert snapshot(bench) == before
    mlflow.delete_experiment(run.info.experiment_id)
    Mirror(bench.home).replay(bench.ledger, sweep)
    assert snapshot(bench) == before
    assert run_of(bench, bad.id).info.lifecycle_stage == "active"


@pytest.mark.parametrize("earlier", [False, True], ids=["this version", "absolute addresses"])
def test_a_moved_home_keeps_its_runs(bench: LedgerBench, earlier: bool) -> None:
    sweep, good, _ = bench.small()
    Mirror(bench.home).replay(bench.ledger, sweep)
    before, old = snapshot(bench), bench.home.path
    if earlier:
        make_absolute(bench.home)
    bench.ledger.close()
    bench.home = Home(old.rename(old.parent / "n?ew %20ü"))
    bench.ledger = Ledger.open(bench.home.ledger_url)
    assert Mirror(bench.home).replay(bench.ledger, sweep) == 0
    assert snapshot(bench) == before
    table = folder_of(bench, run_of(bench, good.id)) / "per_class.json"
    table.unlink()
    assert Mirror(bench.home).replay(bench.ledger, sweep) == 1
    assert snapshot(bench) == before
    assert [each.name for each in old.parent.iterdir()] == ["n?ew %20ü"]


def make_absolute(home: Home) -> None:
    """Write the addresses of files as earlier versions did."""
    folder = home.mlflow_artifacts.as_uri()
    with closing(sqlite3.connect(home.mlflow_path)) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            where = f"WHERE {column} LIKE 'mlflow-artifacts:%'"
            change = f"UPDATE {table} SET {column} = replace({column}, 'mlflow-artifacts:', ?)"
            assert database.execute(f"{change} {where}", [folder]).rowcount > 0


def test_two_mirrors_create_no_run_twice(bench: LedgerBench) -> None:
    first, second = bench.trial(1), bench.trial(2)
    sweep, one, two = bench.add("s", first, second), Mirror(bench.home), Mirror(bench.home)
    bench.start(first, sweep)
    for mirror in (one, two):
        mirror.replay(bench.ledger, sweep)
    bench.start(second, sweep)
    assert two.replay(bench.ledger, sweep) > 0
    assert one.replay(bench.ledger, sweep) == 0
    assert len(runs(bench)) == 3


def test_only_some_trials(bench: LedgerBench) -> None:
    sweep, good, bad = bench.small()
    Mirror(bench.home).replay(bench.ledger, sweep, only={bad.id})
    assert {r.data.tags.get("gaplab.trial") for r in runs(bench)} == {None, bad.id}
    Mirror(bench.home).replay(bench.ledger, sweep)
    assert {r.data.tags.get("gaplab.trial") for r in runs(bench)} == {None, bad.id, good.id}


def test_an_unknown_sweep(bench: LedgerBench) -> None:
    with pytest.raises(UserError, match="'nowhere': not in the ledger"):
        Mirror(bench.home).replay(bench.ledger, "nowhere")


def test_an_asha_sweep(
    bench: LedgerBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trials that its rule stopped are killed, the others and the sweep are finished."""
    sweep = bench.asha()
    monkeypatch.setattr(sys, "argv", ["gaplab", "mirror", "--home", str(bench.home.path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code or 0) == 0
    assert capsys.readouterr().out.startswith(f"{sweep}: MLflow updated: ")
    statuses = {"succeeded": "FINISHED", "stopped": "KILLED"}
    for trial in bench.ledger.trials(sweep):
        assert run_of(bench, trial.id, "asha").info.status == statuses[trial.state]
    parent = run_of(bench, None, "asha")
    attempts = [bench.ledger.attempts(trial.id)[0] for trial in bench.ledger.trials(sweep)]
    ends = [milliseconds(each.ended_at) for each in attempts]
    assert (parent.info.status, parent.info.end_time) == ("FINISHED", max(ends))
    assert Mirror(bench.home).replay(bench.ledger, sweep) == 0


@pytest.mark.parametrize("state", [s for s in TrialState if s.ended])
def test_a_trial_in_any_state_and_its_sweep(bench: LedgerBench, state: TrialState) -> None:
    trial = bench.trial(1)
    sweep = bench.add("s", trial)
    bench.run(trial, sweep, 1, state)
    Mirror(bench.home).replay(bench.ledger, sweep)
    status = {"succeeded": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")
    assert run_of(bench, trial.id).info.status == status
    assert run_of(bench, None).info.status == status


def test_each_set_of_measured_detections_has_a_run(bench: LedgerBench, tmp_path: Path) -> None:
    toy, storage = write_foreign(tmp_path / "toy", images=3), Storage(str(bench.home.path))
    for path, name in ((toy.o2m, "many"), (toy.o2o, "one")):
        for protocol in ("default", "detr"):
            found = measure(path, toy.truth, protocol, resamples=0)
            keep(bench.ledger, storage, found, name)
    mirror = Mirror(bench.home)
    assert mirror.replay_measurements(bench.ledger) > 0
    assert mirror.replay_measurements(bench.ledger) == 0
    assert mirror.experiment_id("measured") is not None
    assert len(runs(bench, "measured")) == 2
