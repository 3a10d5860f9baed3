"""A table of a paper and ours side by side: one line for each row of a spec."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ConfigDict, ValidationError

from detectors.evaluation.metrics import names_of
from detectors.options import Options
from gaplab.errors import UserError
from gaplab.formatting import rounded
from gaplab.ledger import Ledger
from gaplab.ledger.views import METRICS as NUMBERS
from gaplab.ledger.views import ResultRow, RowFilter
from gaplab.records import TrialRecord
from gaplab.results.leaderboard import unknown_keys
from gaplab.spec.models import Reading, Spec
from gaplab.spec.problems import explain
from gaplab.states import TrialState

FILE = "paper_results.json"
_SIZES = {"ap_small": "aps", "ap_medium": "apm", "ap_large": "apl"}
"""Our name of a metric -> the file's."""


class PaperRow(Options):
    """One row of a paper's table; what else the file says of it is not read."""

    model_config = ConfigDict(extra="ignore")

    id: str
    row: str = ""
    """What the paper calls it."""
    metrics: dict[str, float]
    """Percent points: without NMS, and with it under names that end in `_nms`."""

    def number(self, metric: str) -> float | None:
        """The metric of our name `metric`; a gap is the difference of what stands with and without.

        AP is AP50 where the row has no other, as on CrowdHuman, whose AP is one at this overlap.
        """
        name = "ap_gap" if metric == "gap" else metric
        if name.endswith("_gap"):
            pair = [self.number(name.removesuffix("_gap") + suffix) for suffix in ("", "_nms")]
            return None if None in pair else round(pair[0] - pair[1], 4)  # type: ignore[operator]
        base = name.removesuffix("_nms")
        here = "ap50" if base == "ap" and self.metrics.keys().isdisjoint({"ap", "ap_nms"}) else base
        return self.metrics.get(_SIZES.get(here, here) + name[len(base) :])

    def names(self) -> set[str]:
        """The metrics that it has, by our names."""
        ours = {theirs: name for name, theirs in _SIZES.items()}
        bases = {"ap", *(name.removesuffix("_nms") for name in self.metrics)}
        found = {f"{ours.get(base, base)}{end}" for base in bases for end in ("", "_nms", "_gap")}
        return {name for name in found if self.number(name) is not None}


class _PaperFile(Options):
    model_config = ConfigDict(extra="ignore")

    rows: list[PaperRow]


def nearest_paper(spec: Path) -> Path | None:
    """`paper_results.json` in the folder of `spec`, or in the nearest folder above that has one."""
    folders = spec.resolve().parents
    return next((path for folder in folders if (path := folder / FILE).is_file()), None)


def read_paper(path: Path) -> dict[str, PaperRow]:
    """The rows of the file at `path` by id. Raises UserError, one line for each problem."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"{path}: is not JSON: {error}") from None
    try:
        rows = _PaperFile.model_validate(content).rows
    except ValidationError as error:
        found = [explain(each, _PaperFile) for each in error.errors(include_url=False)]
        raise UserError(*(f"{path}: {problem}" for problem in found)) from None
    ids = [row.id for row in rows]
    if twice := sorted({each for each in ids if ids.count(each) > 1}):
        raise UserError(*(f"{path}: rows: id {each} stands here twice" for each in twice))
    return dict(zip(ids, rows, strict=True))


METRICS = names_of("ap")
"""Metrics that every table has."""


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    row: str
    reading: Reading
    """What the spec says about how the row is read."""
    protocols: tuple[str, ...]
    """The protocol it is read under; none for a row without trials."""
    trials: tuple[TrialRecord, ...]
    """What the row stands for."""
    paper: PaperRow | None = None
    found: tuple[ResultRow, ...] = ()
    """The evaluations that the row is read from, one of each trial that has one."""
    untrained: tuple[str, ...] = ()
    """Ids of the other trials, as far as they have not succeeded yet."""
    unmeasured: tuple[str, ...] = ()
    """Ids of the other trials that have: they were not evaluated as the row is read."""

    def ours(self, metric: str) -> float | None:
        """Mean over the evaluations found; None where there is none, or one lacks the metric."""
        values = [_metric(row, metric) for row in self.found]
        known = [value for value in values if value is not None]
        return fmean(known) if known and len(known) == len(values) else None

    def papers(self, metric: str) -> float | None:
        """The paper's own number, if it has one."""
        return self.paper.number(metric) if self.paper else None


def table_lines(
    spec: Spec,
    rows: Mapping[str, tuple[TrialRecord, ...]],
    paper: Mapping[str, PaperRow],
    ledger: Ledger,
) -> list[Line]:
    """The lines in the order of `rows`: the rows of `spec` with their trials.

    A row is read from the last epoch, the branch kept at inference and the trials' own protocol
    unless it says otherwise. Raises UserError where trials of a row have several protocols.
    """
    lines = [_asked(row, spec.rows[row], trials) for row, trials in rows.items()]
    if mixed := [line for line in lines if len(line.protocols) > 1]:
        raise UserError(*map(_mixed, mixed))
    return [_answered(replace(line, paper=paper.get(line.row)), ledger) for line in lines]


def check_metrics(lines: Sequence[Line], metrics: Collection[str]) -> None:
    """Raise UserError for metrics that neither we nor the paper have, if any is known at all."""
    known = {name for line in lines if line.paper for name in line.paper.names()}
    known |= {name for line in lines for row in line.found for name in (*NUMBERS, *row.more)}
    if known and (error := unknown_keys(metrics, known)):
        raise error


def plain_line(line: Line, metrics: Sequence[str]) -> dict[str, Any]:
    """The line as plain JSON; metrics have 4 decimals, the paper's are called `paper_...`."""
    branches, epochs = ({getattr(row, name) for row in line.found} for name in ("branch", "epoch"))
    values = {
        "row": line.row,
        "paper_row": line.paper.row if line.paper else None,
        "trials": [trial.id for trial in line.trials],
        "found": len(line.found),
        "asked": len(line.trials),
        "protocol": line.protocols[0] if line.protocols else None,
        "branch": line.reading.branch or (branches.pop() if len(branches) == 1 else None),
        "epoch": line.reading.epoch or (epochs.pop() if len(epochs) == 1 else None),
    }
    for metric in metrics:
        values[metric] = rounded(line.ours(metric))
        values[f"paper_{metric}"] = rounded(line.papers(metric))
    return values


def _asked(row: str, settings: Mapping[str, Any], trials: tuple[TrialRecord, ...]) -> Line:
    reading = Reading.of(settings)
    own = dict.fromkeys(trial.config["evaluation"]["protocol"]["preset"] for trial in trials)
    protocols = (reading.protocol.preset,) if reading.protocol else tuple(own)
    return Line(row, reading, protocols, trials)


def _mixed(line: Line) -> str:
    named = " and ".join(line.protocols)
    return f"rows.{line.row}: its trials are measured under {named}; say which in read.protocol"


def _answered(line: Line, ledger: Ledger) -> Line:
    """The line with what the ledger knows of its trials."""
    if not line.trials:
        return line
    ids = tuple(trial.id for trial in line.trials)
    wanted = RowFilter(
        protocol=line.protocols[0],
        branch=line.reading.branch,
        epoch=line.reading.epoch or "last",
        trials=ids,
    )
    at_end = line.reading.epoch is None
    found = {row.trial: row for row in ledger.rows(wanted) if not at_end or row.epoch == row.epochs}
    states = ledger.states(ids)
    others = [each for each in ids if each not in found]
    return replace(
        line,
        found=tuple(found[each] for each in ids if each in found),
        untrained=tuple(each for each in others if states.get(each) != TrialState.SUCCEEDED),
        unmeasured=tuple(each for each in others if states.get(each) == TrialState.SUCCEEDED),
    )


def _metric(row: ResultRow, metric: str) -> float | None:
    value: float | None = getattr(row, metric) if metric in NUMBERS else row.more.get(metric)
    return value
