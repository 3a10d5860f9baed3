"""Results in the form that a command's options choose: for a terminal, for programs or for papers.

CSV, JSON and Parquet hold plain rows in full precision. Markdown, LaTeX and HTML hold the tables
that a terminal shows, without a limit of their width.

Text of a CSV file is data as it is: a value that begins with `=`, `+`, `-` or `@` is not changed,
so import files with untrusted names as text into a spreadsheet program.
"""

import csv
import html
import io
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gaplab.cli.render.tabular import Column, PlainTable
from gaplab.cli.render.terminal import open_console
from gaplab.errors import UserError
from gaplab.formatting import cell, one_line, plural, printable

Name = Literal["csv", "json", "parquet", "markdown", "latex", "html"]
Row = Mapping[str, Any]

_LONG = 40
"""Characters above which text of a cell is broken into lines in HTML."""
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|~$"} | {"&": "&amp;"})
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "{}$&#_%"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
    | {c: f"{{{c}}}" for c in "[]*"}  # after a line break, these are arguments of it
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gaplab</title>
<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 1em; color: #222; background: #fff }
div { overflow-x: auto }
table { border-collapse: collapse; margin-bottom: 2em }
caption { caption-side: bottom; text-align: left; padding-top: .5em; color: #555 }
th, td { padding: .2em .6em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }
th, td { white-space: nowrap }
.long { white-space: normal; min-width: 20em }
.number { text-align: right; font-variant-numeric: tabular-nums }
</style>
</head>
<body>
%s</body>
</html>
"""


@dataclass(frozen=True)
class Form:
    """A form of output.

    Attributes:
        name: None for tables that fit the terminal.
        file: path or address of the file to write, for Parquet.
    """

    name: Name | None = None
    file: str = ""


@dataclass(frozen=True)
class Output:
    """What a command prints.

    Attributes:
        rows: plain JSON by column. A mapping under `metrics` is one column per entry in CSV and
            Parquet.
        tables: the same for people.
        header: names of the columns if there are no rows.
    """

    rows: Sequence[Row]
    tables: Sequence[PlainTable]
    header: Sequence[str] = ()

    def flat(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Return the names of all columns, and the rows without nesting."""
        flat = [{**row, **(row.get("metrics") or {})} for row in self.rows]
        for row in flat:
            row.pop("metrics", None)
        return list(dict.fromkeys(name for row in flat for name in row)) or [*self.header], flat


def chosen_form(
    *,
    csv: bool = False,
    json: bool = False,
    parquet: str | None = None,
    markdown: bool = False,
    latex: bool = False,
    html: bool = False,
) -> Form:
    """Return the form that the options of a command choose. Raises UserError for several."""
    values: dict[Name, Any] = {"csv": csv, "json": json, "parquet": parquet is not None}
    values |= {"markdown": markdown, "latex": latex, "html": html}
    names = [name for name, given in values.items() if given]
    if len(names) > 1:
        given = " and ".join(f"--{name}" for name in names)
        raise UserError(f"{given}: give one of them; the output has one form")
    return Form(names[0] if names else None, parquet or "")


def write_output(output: Output, form: Form) -> None:
    """Print the output in this form, or write it to the form's file.

    Raises:
        UserError: the file can't be written.
    """
    if form.name is None:
        for table in output.tables:
            open_console().print(table)
    elif form.name == "parquet":
        count = _write_parquet(output, form.file)
        sys.stdout.write(f"{printable(form.file)}: {plural(count, 'row')}\n")
    else:
        text = TEXTS[form.name](output)
        sys.stdout.write(_inert(text) if sys.stdout.isatty() else text)


def csv_text(output: Output) -> str:
    """Return CSV with a header line. None is an empty field; lists are JSON."""
    names, rows = output.flat()
    lines = [names, *([cell(row.get(name)) for name in names] for row in rows)]
    return "".join(map(_csv_line, lines))


def json_text(output: Output) -> str:
    """Return a JSON list with one object per row."""
    return json.dumps(list(output.rows), indent=2, ensure_ascii=False) + "\n"


def markdown_text(output: Output) -> str:
    """Return the tables in Markdown, each with its caption below it."""
    return "\n".join(_markdown_table(each) for each in output.tables)


def latex_text(output: Output) -> str:
    """Return the tables in LaTeX, each with its caption below it."""
    tables = "\n".join(_latex_table(each) for each in output.tables)
    return f"% needs \\usepackage{{booktabs}}\n{tables}"


def html_text(output: Output) -> str:
    """Return an HTML page with the tables, which loads nothing else."""
    return _PAGE % "".join(_html_table(each) for each in output.tables)


TEXTS: Mapping[Name, Callable[[Output], str]] = {
    "csv": csv_text,
    "json": json_text,
    "markdown": markdown_text,
    "latex": latex_text,
    "html": html_text,
}
"""The forms that are text, which ends in a line break."""


def _write_parquet(output: Output, file: str) -> int:
    """Write the rows to a file, replacing it if it exists. Returns their number."""
    from gaplab.storage.filesystem import Storage
    from gaplab.storage.parquet import Layout, plain_column, write_table

    names, rows = output.flat()
    columns = {name: plain_column([row.get(name) for row in rows]) for name in names}
    layout = Layout("rows", 1, {n: column for n, (column, _) in columns.items()}, "write it again")
    path = file if "://" in file else str(Path(file).absolute())
    if Path(path).is_dir():
        raise UserError(f"--parquet {file}: is a folder; give the name of a file")
    values = {name: found for name, (_, found) in columns.items()}
    return write_table(*Storage.of(path), layout, {}, [values]).rows


def _csv_line(values: Sequence[Any]) -> str:
    """Return one line. Python's writer quotes a carriage return only if it ends lines."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(values)
    return out.getvalue().removesuffix("\r\n") + "\n"


def _markdown_table(table: PlainTable) -> str:
    sides = ["--:" if column.numeric else ":--" for column in table.columns]
    lines = [[_markdown(each) for each in cells] for cells in _lines(table)]
    body = "".join(f"| {' | '.join(cells)} |\n" for cells in [lines[0], sides, *lines[1:]])
    parts = (table.title and f"{_markdown(table.title)}\n", body, f"{_markdown(table.caption)}\n")
    return "\n".join(part for part in parts if part.strip())


def _latex_table(table: PlainTable) -> str:
    sides = "".join("r" if column.numeric else "l" for column in table.columns)
    heading, *lines = [" & ".join(map(_latex, cells)) + r" \\" for cells in _lines(table)]
    caption = _latex(". ".join(each for each in (table.title, table.caption) if each))
    body = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", heading, r"\midrule", *lines]
    body += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}"]
    return "\n".join([r"\begin{table}", r"\centering", *body, r"\end{table}", ""])


def _html_table(table: PlainTable) -> str:
    heading, *lines = _lines(table)
    rows = [_html_row("th", heading, table.columns)]
    rows += [_html_row("td", cells, table.columns) for cells in lines]
    caption = html.escape(". ".join(each for each in (table.title, table.caption) if each))
    return f"<div><table>\n<caption>{caption}</caption>\n{''.join(rows)}</table></div>\n"


def _html_row(tag: str, cells: Sequence[str], columns: Sequence[Column]) -> str:
    found = []
    for words, column in zip(cells, columns, strict=True):
        mark = "number" if column.numeric else "long" if len(words) > _LONG else ""
        start = f'{tag} class="{mark}"' if mark else tag
        found.append(f"<{start}>{html.escape(words)}</{tag}>")
    return f"<tr>{''.join(found)}</tr>\n"


def _lines(table: PlainTable) -> list[list[str]]:
    """Return headings and cells, line by line, without characters that a terminal interprets."""
    headings = [column.heading.replace("-\n", "-") for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    return [[one_line(each) for each in cells] for cells in (headings, *rows)]


def _markdown(text: str) -> str:
    return one_line(text).translate(_MARKDOWN)


def _latex(text: str) -> str:
    """Escape text; hyphens before numbers become minus signs, and several don't join to a dash."""
    escaped = re.sub(r"-(?=-)", "-{}", one_line(text).translate(_LATEX))
    return re.sub(r"(?<![\w}-])-(?=\d)|(?<=\{\[\})-(?=\d)", "$-$", escaped)


def _inert(text: str) -> str:
    """Return text of several lines without characters that a terminal interprets."""
    return "\n".join(map(printable, text.split("\n")))
