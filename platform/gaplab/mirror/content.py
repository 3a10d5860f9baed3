"""What MLflow should hold of a sweep and of its trials: plain records made from the ledger's."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, NamedTuple

from gaplab.formatting import flat
from gaplab.identity import canonical, digest
from gaplab.ledger.views import AttemptView, EvaluationView, SweepView, TrialView
from gaplab.spec.yaml_text import dump_yaml
from gaplab.states import TrialState

SWEEP_TAG, TRIAL_TAG, KIND_TAG = "gaplab.sweep", "gaplab.trial", "gaplab.kind"
"""What a run is of; `gaplab.kind` is `sweep` or `trial`."""
VIEW = "gaplab"
"""Name of the shared view: the columns and the order that MLflow's page of runs shows."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
MAX_PARAM = 6000  # characters; MLflow's limit

Status = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

_TABLE = "per_class.json"
_STRANGE = re.compile(r"[^\w.\- :]")  # what MLflow takes in no name, and `/`, which is the prefix's
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
that one of its trials is in: a sweep whose stopping rule ended some trials is finished when the
others are."""
_COLUMNS = (
    *("metrics.`gap`", "metrics.`ap`", "metrics.`ap_nms`", "metrics.`ar_gap`"),
    *("tags.`gaplab.assignment`", "tags.`gaplab.dataset`", "params.`seed`"),
    "attributes.`Duration`",
)


class Point(NamedTuple):
    """One value of one metric; `time` in milliseconds since 1970."""

    key: str
    value: float
    epoch: int
    time: int


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """All that one run of MLflow should hold; `files` are texts by name, times in milliseconds."""

    tags: dict[str, str]
    status: Status
    started: int
    ended: int | None
    files: dict[str, str]
    params: dict[str, str]
    points: tuple[Point, ...]

    @cached_property
    def mark(self) -> str:
        """Digest of everything in here: a run that carries it needs no closer look."""
        values = [getattr(self, name) for name in sorted(self.__dataclass_fields__)]
        return digest(canonical(values), 16)


def view() -> str:
    """The shared view of an experiment: trials in one list, those nearest to NMS-free first."""
    view = {"selectedColumns": _COLUMNS, "orderByKey": "metrics.`gap`", "orderByAsc": False}
    return canonical(view)


def of_sweep(sweep: SweepView, ended: datetime | None) -> RunContent:
    """The parent run; `ended` is when its last attempt so far ended."""
    status = sweep_status(sweep.counts)
    return RunContent(
        tags={KIND_TAG: "sweep", SWEEP_TAG: sweep.id, "mlflow.runName": sweep.id},
        status=status,
        started=_milliseconds(sweep.created_at),
        ended=None if status in ("SCHEDULED", "RUNNING") else _milliseconds(ended),
        files={"spec.yaml": sweep.spec},
        params={},
        points=(),
    )


def of_trial(
    sweep: str,
    trial: TrialView,
    attempts: Sequence[AttemptView],
    evaluations: Sequence[EvaluationView],
) -> RunContent:
    """The run of a trial that has at least one attempt, apart from the tag that names its parent.

    evaluations: sorted by epoch.
    """
    own = trial.config["evaluation"]["protocol"]["preset"]
    files = {"trial.yaml": dump_yaml(trial.config)}
    if table := [each for each in evaluations if each.primary and each.protocol == own]:
        files[_TABLE] = _per_class(table[-1])
    return RunContent(
        tags=_tags(sweep, trial, own, attempts[-1].reason),
        status=STATUS[trial.state],
        started=_milliseconds(attempts[0].started_at),
        ended=None if trial.state is TrialState.RUNNING else _milliseconds(attempts[-1].ended_at),
        files=files,
        params=_params(trial.config),
        points=tuple(point for each in evaluations for point in _points(each, own)),
    )


def _params(config: Mapping[str, Any]) -> dict[str, str]:
    """Dotted keys -> values as text; text as it is, everything else as JSON, long ones cut."""
    texts = ((k, v if isinstance(v, str) else json.dumps(v)) for k, v in flat(config).items())
    return {key: text[:MAX_PARAM] for key, text in texts}


def sweep_status(counts: Mapping[TrialState, int]) -> Status:
    """Return the status of a sweep, given how many of its trials are in each state.

    Trials that wait while none runs are `SCHEDULED` in a sweep that has not begun, else `KILLED`:
    its driver has ended.
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
        "mlflow.runName": f"{trial.assignment}-seed{trial.seed}-{trial.id[:8]}",
    }


def _points(evaluation: EvaluationView, own: str) -> list[Point]:
    """Those with a value; other protocols and branches are a prefix: `defcn/o2m/ap`."""
    protocol = "" if evaluation.protocol == own else f"{evaluation.protocol}/"
    prefix = protocol + ("" if evaluation.primary else f"{evaluation.branch}/")
    time = _milliseconds(evaluation.created_at)
    return [
        Point(prefix + _STRANGE.sub("_", name), value, evaluation.epoch, time)
        for name, value in evaluation.metrics.items()
        if value is not None
    ]


def _per_class(evaluation: EvaluationView) -> str:
    """A table in the form of MLflow's `log_table`."""
    rows = [[each.name, each.ap, each.ap_nms, each.gap] for each in evaluation.classes]
    return json.dumps({"columns": ["class", "ap", "ap_nms", "gap"], "data": rows})


def _milliseconds(time: datetime | None) -> int:
    if time is None:
        raise ValueError("an attempt that ended has a time at which it did")
    return round(time.timestamp() * 1000)
