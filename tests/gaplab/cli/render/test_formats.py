"""Results as CSV, JSON, Parquet, Markdown, LaTeX and HTML, read back by other libraries."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gaplab.cli.render.formats import (
    TEXTS,
    Form,
    Output,
    chosen_form,
    csv_text,
    html_text,
    json_text,
    latex_text,
    markdown_text,
    write_output,
)
from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.errors import UserError
from gaplab.formatting import one_line

HOSTILE = [
    "a|b",
    "two\nlines",
    "carriage\rreturn",
    'quote " and , comma',
    "=1+1",
    "'; DROP TABLE trial; --",
    "<script>alert(1)</script>",
    "&lt;",
    "[link](javascript:alert(1))",
    "![x](y)",
    "*a* _b_ `c` ~~d~~ $e$",
    r"\input{/etc/passwd}",
    "100 % of #1 & ~x^2_{i}",
    "\x1b[31mred",
    "\x9b31m",
    "größe ☃",
    "\\",
    "\\|",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CELL = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT


def table(*cells: str) -> PlainTable:
    rows = [(each, "1.5") for each in cells]
    return plain_table([text("na|me"), number("AP\nNMS")], rows, caption="a [95 %] | *b*")


@given(st.lists(st.fixed_dictionaries({"a,b": CELL, "c": CELL}), min_size=1))
def test_csv_and_json_return_the_values(rows: list[dict[str, Any]]) -> None:
    output = Output(rows, [])
    assert json.loads(json_text(output)) == rows
    read = list(csv.DictReader(io.StringIO(csv_text(output), newline="")))
    wanted = [
        {k: "" if v is None else v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
        for row in rows
    ]
    assert read == wanted


@given(TEXT)
def test_csv_has_no_line_that_a_field_breaks(value: str) -> None:
    read = list(csv.reader(io.StringIO(csv_text(Output([{"x": value, "y": 1}], [])), newline="")))
    assert read == [["x", "y"], [value, "1"]]


def test_metrics_without_a_column_are_columns() -> None:
    output = Output([{"a": 1, "metrics": {}}, {"a": 2, "metrics": {"mmr": 0.1}}], [])
    assert csv_text(output) == "a,mmr\n1,\n2,0.1\n"
    assert json.loads(json_text(output)) == output.rows


def test_no_rows() -> None:
    output = Output([], [], ["a", "b"])
    assert (csv_text(output), json_text(output)) == ("a,b\n", "[]\n")


COLUMNS: dict[str, tuple[list[Any], list[Any]]] = {
    "text": (["a", None, "b"], ["a", None, "b"]),
    "whole": ([1, None, 2**60], [1, None, 2**60]),
    "huge": ([1, None, 2**64], ["1", None, str(2**64)]),
    "decimal": ([0.1, 2, None], [0.1, 2.0, None]),
    "flag": ([True, None, False], [True, None, False]),
    "list": ([[1, 2], None, []], ["[1, 2]", None, "[]"]),
    "mixed": ([True, 1, "x"], ["true", "1", '"x"']),
    "none": ([None, None, None], [None, None, None]),
}


def test_parquet_has_typed_columns_in_full_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "rows.parquet"
    rows = [{name: values[i] for name, (values, _) in COLUMNS.items()} for i in range(3)]
    for _ in range(2):  # an existing file is replaced
        write_output(Output(rows, []), Form("parquet", str(path)))
        assert capsys.readouterr().out == f"{path}: 3 rows\n"
    found = pq.read_table(path).to_pydict()
    assert found == {name: wanted for name, (_, wanted) in COLUMNS.items()}
    assert [each.name for each in path.parent.iterdir()] == ["rows.parquet"]


def test_parquet_without_rows_has_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_output(Output([], [], ["a", "b"]), Form("parquet", str(path)))
    assert pq.read_table(path).to_pydict() == {"a": [], "b": []}


def test_parquet_into_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        write_output(Output([], [], ["a"]), Form("parquet", str(tmp_path)))


@pytest.mark.parametrize("value", HOSTILE)
def test_markdown_shows_the_text(value: str) -> None:
    """CommonMark with tables, as GitHub reads it."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parsed = tokens.parse(markdown_text(Output([], [table(value, "x")])))
    inline = [each for each in parsed if each.type == "inline"]
    texts = ["".join(c.content for c in each.children or []) for each in inline]
    assert texts == ["na|me", "AP NMS", one_line(value), "1.5", "x", "1.5", "a [95 %] | *b*"]
    kinds = {child.type for each in inline for child in each.children or []}
    assert kinds <= {"text", "text_special"}


class Cells(HTMLParser):
    """Collects the tags and texts of a page's table."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.texts = set[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("th", "td", "caption"):
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts and data.strip():
            self.texts[-1] += data


@pytest.mark.parametrize("value", HOSTILE)
def test_html_shows_the_text(value: str) -> None:
    parser = Cells()
    parser.feed(html_text(Output([], [table(value)])))
    assert parser.texts == ["a [95 %] | *b*", "na|me", "AP NMS", one_line(value), "1.5"]
    page = {"html", "head", "meta", "title", "style", "body"}
    assert parser.tags == page | {"div", "table", "caption", "tr", "th", "td"}


LATEX = {
    r"\input{x}": r"\textbackslash{}input\{x\}",
    "50 % & #1_a": r"50 \% \& \#1\_a",
    "$x^2$ ~": r"\$x\textasciicircum{}2\$ \textasciitilde{}",
    "a<b>|c": r"a\textless{}b\textgreater{}\textbar{}c",
    "-1.2 [-2.0, +0.4]*": r"$-$1.2 {[}$-$2.0, +0.4{]}{*}",
    "40.1±0.2": r"40.1$\pm$0.2",
    "2026-11-29 o2f-1 -": r"2026-11-29 o2f-1 -",
    "--home": r"-{}-home",
    "two\nlines": "two lines",
    "\x1b[2J": r"\textbackslash{}x1b{[}2J",
}


@pytest.mark.parametrize("value", LATEX)
def test_latex_shows_the_text(value: str) -> None:
    assert latex_text(Output([], [table(value)])).splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"na\textbar{}me & AP NMS \\",
        r"\midrule",
        rf"{LATEX[value]} & 1.5 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\caption{a {[}95 \%{]} \textbar{} {*}b{*}}",
        r"\end{table}",
    ]


@given(TEXT)
def test_latex_of_any_text_has_no_open_group_and_no_command_of_its_own(value: str) -> None:
    lines = latex_text(Output([], [table(value)])).splitlines()
    assert len(lines) == 12
    cell = lines[7].removesuffix(r" & 1.5 \\")
    names = ("textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater")
    known = rf"\\({'|'.join(names)}|textbar)\{{\}}|\\[{{}}$&#_%]|\{{[\[\]*]\}}|-\{{\}}|\$(-|\\pm)\$"
    assert not set(r"\{}$&#_%^~") & set(re.sub(known, "", cell))


def test_one_form_at_a_time() -> None:
    assert chosen_form() == Form()
    assert chosen_form(parquet="x") == Form("parquet", "x")
    assert chosen_form(latex=True) == Form("latex")
    with pytest.raises(UserError, match="--csv and --html: give one of them"):
        chosen_form(csv=True, html=True)


@pytest.mark.parametrize("name", TEXTS)
def test_a_terminal_interprets_no_character(
    name: Any, terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file gets the values as they are."""
    output = Output([{"a": "\x9b31m\x1b]0;x\x07"}], [table("\x9b31m")])
    write_output(output, Form(name))
    piped = capsys.readouterr().out
    terminal(80)
    write_output(output, Form(name))
    shown = capsys.readouterr().out
    assert not {"\x9b", "\x1b", "\x07"} & set(shown)
    assert ("\x1b" in piped) == (name == "csv")
    assert shown.count("\n") == piped.count("\n")
    assert sys.stdout.isatty()
