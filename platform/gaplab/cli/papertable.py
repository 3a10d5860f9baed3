"""What `gaplab table` shows."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from detectors.evaluation.metrics import label
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from gaplab.cli.render.plain import csv_text
from gaplab.cli.render.tabular import plain_table
from gaplab.errors import UserError
from gaplab.formatting import points, signed
from gaplab.ledger import Ledger
from gaplab.results.paper_table import (
    METRICS,
    Line,
    check_metrics,
    nearest_paper,
    plain_line,
    read_paper,
    table_lines,
)
from gaplab.spec.files import load_spec
from gaplab.spec.protocols import rule_of
from gaplab.spec.sweep import row_records
from gaplab.spec.yaml_text import flow_yaml
from gaplab.storage.home import Home

_WORDS = ("row", "in the paper", "read as")
_FOLDED = 10
"""Characters that a column of words keeps at least, where it may be folded."""
_Columns = list[tuple[str, list[str]]]
"""Headings and cells."""


@dataclass(frozen=True)
class Asked:
    """The words of the command: a spec as `run` takes it, and metrics beside the usual ones."""

    spec: Path
    profile: str | None
    overrides: tuple[str, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class PaperTable:
    """The lines, and which columns they are shown in."""

    lines: list[Line]
    metrics: tuple[str, ...]
    paper: bool
    """Whether there are the paper's numbers."""


def make_table(asked: Asked, paper: Path | None, home: Home) -> PaperTable:
    """Read the spec, the paper's file (by default the nearest) and the ledger. Raises UserError."""
    resolved = load_spec(asked.spec, asked.profile, asked.overrides)
    if not resolved.spec.rows:
        raise UserError(
            f"{asked.spec.name}: rows: has none; a table's rows are named there, as in "
            "rows: {003-T1-02: {assignment: {name: poto}}}"
        )
    file = paper or nearest_paper(asked.spec)
    known = read_paper(file) if file else {}
    with Ledger.open(home.ledger_url) as ledger:
        lines = table_lines(resolved.spec, row_records(resolved), known, ledger)
    metrics = tuple(dict.fromkeys((*METRICS, *asked.metrics)))
    check_metrics(lines, asked.metrics)
    return PaperTable(lines, metrics, file is not None)


def to_text(made: PaperTable, form: Literal["json", "csv", "markdown"]) -> str:
    """The table as text that ends in a line break."""
    if form == "markdown":
        return _markdown(made)
    plain = [plain_line(line, made.metrics) for line in made.lines]
    return csv_text(plain, ()) if form == "csv" else json.dumps(plain, indent=2) + "\n"


def text_table(made: PaperTable, width: int) -> Table:
    """The table for a terminal; too many columns for `width` come closer, or lose the names.

    Where even that is not enough it is as wide as it has to be, and never cut.
    """
    columns, between = _fitted(_columns(made), width)
    table = plain_table(*(_head(head) for head, _ in columns), whole=("row",), between=between)
    table.width = needed if (needed := _needed(columns)) > width else None
    for cells in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*map(Text, cells))
    table.caption, table.caption_justify = Text(_legend(made)), "left"
    return table


def notes(made: PaperTable, asked: Asked, home: Home) -> list[str]:
    """What is missing and the commands that mend it, one line each; training comes last."""
    found = [_unmeasured(line, home) for line in made.lines if line.unmeasured]
    missing = {trial for line in made.lines for trial in line.untrained}
    if missing:
        rows = sum(bool(line.untrained) for line in made.lines)
        total = len({trial.id for line in made.lines for trial in line.trials})
        words = [str(asked.spec), *(("--profile", asked.profile) if asked.profile else ())]
        words += [word for each in asked.overrides for word in ("--set", each)]
        command = home.command("run", shlex.join(words))
        found.append(
            f"{len(missing)} of {total} trials are missing, in {rows} of {len(made.lines)} rows; "
            f"to train them: {command}"
        )
    return found


def _unmeasured(line: Line, home: Home) -> str:
    """That trials of a row are trained but not evaluated as it is read."""
    reading, [protocol] = line.reading, line.protocols
    epoch = f"epoch {reading.epoch}" if reading.epoch else "the last epoch"
    what = f"protocol {protocol}, branch {reading.branch or 'kept at inference'}, {epoch}"
    text = f"{line.row}: {len(line.unmeasured)} trained, but not measured as it is read ({what})"
    if reading.protocol is None:
        return text
    words = shlex.join([*line.unmeasured, "--protocol", _written(reading.protocol)])
    return f"{text}; to measure: {home.command('reevaluate', words)}"


def _written(protocol: Protocol) -> str:
    """The protocol as it can be typed on a command line."""
    if protocol.preset in PROTOCOLS:
        return protocol.preset
    default = rule_of(PROTOCOLS["default"])
    return flow_yaml({k: v for k, v in rule_of(protocol).items() if v != default[k]})


def _fitted(columns: _Columns, width: int) -> tuple[_Columns, Literal[0, 1]]:
    """The columns that fit, and the blanks between them for `plain_table`."""
    if _needed(columns) + len(columns) <= width:
        return columns, 1
    if _needed(columns) <= width:
        return columns, 0
    return [each for each in columns if each[0] != "in the paper"], 0


def _needed(columns: _Columns) -> int:
    """How wide a table is at least, with one blank between its columns."""
    total = 1
    for head, cells in columns:
        longest = max(map(cell_len, (*_head(head).split("\n"), *cells)))
        total += 1 + (min(longest, _FOLDED) if head in _WORDS[1:] else longest)
    return total


def _head(text: str) -> str:
    """A heading as it stands above numbers, in two lines where it has two words."""
    return text if text in _WORDS else text.replace(" ", "\n")


def _columns(made: PaperTable) -> _Columns:
    """From left to right."""
    lines = made.lines
    columns = [("row", [line.row for line in lines])]
    if made.paper:
        names = [(line.paper.row if line.paper else "") or "-" for line in lines]
        columns.append(("in the paper", names))
    columns.append(("trials", [f"{len(line.found)}/{len(line.trials)}" for line in lines]))
    for metric in made.metrics:
        form = signed if metric.split("_")[-1] == "gap" else points
        columns.append((label(metric), [form(line.ours(metric)) for line in lines]))
        if made.paper:
            columns.append(("paper", [form(line.papers(metric)) for line in lines]))
    words = [_read_as(line, len(_protocols(made)) > 1) for line in lines]
    return [*columns, ("read as", words)] if any(words) else columns


def _protocols(made: PaperTable) -> list[str]:
    """The protocols of all rows, each once."""
    return list(dict.fromkeys(each for line in made.lines for each in line.protocols))


def _read_as(line: Line, protocols: bool) -> str:
    """What of the reading differs from other rows."""
    epoch = line.reading.epoch and f"epoch {line.reading.epoch}"
    words = (*(line.protocols if protocols else ()), line.reading.branch, epoch)
    return ", ".join(word for word in words if word)


def _legend(made: PaperTable) -> str:
    parts = ["percent points", "gap: AP - AP NMS"]
    if any(len(line.trials) > 1 for line in made.lines):
        parts.append("means over trials")
    protocols = _protocols(made)
    return "; ".join(parts + [f"protocol {protocols[0]}"] * (len(protocols) == 1))


def _markdown(made: PaperTable) -> str:
    """The table in Markdown, with what its cells mean below it."""
    columns = _columns(made)
    sides = [":--" if head in _WORDS else "--:" for head, _ in columns]
    rows = zip(*(cells for _, cells in columns), strict=True)
    table = [[head for head, _ in columns], sides, *rows]
    text = "".join(f"| {' | '.join(map(_escaped, cells))} |\n" for cells in table)
    return f"{text}\n{_legend(made)}\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
