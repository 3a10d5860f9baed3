"""Read what MLflow holds of a home through MLflow's own client, and damage it."""

from datetime import datetime
from pathlib import Path
from typing import Any

from tests.builders import LedgerBench


def client(bench: LedgerBench) -> Any:
    """Return a client of the database of the home."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=bench.home.mlflow_uri)


def runs(bench: LedgerBench, name: str = "paper") -> list[Any]:
    """Return all runs of an experiment."""
    mlflow = client(bench)
    experiment = mlflow.get_experiment_by_name(name)
    return [] if experiment is None else list(mlflow.search_runs([experiment.experiment_id]))


def run_of(bench: LedgerBench, trial: str | None, name: str = "paper") -> Any:
    """Return the run of a trial, or for None that of the sweep itself."""
    [found] = [run for run in runs(bench, name) if run.data.tags.get("gaplab.trial") == trial]
    return found


def history(bench: LedgerBench, run: Any) -> dict[str, list[tuple[int, float | None, int]]]:
    """Return step, value and time of each metric of a run."""
    mlflow = client(bench)
    return {
        key: sorted(
            (m.step, m.value, m.timestamp) for m in mlflow.get_metric_history(run.info.run_id, key)
        )
        for key in run.data.metrics
    }


def folder_of(bench: LedgerBench, run: Any) -> Path:
    """Return the folder that MLflow's server reads the files of a run from."""
    scheme, _, path = run.info.artifact_uri.partition(":/")
    assert scheme == "mlflow-artifacts"
    return bench.home.mlflow_artifacts / str(path)


def files(bench: LedgerBench, run: Any) -> dict[str, str]:
    """Return the texts of the files of a run."""
    folder = folder_of(bench, run)
    return {path.name: path.read_text() for path in sorted(folder.glob("*"))}


def snapshot(bench: LedgerBench, name: str = "paper") -> dict[str, Any]:
    """Return all of an experiment except MLflow's random ids and what is derived from them."""
    found: dict[str, Any] = {}
    names = {run.info.run_id: run.data.tags["mlflow.runName"] for run in runs(bench, name)}
    for run in runs(bench, name):
        tags = {k: v for k, v in run.data.tags.items() if k != "gaplab.mirrored"}
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = names[tags["mlflow.parentRunId"]]
        info = (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name)
        kept = (tags, run.data.params, history(bench, run), files(bench, run), info)
        assert run.data.tags["mlflow.runName"] not in found
        found[run.data.tags["mlflow.runName"]] = kept
    return found


def milliseconds(moment: datetime | None) -> int:
    """Return the time as MLflow stores it."""
    assert moment is not None
    return round(moment.timestamp() * 1000)


def damage_database(path: Path) -> None:
    """Overwrite the file with something that is not a database."""
    path.write_bytes(b"this is not a database, " * 100)
