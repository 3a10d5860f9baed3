"""Experiments and runs of MLflow: found or created, and filled with what they lack.

Imports no MLflow: `gaplab.mirror.replay`, its only importer, passes the module on.

The database names files by `mlflow-artifacts:` and a path, which MLflow's server looks up in the
home folder that it serves, so the folder can be moved. MLflow's client can't write to such an
address without a server, so the files are written here.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from gaplab.mirror.content import (
    KIND_TAG,
    SWEEP_TAG,
    TRIAL_TAG,
    VIEW_TAG,
    RunContent,
)
from gaplab.mirror.database import SCHEME

T = TypeVar("T")

_FINGERPRINT_TAG = "gaplab.mirrored"
"""Tag that is set last: the fingerprint of the content that the run holds."""
_MOST_METRICS, _MOST_PARAMS, _PAGE = 1000, 100, 1000  # MLflow's limits


@dataclass
class _Run:
    """What is known of a run in MLflow; `points` is None until they have been read."""

    id: str
    folder: Path
    tags: dict[str, str]
    status: str
    ended: int | None
    params: set[str]
    keys: Collection[str]
    points: set[tuple[str, int, float]] | None = None
    files: dict[str, str] = field(default_factory=dict)


class Runs:
    """The runs of one experiment. Remembers what they hold, and writes only what is missing.

    Args:
        mlflow: the module.
        uri: URL of MLflow's database.
        name: name of the experiment.
        artifacts: folder for the files of its runs, named like the experiment.
    """

    def __init__(self, mlflow: ModuleType, uri: str, name: str, artifacts: Path) -> None:
        self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._entities = mlflow.entities
        self._artifacts = artifacts
        self._experiment = self._open(name, f"{SCHEME}/{name}")
        self._sweeps: dict[str, dict[str, _Run]] = {}
        self._views: dict[str, str] = {}

    def ensure(self, wanted: RunContent) -> tuple[str, int]:
        """Find or create the run of `wanted`. Returns its id and how many were created: 0 or 1."""
        run, created = self._ensure(wanted)
        return run.id, created

    def set_view(self, name: str, view: str) -> int:
        """Set a shared view of the experiment. Returns 1 if it was different, else 0."""
        if self._views.get(name) == view:
            return 0
        experiment = self._client.get_experiment(self._experiment)
        self._views[name] = view
        if experiment.tags.get(VIEW_TAG + name) == view:
            return 0
        self._client.set_experiment_tag(self._experiment, VIEW_TAG + name, view)
        return 1

    def write(self, wanted: RunContent) -> int:
        """Write to the run of `wanted` everything that it lacks. Returns the number of items."""
        run, created = self._ensure(wanted)
        complete = run.tags.get(_FINGERPRINT_TAG) == wanted.fingerprint
        files = self._missing_files(run, wanted, complete)
        if complete and not files:
            return created
        written = self._log(run, wanted) + self._upload(run, files) + self._end(run, wanted)
        self._tag(run, {_FINGERPRINT_TAG: wanted.fingerprint})
        return created + written

    def _open(self, name: str, artifacts: str) -> str:
        """Find or create the experiment, restoring a deleted one. Returns its id."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _ensure(self, wanted: RunContent) -> tuple[_Run, int]:
        sweep, key = wanted.tags[SWEEP_TAG], _key(wanted.tags)
        if sweep not in self._sweeps:
            found = self._search({SWEEP_TAG: sweep})
            self._sweeps[sweep] = {_key(run.tags): run for run in found}
        runs, created = self._sweeps[sweep], 0
        if key not in runs:
            runs[key], created = self._find_or_create(wanted)
        return runs[key], created

    def _find_or_create(self, wanted: RunContent) -> tuple[_Run, int]:
        """Search again first: another process may have created the run since the sweep was read."""
        names = (KIND_TAG, SWEEP_TAG, TRIAL_TAG)
        found = self._search({name: wanted.tags[name] for name in names if name in wanted.tags})
        if run := next(found, None):
            return run, 0
        created = self._client.create_run(
            self._experiment, start_time=wanted.started, tags=wanted.tags
        )
        return self._load(created), 1

    def _search(self, tags: Mapping[str, str]) -> Iterator[_Run]:
        """Yield the runs with these tags; deleted ones are restored."""
        where = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        any_stage, token = self._entities.ViewType.ALL, None
        while True:
            page = self._client.search_runs(
                [self._experiment], where, any_stage, _PAGE, page_token=token
            )
            yield from map(self._load, page)
            if not (token := page.token):
                return

    def _load(self, run: Any) -> _Run:
        if run.info.lifecycle_stage == "deleted":
            self._client.restore_run(run.info.run_id)
        data, info = run.data, run.info
        return _Run(
            id=info.run_id,
            folder=self._artifacts / info.run_id / "artifacts",
            tags=dict(data.tags),
            status=info.status,
            ended=info.end_time,
            params=set(data.params),
            keys=tuple(data.metrics),
        )

    def _missing_files(self, run: _Run, wanted: RunContent, complete: bool) -> dict[str, str]:
        """Return the files that MLflow does not hold with this text.

        complete: whether all have been written; a person may have deleted some since then.
        """
        if not complete:
            return {n: text for n, text in wanted.files.items() if run.files.get(n) != text}
        if run.files != wanted.files:
            # Checked in the folder: listing them through the client would double a replay's time.
            present = {n: text for n, text in wanted.files.items() if (run.folder / n).is_file()}
            run.files = present
        return {n: text for n, text in wanted.files.items() if n not in run.files}

    def _log(self, run: _Run, wanted: RunContent) -> int:
        """Log the missing tags, params and metrics. Returns their number."""
        tags = {key: text for key, text in wanted.tags.items() if run.tags.get(key) != text}
        params = [item for item in wanted.params.items() if item[0] not in run.params]
        known = self._points(run)
        points = [p for p in wanted.points if (p.key, p.epoch, p.value) not in known]
        for items in _chunks(params, _MOST_PARAMS):
            entities = [self._entities.Param(*item) for item in items]
            self._client.log_batch(run.id, params=entities, synchronous=True)
        for chunk in _chunks(points, _MOST_METRICS):
            metrics = [self._entities.Metric(p.key, p.value, p.time, p.epoch) for p in chunk]
            self._client.log_batch(run.id, metrics=metrics, synchronous=True)
        if tags:
            self._tag(run, tags)
        run.params |= wanted.params.keys()
        known |= {(p.key, p.epoch, p.value) for p in points}
        return len(tags) + len(params) + len(points)

    def _points(self, run: _Run) -> set[tuple[str, int, float]]:
        """Return key, epoch and value of all metrics of the run, read on first use."""
        if run.points is None:
            histories = (self._client.get_metric_history(run.id, key) for key in run.keys)
            run.points = {(m.key, m.step, m.value) for history in histories for m in history}
        return run.points

    def _tag(self, run: _Run, tags: dict[str, str]) -> None:
        entities = [self._entities.RunTag(key, text) for key, text in tags.items()]
        self._client.log_batch(run.id, tags=entities, synchronous=True)
        run.tags |= tags

    def _upload(self, run: _Run, files: dict[str, str]) -> int:
        run.folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            part = run.folder / f"{name}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(run.folder / name)
        run.files |= files
        return len(files)

    def _end(self, run: _Run, wanted: RunContent) -> int:
        """Set status and end time. Returns 1 if they were different, else 0."""
        ended = run.ended if wanted.ended is None else wanted.ended
        if (run.status, run.ended) == (wanted.status, ended):
            return 0
        if wanted.ended is None:
            self._client.update_run(run.id, status=wanted.status)
        else:
            self._client.set_terminated(run.id, wanted.status, wanted.ended)
        run.status, run.ended = wanted.status, ended
        return 1


def _key(tags: Mapping[str, str]) -> str:
    """Return the trial of a run, or an empty text for the run of the sweep itself."""
    return tags.get(TRIAL_TAG, "")


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
