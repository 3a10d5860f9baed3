"""Compare a paper's table with our results: one line per row of a spec.

The paper's numbers come from a JSON file (`read_paper`), ours from the ledger (`table_lines`).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ConfigDict, ValidationError

from detectors.evaluation.metrics import LABELS, SIZES, names_of
from detectors.options import Options
from gaplab.errors import UserError
from gaplab.ledger import Reader
from gaplab.ledger.views import METRICS, ResultRow, RowFilter
from gaplab.records import TrialRecord
from gaplab.results.comparison.leaderboard import unknown_keys
from gaplab.spec.models import Reading, Spec
from gaplab.spec.problems import problems_of
from gaplab.states import TrialState

FILE = "paper_results.json"
TABLE_METRICS = names_of("ap")
"""The metrics that every table shows."""
_FILE_NAMES = {f"ap_{size}": f"ap{size[0]}" for size in SIZES}
"""Our name of a metric -> its name in the file."""


class PaperRow(Options):
    """One row of a paper's table. Other keys of the file are ignored."""

    model_config = ConfigDict(extra="ignore")

    id: str
    paper: str = ""
    table: str = ""
    row: str = ""
    """The paper's name of the row."""
    left_out: str = ""
    """Why no spec has this row; empty for rows that a spec has."""
    metrics: dict[str, float]
    """Percent points, measured without NMS, or with NMS if the name ends in `_nms`."""

    def number(self, metric: str) -> float | None:
        """Return the metric that we call `metric`, or None if the row doesn't have it.

        A gap is the metric without NMS minus the metric with NMS. If a row has AP50 but no AP, its
        AP is AP50: CrowdHuman's AP is defined at this overlap.
        """
        name = "ap_gap" if metric == "gap" else metric
        if name.endswith("_gap"):
            base = name.removesuffix("_gap")
            without, with_nms = self.number(base), self.number(f"{base}_nms")
            if without is None or with_nms is None:
                return None
            return round(without - with_nms, 4)
        base = name.removesuffix("_nms")
        suffix = name[len(base) :]
        if base == "ap" and self.metrics.keys().isdisjoint({"ap", "ap_nms"}):
            base = "ap50"
        return self.metrics.get(_FILE_NAMES.get(base, base) + suffix)

    def names(self) -> set[str]:
        """Return our names of the metrics that the row has."""
        ours = {theirs: name for name, theirs in _FILE_NAMES.items()}
        bases = {"ap", *(name.removesuffix("_nms") for name in self.metrics)}
        found = {f"{ours.get(base, base)}{end}" for base in bases for end in ("", "_nms", "_gap")}
        return {name for name in found if self.number(name) is not None}

    def published(self) -> set[str]:
        """Return our names of what the row publishes beside AP, without gaps."""
        shown = {"ap", "ap_nms"}
        if self.metrics.keys().isdisjoint(shown):  # its AP50 is shown as AP
            shown |= {"ap50", "ap50_nms"}
        return {name for name in self.names() - shown if not name.endswith("gap")}


class _PaperFile(Options):
    model_config = ConfigDict(extra="ignore")

    rows: list[PaperRow]


def nearest_paper(spec: Path) -> Path | None:
    """Return `paper_results.json` from the folder of `spec` or the nearest parent that has one."""
    folders = spec.resolve().parents
    return next((path for folder in folders if (path := folder / FILE).is_file()), None)


def read_paper(path: Path) -> dict[str, PaperRow]:
    """Read a paper's rows by id from the file at `path`.

    Raises:
        UserError: the file can't be read, has another form, or repeats an id; one line per problem.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"{path}: is not JSON: {error}") from None
    try:
        rows = _PaperFile.model_validate(content).rows
    except ValidationError as error:
        found = problems_of(error, _PaperFile)
        raise UserError(*(f"{path}: {problem}" for problem in found)) from None
    ids = [row.id for row in rows]
    if repeated := sorted({each for each in ids if ids.count(each) > 1}):
        raise UserError(*(f"{path}: rows: id {each} appears more than once" for each in repeated))
    return dict(zip(ids, rows, strict=True))


@dataclass(frozen=True)
class Line:
    """One row of the table. Its trials are split into `found`, `untrained` and `unmeasured`."""

    row: str
    reading: Reading
    """Which evaluations the spec selects for the row."""
    protocols: tuple[str, ...]
    """The protocol of these evaluations; empty for a row without trials."""
    trials: tuple[TrialRecord, ...]
    paper: PaperRow | None = None
    found: tuple[ResultRow, ...] = ()
    """The selected evaluations, one per trial that has one."""
    untrained: tuple[str, ...] = ()
    """Ids of trials without such an evaluation that have not succeeded."""
    unmeasured: tuple[str, ...] = ()
    """Ids of trials without such an evaluation that have succeeded."""
    computed: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the ground truth, for a row that shows it."""

    def ours(self, metric: str) -> float | None:
        """Return the mean over the evaluations found; None if there are none, or one lacks it."""
        if metric in self.computed:
            return self.computed[metric]
        values = [value_of(row, metric) for row in self.found]
        known = [value for value in values if value is not None]
        return fmean(known) if known and len(known) == len(values) else None

    def papers(self, metric: str) -> float | None:
        """Return the paper's number, or None if the paper has none."""
        return self.paper.number(metric) if self.paper else None


def table_lines(
    spec: Spec,
    rows: Mapping[str, tuple[TrialRecord, ...]],
    paper: Mapping[str, PaperRow],
    ledger: Reader,
) -> list[Line]:
    """Return one line per row of a spec, in the order of `rows`.

    Args:
        spec: the spec; its rows may say which evaluations are selected. The defaults are the last
            epoch, the branch kept at inference and the trials' own protocol.
        rows: the trials of each row.
        paper: the paper's rows by id, as `read_paper` returns them.
        ledger: an open ledger.

    Raises:
        UserError: trials of one row were measured under several protocols.
    """
    lines = [_line_of(row, spec.rows[row], trials) for row, trials in rows.items()]
    if mixed := [line for line in lines if len(line.protocols) > 1]:
        raise UserError(*map(_several_protocols, mixed))
    return [_with_results(replace(line, paper=paper.get(line.row)), ledger) for line in lines]


def check_metrics(lines: Sequence[Line], metrics: Collection[str]) -> None:
    """Raise UserError for metrics that neither we nor the paper have, if any metric is known."""
    known = {name for line in lines if line.paper for name in line.paper.names()}
    known |= {name for line in lines for row in line.found for name in (*METRICS, *row.more)}
    if known and (error := unknown_keys(metrics, known)):
        raise error


def published_metrics(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return the metrics beside AP that the paper publishes for any row, in the usual order.

    Numbers of the paper that gaplab has no metric for, such as its speed, are left out.
    """
    found = {name for line in lines if line.paper for name in line.paper.published()}
    return tuple(name for metric in LABELS for name in names_of(metric) if name in found)


def plain_line(line: Line, metrics: Sequence[str]) -> dict[str, Any]:
    """Return the line as plain JSON, with `metrics`, ours and the paper's.

    The paper's are called `paper_...`.
    """
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
        values[metric] = line.ours(metric)
        values[f"paper_{metric}"] = line.papers(metric)
    return values


def _line_of(row: str, settings: Mapping[str, Any], trials: tuple[TrialRecord, ...]) -> Line:
    """Return a line without results."""
    reading = Reading.of(settings)
    own = dict.fromkeys(trial.protocol for trial in trials)
    protocols = (reading.protocol.preset,) if reading.protocol else tuple(own)
    return Line(row, reading, protocols, trials)


def _several_protocols(line: Line) -> str:
    names = " and ".join(line.protocols)
    return f"rows.{line.row}: its trials are measured under {names}; choose one in read.protocol"


def _with_results(line: Line, ledger: Reader) -> Line:
    """Return the line with the ledger's results of its trials."""
    if not line.trials:
        return line
    ids = tuple(trial.id for trial in line.trials)
    query = RowFilter(
        protocol=line.protocols[0],
        branch=line.reading.branch,
        epoch=line.reading.epoch or "last",
        trials=ids,
    )
    only_last = line.reading.epoch is None
    rows = [row for row in ledger.rows(query) if not only_last or row.epoch == row.epochs]
    found = {row.trial: row for row in rows}
    states = ledger.states(ids)
    others = [each for each in ids if each not in found]
    return replace(
        line,
        found=tuple(found[each] for each in ids if each in found),
        untrained=tuple(each for each in others if states.get(each) != TrialState.SUCCEEDED),
        unmeasured=tuple(each for each in others if states.get(each) == TrialState.SUCCEEDED),
    )


def value_of(row: ResultRow, metric: str) -> float | None:
    """Return a metric of an evaluation, or None if the evaluation has no such metric."""
    value: float | None = getattr(row, metric) if metric in METRICS else row.more.get(metric)
    return value
