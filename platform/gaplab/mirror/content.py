"""What MLflow should hold of a sweep and its trials, built from the records of the ledger."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from html import escape
from typing import Any, Literal, NamedTuple

from gaplab.formatting import flat, printable
from gaplab.identity import canonical, digest
from gaplab.ledger.measurements import as_evaluation
from gaplab.ledger.views import (
    AttemptView,
    EpochLossesView,
    EvaluationView,
    MeasurementView,
    SweepView,
    TrialView,
)
from gaplab.spec.varied import ASSIGNMENT, swept_keys, trial_label
from gaplab.spec.yaml_text import YamlError, dump_yaml, parse_yaml
from gaplab.states import TrialState

SWEEP_TAG, TRIAL_TAG, KIND_TAG = "gaplab.sweep", "gaplab.trial", "gaplab.kind"
"""Tags that say what a run belongs to; `gaplab.kind` is `sweep`, `trial` or `measurement`."""
VIEW_TAG = "mlflow.sharedViewState."
"""Beginning of the tags that hold shared views: what MLflow's page of runs shows. Each sweep has a
view called by its id."""
NAME_TAG, NOTE_TAG = "mlflow.runName", "mlflow.note.content"
"""Tags with the name and the description of a run."""
MAX_PARAM = 6000  # characters; MLflow's limit
MAX_NAME = 250  # characters of the name of a run

Status = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

_TABLE = "per_class.json"
_FORBIDDEN = re.compile(r"[^\w.\- :]")  # in names of metrics
STATUS: dict[TrialState, Status] = {
    TrialState.RUNNING: "RUNNING",
    TrialState.FAILED: "FAILED",
    TrialState.INTERRUPTED: "KILLED",
    TrialState.PREEMPTED: "KILLED",
    TrialState.CANCELLED: "KILLED",
    TrialState.WAITING: "SCHEDULED",
    TrialState.SUCCEEDED: "FINISHED",
    TrialState.STOPPED: "KILLED",
}
"""MLflow's status of a trial in each state. A sweep has the status of the first of these states
that any of its trials is in, so a sweep whose stopping rule ended some trials is finished when the
other trials are."""
_RESULTS = ("metrics.`gap`", "metrics.`ap`", "metrics.`ap_nms`")


class Point(NamedTuple):
    """One value of one metric; `time` is in milliseconds since 1970."""

    key: str
    value: float
    epoch: int
    time: int


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """Everything that one run of MLflow should hold.

    Attributes:
        started: in milliseconds since 1970, like `ended`.
        files: texts by file name.
    """

    tags: dict[str, str]
    status: Status
    started: int
    ended: int | None
    files: dict[str, str]
    params: dict[str, str]
    points: tuple[Point, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all fields: a run with this tag holds this content already."""
        values = [getattr(self, name) for name in sorted(self.__dataclass_fields__)]
        return digest(canonical(values), 16)


def shared_view(sweep: str, varied: Sequence[str] = ()) -> str:
    """Return what MLflow's page shows of a sweep: its runs, those with the highest AP first.

    Args:
        sweep: the id of the sweep.
        varied: the keys in which its trials differ, which are columns beside the results.
    """
    keys = [each for each in varied if each != ASSIGNMENT]
    options = [f"params.`{key}`" for key in (*keys, "seed")]
    view = {
        "selectedColumns": [*_RESULTS, *options, "tags.`gaplab.assignment`"],
        "orderByKey": "metrics.`ap`",
        "orderByAsc": False,
        "searchFilter": f"tags.`{SWEEP_TAG}` = '{sweep}'",
    }
    return canonical(view)


def sweep_content(sweep: SweepView, ended: datetime | None) -> RunContent:
    """Return the content of the parent run; `ended` is when the last attempt so far ended."""
    status = sweep_status(sweep.counts)
    question = _question(sweep.spec)
    tags = {KIND_TAG: "sweep", SWEEP_TAG: sweep.id, NAME_TAG: sweep.id}
    return RunContent(
        tags=tags | ({NOTE_TAG: question} if question else {}),
        status=status,
        started=_milliseconds(sweep.created_at),
        ended=None if status in ("SCHEDULED", "RUNNING") else _milliseconds(ended),
        files={"spec.yaml": sweep.spec},
        params={},
        points=(),
    )


def keys_of(sweep: SweepView) -> list[str]:
    """Return the keys that the spec of a sweep varies."""
    return swept_keys(_plain(sweep.spec))


def _question(spec: str) -> str:
    """Return the question of a stored spec, which is no HTML; empty if it has none."""
    question = _plain(spec).get("question")
    return escape(question, quote=False)[:MAX_PARAM] if isinstance(question, str) else ""


def _plain(spec: str) -> Mapping[str, Any]:
    """Return a stored spec as plain data; empty if it is not valid."""
    try:
        found = parse_yaml(spec)
    except YamlError:
        return {}
    return found if isinstance(found, Mapping) else {}


def trial_content(
    sweep: str,
    trial: TrialView,
    attempts: Sequence[AttemptView],
    evaluations: Sequence[EvaluationView],
    losses: Sequence[EpochLossesView] = (),
    varied: Sequence[str] = (),
) -> RunContent:
    """Return the content of a trial's run, without the tag that names the parent run.

    Args:
        sweep: the id of the sweep.
        trial: the trial.
        attempts: its attempts, first to last; at least one.
        evaluations: its evaluations, sorted by epoch.
        losses: its losses and positives, sorted by epoch.
        varied: the keys in which the trials of the sweep differ; the run is named by their values.
    """
    own = trial.protocol
    files = {"trial.yaml": dump_yaml(trial.config)}
    if table := [each for each in evaluations if each.primary and each.protocol == own]:
        files[_TABLE] = _per_class(table[-1])
    return RunContent(
        tags={**_tags(sweep, trial, own, attempts[-1].reason), NAME_TAG: run_name(trial, varied)},
        status=STATUS[trial.state],
        started=_milliseconds(attempts[0].started_at),
        ended=None if trial.state is TrialState.RUNNING else _milliseconds(attempts[-1].ended_at),
        files=files,
        params=_params(trial.config),
        points=tuple(
            [point for each in evaluations for point in _points(each, own)]
            + [point for each in losses for point in _epoch_points(each)]
        ),
    )


MEASURED = "measured"
"""Name of the experiment of measurements, and tag of the sweep of its runs."""


def measurement_content(found: Sequence[MeasurementView]) -> RunContent:
    """Return the content of a run for one set of foreign detections.

    Args:
        found: its measurements, at least one. Metrics under `default` have their plain name; other
            protocols become a prefix, as in `detr.ap`.
    """
    first = found[0]
    time = _milliseconds(min(each.created_at for each in found))
    return RunContent(
        tags={
            KIND_TAG: "measurement",
            SWEEP_TAG: MEASURED,
            TRIAL_TAG: first.id,
            "gaplab.assignment": first.name,
            "gaplab.family": first.family,
            "gaplab.dataset": first.dataset,
            "gaplab.truth": first.truth,
            "gaplab.results_version": str(first.results_version),
            NAME_TAG: f"{first.name}-{first.id[:8]}",
        },
        status="FINISHED",
        started=time,
        ended=_milliseconds(max(each.created_at for each in found)),
        files={"measurements.yaml": dump_yaml({each.protocol: each.about for each in found})},
        params=_params(first.source),
        points=tuple(p for each in found for p in _points(as_evaluation(each), "default")),
    )


def _params(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the options as text by dotted key: strings as they are, other values as JSON, cut."""
    texts = ((k, v if isinstance(v, str) else json.dumps(v)) for k, v in flat(config).items())
    return {key: text[:MAX_PARAM] for key, text in texts}


def sweep_status(counts: Mapping[TrialState, int]) -> Status:
    """Return the status of a sweep, given how many of its trials are in each state.

    A sweep whose trials are waiting while none is running is `SCHEDULED` if it has not begun, and
    `KILLED` if it has: its driver has ended.
    """
    present = [state for state in STATUS if counts.get(state)]
    if not present:
        return "FINISHED"
    begun = present[0] is TrialState.WAITING and len(present) > 1
    return "KILLED" if begun else STATUS[present[0]]


def _tags(sweep: str, trial: TrialView, protocol: str, reason: str) -> dict[str, str]:
    return {
        KIND_TAG: "trial",
        SWEEP_TAG: sweep,
        TRIAL_TAG: trial.id,
        "gaplab.assignment": trial.assignment,
        "gaplab.family": trial.family,
        "gaplab.dataset": trial.dataset,
        "gaplab.protocol": protocol,
        "gaplab.results_version": str(trial.results_version),
        "gaplab.reason": reason[:MAX_PARAM],
        "mlflow.loggedArtifacts": json.dumps([{"path": _TABLE, "type": "table"}]),
    }


def run_name(trial: TrialView, varied: Sequence[str]) -> str:
    """Return the name of a trial's run, such as `poto alpha=0.5 seed=0`."""
    label = trial_label(trial.config, varied) or trial.assignment
    return printable(f"{label} seed={trial.seed}")[:MAX_NAME]


def _points(evaluation: EvaluationView, own: str) -> list[Point]:
    """Return the metrics that have a value. Other protocols and branches become a prefix, as in
    `defcn.o2m.ap`.

    Prefixes end in no slash: MLflow's pages would show a group of charts for each, all of them
    before the metrics without a prefix, which are those of the branch kept at inference.
    """
    protocol = "" if evaluation.protocol == own else f"{evaluation.protocol}."
    prefix = protocol + ("" if evaluation.primary else f"{evaluation.branch}.")
    time = _milliseconds(evaluation.created_at)
    return [
        Point(prefix + _FORBIDDEN.sub("_", name), value, evaluation.epoch, time)
        for name, value in evaluation.metrics.items()
        if value is not None
    ]


def _epoch_points(epoch: EpochLossesView) -> list[Point]:
    """Return what an epoch measured as `loss.o2o.cls` and `positives.o2o.score`."""
    time = _milliseconds(epoch.created_at)
    return [
        Point(f"{prefix}.{_FORBIDDEN.sub('_', name)}", value, epoch.epoch, time)
        for prefix, values in (("loss", epoch.losses), ("positives", epoch.positives))
        for name, value in values.items()
    ]


def _per_class(evaluation: EvaluationView) -> str:
    """Return the metrics per class in the format of MLflow's `log_table`."""
    rows = [[each.name, each.ap, each.ap_nms, each.gap] for each in evaluation.classes]
    return json.dumps({"columns": ["class", "ap", "ap_nms", "gap"], "data": rows})


def _milliseconds(time: datetime | None) -> int:
    if time is None:
        raise ValueError("an attempt that has ended needs an end time")
    return round(time.timestamp() * 1000)
