"""`gaplab table`: the rows of a spec beside the numbers of a paper's table."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from detectors.evaluation.metrics import label
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from gaplab.cli.opening import read_ledger_if_any
from gaplab.cli.options import (
    CsvOption,
    HomeOption,
    HtmlOption,
    JsonOption,
    LatexOption,
    MarkdownOption,
    MetricOption,
    ParquetOption,
    ProfileOption,
    SetOption,
)
from gaplab.cli.render.formats import Output, chosen_form, write_output
from gaplab.cli.render.tabular import (
    REMEDY_WITH_CSV,
    Column,
    PlainTable,
    number,
    plain_table,
    text,
)
from gaplab.errors import UserError
from gaplab.formatting import plural, points, printable, signed
from gaplab.spec.protocols import rule_of
from gaplab.spec.yaml_text import flow_yaml
from gaplab.storage.home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from gaplab.results.papers.coverage import PublishedTable
    from gaplab.results.papers.paper_table import Line


def table(  # noqa: PLR0913 - every argument is an option of the command
    spec: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPEC",
            help="The spec, a YAML file; with --list a folder of specs [default: experiments].",
            show_default=False,
        ),
    ] = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    paper: Annotated[
        Path | None,
        typer.Option(
            help="File of the paper's numbers [default: paper_results.json in the spec's folder or "
            "the nearest folder above]."
        ),
    ] = None,
    metric: MetricOption = None,
    listed: Annotated[
        bool,
        typer.Option(
            "--list", help="List the papers' tables: how many rows specs have and are trained."
        ),
    ] = False,
    home: HomeOption = Path(DEFAULT_HOME),
    csv: CsvOption = False,
    json: JsonOption = False,
    parquet: ParquetOption = None,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    html: HtmlOption = False,
) -> None:
    """Show results beside the numbers of a paper's table.

    There is one line per row of the spec: AP without NMS, AP with NMS and the gap, each with the
    paper's number. A second table has every other metric that the paper publishes for any row.
    Commands for unfinished trials follow. With --list, there is one line per published table.
    """
    form = chosen_form(
        csv=csv, json=json, parquet=parquet, markdown=markdown, latex=latex, html=html
    )
    if listed:
        output, problems = coverage(spec or Path("experiments"), profile, paper, Home(home))
        write_output(output, form)
        for problem in problems:
            sys.stderr.write(f"gaplab: {printable(problem)}\n")
        return
    if spec is None:
        raise UserError("SPEC: missing; give a spec, or --list for all tables")
    query = TableQuery(spec, profile, tuple(overrides or ()), tuple(dict.fromkeys(metric or ())))
    made = make_table(query, paper, Home(home))
    write_output(output_of(made), form)
    for note in notes(made, query, Home(home)):
        (sys.stderr if form.name else sys.stdout).write(f"{note}\n")


@dataclass(frozen=True)
class TableQuery:
    """The spec as `gaplab run` takes it, and metrics to show beside the usual ones."""

    spec: Path
    profile: str | None
    overrides: tuple[str, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class PaperTable:
    """The lines of the table and the metrics to show."""

    lines: "list[Line]"
    metrics: tuple[str, ...]
    paper: bool
    """Whether a file of the paper's numbers was found."""
    published: tuple[str, ...] = ()
    """Other metrics that the paper publishes."""


def make_table(query: TableQuery, paper: Path | None, home: Home) -> PaperTable:
    """Read the spec, the paper's numbers and the ledger.

    Args:
        query: What to show.
        paper: The file of the paper's numbers; None for the nearest one.
        home: The home folder.

    Raises:
        UserError: The spec has problems or no rows, or the file can't be read.
    """
    from gaplab.results.papers.ground_truth import with_ground_truth
    from gaplab.results.papers.paper_table import (
        TABLE_METRICS,
        check_metrics,
        nearest_paper,
        published_metrics,
        read_paper,
        table_lines,
    )
    from gaplab.spec.files import load_spec
    from gaplab.spec.sweep import row_records

    resolved = load_spec(query.spec, query.profile, query.overrides)
    if not resolved.spec.rows:
        raise UserError(
            f"{query.spec.name}: rows: missing; they name the rows of a table, for example "
            "rows: {003-T1-02: {assignment: {name: poto}}}"
        )
    file = paper or nearest_paper(query.spec)
    known = read_paper(file) if file else {}
    with read_ledger_if_any(home) as ledger:
        lines = table_lines(resolved.spec, row_records(resolved), known, ledger)
    lines = with_ground_truth(lines, resolved.ground_truth)
    check_metrics(lines, query.metrics)
    metrics = tuple(dict.fromkeys((*TABLE_METRICS, *query.metrics)))
    published = tuple(name for name in published_metrics(lines) if name not in metrics)
    return PaperTable(lines, metrics, file is not None, published)


def coverage(
    folder: Path, profile: str | None, paper: Path | None, home: Home
) -> tuple[Output, list[str]]:
    """Return the list of the papers' tables, and problems of specs.

    Raises:
        UserError: there is no such folder, or no file of the papers' numbers.
    """
    from gaplab.results.papers.coverage import published_tables
    from gaplab.results.papers.paper_table import FILE, nearest_paper, read_paper

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the specs")
    file = paper or nearest_paper(folder / FILE)
    if file is None:
        raise UserError(f"{folder}: no {FILE} there or above; give it with --paper")
    with read_ledger_if_any(home) as ledger:
        tables, problems = published_tables(folder, read_paper(file), ledger, profile)
    rows = [_covered(each) for each in tables]
    return Output(rows, [_coverage_table(tables)], ("paper", "table")), problems


def _covered(table: "PublishedTable") -> dict[str, Any]:
    """Return one table of a paper as plain JSON."""
    from gaplab.results.papers.coverage import Kind

    return {
        **{"paper": table.paper, "table": table.table, "rows": len(table.kinds)},
        **{kind.replace(" ", "_"): table.count(kind) for kind in get_args(Kind)},
        **{"specs": list(table.specs), "why": "; ".join(table.why)},
        "by_row": dict(table.kinds),
    }


def _coverage_table(tables: "Sequence[PublishedTable]") -> PlainTable:
    rows = [
        [
            *(f"{each.paper} {each.table}", str(len(each.kinds))),
            *(str(each.count(name) or "") for name in ("trained", "computed", "untrained")),
            *(str(each.count("left out") or ""), ", ".join(each.specs), "; ".join(each.why)),
        ]
        for each in tables
    ]
    columns = [text("table", wrap=False), number("rows"), number("trained", rank=0)]
    columns += [number("com-\nputed", rank=2), number("untrained"), number("left\nout", rank=0)]
    columns += [text("spec"), text("why left out", rank=2)]
    total = sum(len(each.kinds) for each in tables)
    left = sum(each.count("left out") for each in tables)
    ready = sum(each.count("trained", "computed") for each in tables)
    caption = (
        f"{total} published rows: {total - left} in specs, of which {ready} have results in this "
        f"home; {left} left out"
    )
    return plain_table(columns, rows, caption=caption, remedy=REMEDY_WITH_CSV)


def output_of(made: PaperTable) -> Output:
    """Return the rows of the table, and its tables: AP and its gap, then other metrics."""
    from gaplab.results.papers.paper_table import plain_line

    rows = [plain_line(line, (*made.metrics, *made.published)) for line in made.lines]
    tables = [PlainTable(_columns(made), caption=_legend(made), remedy=REMEDY_WITH_CSV)]
    if made.published:
        legend = "published metrics: ours / the paper's, percent points"
        tables.append(PlainTable(_pairs(made), caption=legend, remedy=REMEDY_WITH_CSV))
    return Output(rows, tables)


def _pairs(made: PaperTable) -> list[Column]:
    """Return the columns of the other metrics that the paper publishes."""
    columns = [text("row", [line.row for line in made.lines])]
    for metric in made.published:
        pairs = [(points(line.ours(metric)), points(line.papers(metric))) for line in made.lines]
        cells = ["-" if pair == ("-", "-") else " / ".join(pair) for pair in pairs]
        columns.append(number(label(metric), cells))
    return columns


def notes(made: PaperTable, query: TableQuery, home: Home) -> list[str]:
    """Return a line per row that is not measured, and a last line about untrained trials.

    Each ends with the command that helps.
    """
    found = [_unmeasured(line, home) for line in made.lines if line.unmeasured]
    missing = {trial for line in made.lines for trial in line.untrained}
    if missing:
        rows = sum(bool(line.untrained) for line in made.lines)
        total = len({trial.id for line in made.lines for trial in line.trials})
        words = [str(query.spec), *(("--profile", query.profile) if query.profile else ())]
        words += [word for each in query.overrides for word in ("--set", each)]
        command = home.command("run", *words)
        found.append(
            f"{len(missing)} of {plural(total, 'trial')} {'is' if len(missing) == 1 else 'are'} "
            f"missing, in {rows} of {plural(len(made.lines), 'row')}; to train them: {command}"
        )
    return found


def _unmeasured(line: "Line", home: Home) -> str:
    """Return the note about trials of a row that lack the evaluation that the row shows."""
    reading, [protocol] = line.reading, line.protocols
    epoch = f"epoch {reading.epoch}" if reading.epoch else "the last epoch"
    what = f"protocol {protocol}, branch {reading.branch or 'kept at inference'}, {epoch}"
    trials = plural(len(line.unmeasured), "trained trial")
    note = f"{line.row}: {trials} not measured as the row needs it ({what})"
    if reading.protocol is None:
        return note
    words = ("reevaluate", *line.unmeasured, "--protocol", _written(reading.protocol))
    return f"{note}; to measure: {home.command(*words)}"


def _written(protocol: Protocol) -> str:
    """Return the protocol as a person types it on a command line."""
    if protocol.preset in PROTOCOLS:
        return protocol.preset
    default = rule_of(PROTOCOLS["default"])
    return flow_yaml({k: v for k, v in rule_of(protocol).items() if v != default[k]})


def _columns(made: PaperTable) -> list[Column]:
    """Return the columns from left to right."""
    lines = made.lines
    columns = [text("row", [line.row for line in lines])]
    if made.paper:
        theirs = [(line.paper.row if line.paper else "") or "-" for line in lines]
        columns.append(text("in the paper", theirs, rank=2))
    columns.append(number("trials", [_counted(line) for line in lines]))
    for metric in made.metrics:
        form, name = signed if metric.split("_")[-1] == "gap" else points, label(metric)
        columns.append(number(name, [form(line.ours(metric)) for line in lines]))
        if made.paper:
            theirs = [form(line.papers(metric)) for line in lines]
            columns.append(replace(number("paper", theirs), name=f"{name} in the paper"))
    readings = [_reading(line, len(_protocols(made)) > 1) for line in lines]
    return [*columns, text("read as", readings)] if any(readings) else columns


def _counted(line: "Line") -> str:
    """Return how many of the row's trials have results."""
    return "none" if line.reading.ground_truth else f"{len(line.found)}/{len(line.trials)}"


def _protocols(made: PaperTable) -> list[str]:
    """Return the protocols of all rows, each once."""
    return list(dict.fromkeys(each for line in made.lines for each in line.protocols))


def _reading(line: "Line", protocols: bool) -> str:
    """Return which evaluations a row shows, as far as rows differ in it."""
    epoch = line.reading.epoch and f"epoch {line.reading.epoch}"
    words = (*(line.protocols if protocols else ()), line.reading.branch, epoch)
    return ", ".join(word for word in words if word)


def _legend(made: PaperTable) -> str:
    parts = ["percent points", "gap: AP - AP NMS"]
    if any(len(line.trials) > 1 for line in made.lines):
        parts.append("means over trials")
    protocols = _protocols(made)
    return "; ".join(parts + [f"protocol {protocols[0]}"] * (len(protocols) == 1))
