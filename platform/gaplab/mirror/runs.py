"""Experiments and runs of MLflow: found or made, and given what they lack.

Imports no MLflow: `gaplab.mirror.replay`, its only importer, hands the module over.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gaplab.mirror.content import KIND_TAG, SWEEP_TAG, TRIAL_TAG, VIEW_TAG, RunContent, view

T = TypeVar("T")

_MARK = "gaplab.mirrored"
"""Tag set last: the mark of the content that the run is known to hold."""
_MOST_METRICS, _MOST_PARAMS, _PAGE = 1000, 100, 1000  # MLflow's limits


@dataclass
class _Run:
    """One run as MLflow is known to hold it; `points` is None until they have been read."""

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
    """The runs of one experiment, all written with explicit ids; remembers what they hold."""

    def __init__(self, mlflow: ModuleType, uri: str, name: str, artifacts: Path) -> None:
        self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._entities = mlflow.entities
        self._experiment = self._open(name, artifacts.as_uri())
        self._sweeps: dict[str, dict[str, _Run]] = {}

    def ensure(self, wanted: RunContent) -> tuple[str, int]:
        """Id of the run of `wanted`, and whether it had to be made: 0 or 1."""
        run, made = self._ensure(wanted)
        return run.id, made

    def write(self, wanted: RunContent) -> int:
        """Give the run of `wanted` all that it lacks; how many things that were."""
        run, made = self._ensure(wanted)
        marked = run.tags.get(_MARK) == wanted.mark
        files = self._lacking(run, wanted, marked)
        if marked and not files:
            return made
        written = self._log(run, wanted) + self._upload(run, files) + self._conclude(run, wanted)
        self._tag(run, {_MARK: wanted.mark})
        return made + written

    def _open(self, name: str, place: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            tags = {VIEW_TAG: view()}
            return str(self._client.create_experiment(name, artifact_location=place, tags=tags))
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        if found.tags.get(VIEW_TAG) != view():
            self._client.set_experiment_tag(found.experiment_id, VIEW_TAG, view())
        return str(found.experiment_id)

    def _ensure(self, wanted: RunContent) -> tuple[_Run, int]:
        sweep, key = wanted.tags[SWEEP_TAG], _key(wanted.tags)
        if sweep not in self._sweeps:
            found = self._search({SWEEP_TAG: sweep})
            self._sweeps[sweep] = {_key(run.tags): run for run in found}
        runs, made = self._sweeps[sweep], 0
        if key not in runs:
            runs[key], made = self._find_or_create(wanted)
        return runs[key], made

    def _find_or_create(self, wanted: RunContent) -> tuple[_Run, int]:
        """Another process may have made the run since this one has looked for all of the sweep."""
        names = (KIND_TAG, SWEEP_TAG, TRIAL_TAG)
        found = self._search({name: wanted.tags[name] for name in names if name in wanted.tags})
        if run := next(found, None):
            return run, 0
        made = self._client.create_run(
            self._experiment, start_time=wanted.started, tags=wanted.tags
        )
        return self._known(made), 1

    def _search(self, tags: Mapping[str, str]) -> Iterator[_Run]:
        """The runs that carry these tags; deleted ones are restored."""
        where = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        deleted_too, token = self._entities.ViewType.ALL, None
        while True:
            page = self._client.search_runs(
                [self._experiment], where, deleted_too, _PAGE, page_token=token
            )
            yield from map(self._known, page)
            if not (token := page.token):
                return

    def _known(self, run: Any) -> _Run:
        if run.info.lifecycle_stage == "deleted":
            self._client.restore_run(run.info.run_id)
        data, info = run.data, run.info
        return _Run(
            id=info.run_id,
            folder=Path(url2pathname(urlsplit(info.artifact_uri).path)),
            tags=dict(data.tags),
            status=info.status,
            ended=info.end_time,
            params=set(data.params),
            keys=tuple(data.metrics),
        )

    def _lacking(self, run: _Run, wanted: RunContent, marked: bool) -> dict[str, str]:
        """The files that are not in MLflow, or not with this text."""
        if not marked:
            return {n: text for n, text in wanted.files.items() if run.files.get(n) != text}
        if run.files != wanted.files:
            # Looked for in the folder: the client's listing would double a replay's time.
            present = {n: text for n, text in wanted.files.items() if (run.folder / n).is_file()}
            run.files = present
        return {n: text for n, text in wanted.files.items() if n not in run.files}

    def _log(self, run: _Run, wanted: RunContent) -> int:
        tags = {key: text for key, text in wanted.tags.items() if run.tags.get(key) != text}
        params = [item for item in wanted.params.items() if item[0] not in run.params]
        known = self._points(run)
        points = [p for p in wanted.points if (p.key, p.epoch, p.value) not in known]
        for items in _chunks(params, _MOST_PARAMS):
            made = [self._entities.Param(*item) for item in items]
            self._client.log_batch(run.id, params=made, synchronous=True)
        for chunk in _chunks(points, _MOST_METRICS):
            metrics = [self._entities.Metric(p.key, p.value, p.time, p.epoch) for p in chunk]
            self._client.log_batch(run.id, metrics=metrics, synchronous=True)
        if tags:
            self._tag(run, tags)
        run.params |= wanted.params.keys()
        known |= {(p.key, p.epoch, p.value) for p in points}
        return len(tags) + len(params) + len(points)

    def _points(self, run: _Run) -> set[tuple[str, int, float]]:
        if run.points is None:
            histories = (self._client.get_metric_history(run.id, key) for key in run.keys)
            run.points = {(m.key, m.step, m.value) for history in histories for m in history}
        return run.points

    def _tag(self, run: _Run, tags: dict[str, str]) -> None:
        made = [self._entities.RunTag(key, text) for key, text in tags.items()]
        self._client.log_batch(run.id, tags=made, synchronous=True)
        run.tags |= tags

    def _upload(self, run: _Run, files: dict[str, str]) -> int:
        for name, text in files.items():
            self._client.log_text(run.id, text, name)
        run.files |= files
        return len(files)

    def _conclude(self, run: _Run, wanted: RunContent) -> int:
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
    """The trial of a run; the run of the sweep itself has none."""
    return tags.get(TRIAL_TAG, "")


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
