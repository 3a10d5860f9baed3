"""A table of a paper and ours side by side: one line for each row of a spec."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from gaplab.errors import UserError
from gaplab.leaderboard import unknown_keys
from gaplab.ledger import Ledger
from gaplab.ledger.views import ResultRow, RowFilter
from gaplab.paper import PaperRow
from gaplab.plain import NUMBERS, rounded
from gaplab.records import TrialRecord
from gaplab.spec import Reading, Spec

METRICS = ("ap", "ap_nms", "gap")
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
        untrained=tuple(each for each in others if states.get(each) != "succeeded"),
        unmeasured=tuple(each for each in others if states.get(each) == "succeeded"),
    )


def _metric(row: ResultRow, metric: str) -> float | None:
    value: float | None = getattr(row, metric) if metric in NUMBERS else row.more.get(metric)
    return value
