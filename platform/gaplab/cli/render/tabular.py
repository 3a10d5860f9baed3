"""Tables for a terminal, made of columns that state whether they hold text or numbers.

A table that is wider than its terminal is set closer together: headings and cells are broken into
several lines. Where that is not enough, columns are left out and named below the table. Numbers are
never cropped.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.box import SIMPLE_HEAD, Box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from gaplab.cli.render.terminal import encodable
from gaplab.formatting import printable

Gap = Literal[0, 1]
"""Number of blanks between two columns, beyond the first one."""
FOLDED, NARROW = 12, 8
"""Columns that a line of a wrapped cell keeps: at least, and before columns are left out."""
REMEDY = "a wider terminal, a pipe (| cat) or --json"
REMEDY_WITH_CSV = "a wider terminal, a pipe (| cat), --csv or --json"
"""How to see the columns that a table leaves out, of a command that prints JSON, and also CSV."""
_ASCII_HEAD = Box(str(SIMPLE_HEAD).replace("─", "-"), ascii=True)
_LEFT_TO_RIGHT = "\u200e"
"""An invisible mark. Without it, terminals exchange numbers that follow a Hebrew or Arabic name."""


@dataclass(frozen=True)
class Column:
    """A column of a table, with its cells where they are known before its rows."""

    heading: str
    numeric: bool
    """Numbers are aligned to the right, text to the left."""
    wrap: bool = False
    """Whether long cells may be broken into several lines. Numbers never are."""
    cells: Sequence[str] = ()
    rank: int = 1
    """Of the columns of a table that is too wide, those of the highest rank are left out first, and
    of one rank the last one."""
    marks: Sequence[str] = ()
    """Where cells of a table that is too wide continue on another line, most useful mark first."""
    name: str = ""
    """What the column is called when it is left out, if not by its heading."""
    styles: Sequence[str] = ()
    """Styles of the cells, such as `red`, in the terms of Rich; empty for plain cells."""

    def __str__(self) -> str:
        return self.name or self.heading.replace("-\n", "-").replace("\n", " ")


def text(heading: str, cells: Sequence[str] = (), *, wrap: bool = True, rank: int = 1) -> Column:
    """Return a column of text."""
    return Column(heading, False, wrap, cells, rank)


def number(heading: str, cells: Sequence[str] = (), *, rank: int = 1) -> Column:
    """Return a column of numbers, written out."""
    return Column(heading, True, False, cells, rank)


@dataclass(frozen=True)
class PlainTable:
    """A table that fits the console it is printed to. Cells are text, never markup."""

    columns: Sequence[Column]
    title: str = ""
    caption: str = ""
    remedy: str = REMEDY
    """How to see the columns that are left out."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        encoding = console.encoding
        written = [_written(each, encoding) for each in self.columns]
        shown, gap, left_out = fitted(written, options.max_width)
        mark = _LEFT_TO_RIGHT if console.is_terminal and _has_mirrored(shown) else ""
        if self.title:
            yield _line(self.title, encoding)
        if shown:
            yield _drawn(shown, gap, _ASCII_HEAD if options.ascii_only else SIMPLE_HEAD, mark)
        if self.caption:
            yield _line(self.caption, encoding)
        if left_out:
            names = ", ".join(map(str, left_out))
            yield _line(f"no room for: {names}; to see them: {self.remedy}", encoding)


def plain_table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    caption: str = "",
    remedy: str = REMEDY,
) -> PlainTable:
    """Return a table with these columns and rows. Cells are text, never markup."""
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    filled = [replace(c, cells=each) for c, each in zip(columns, cells, strict=True)]
    return PlainTable(filled, title, caption, remedy)


def fitted(columns: Sequence[Column], width: int) -> tuple[list[Column], Gap, list[Column]]:
    """Choose the columns that fit into `width`.

    Returns:
        The columns from left to right, the blanks between them, and the columns left out.
    """
    found, left_out = list(columns), list[Column]()
    if width_of(found, 1) <= width:
        return found, 1, []
    found = [replace(each, heading=_stacked(each.heading), name=str(each)) for each in found]
    for mark in dict.fromkeys(mark for each in found for mark in each.marks):
        if width_of(found, 1) > width:
            found = [_broken(each, mark) for each in found]
    while found and width_of(found, 0, NARROW) > width:
        last = max(range(len(found)), key=lambda i: (i > 0, found[i].rank, i))
        left_out.append(found.pop(last))
    names = [str(each) for each in columns]
    left_out.sort(key=lambda each: names.index(each.name))
    return found, 1 if width_of(found, 1) <= width else 0, left_out


def width_of(columns: Sequence[Column], gap: Gap, folded: int = FOLDED) -> int:
    """Return the width that a table of these columns needs.

    Args:
        columns: The columns.
        gap: Blanks between columns.
        folded: Columns of the terminal that a line of a wrapped cell keeps at least.
    """
    total = 1
    for column in columns:
        heading, longest = _longest([column.heading]), _longest([column.heading, *column.cells])
        least = max(folded, min(heading, FOLDED))
        total += 1 + gap + (min(longest, least) if column.wrap else longest)
    return total


def _longest(cells: Sequence[str]) -> int:
    return max(cell_len(line) for cell in cells for line in cell.split("\n"))


def _stacked(heading: str) -> str:
    """Write a heading in one line per word."""
    return re.sub(r" |(?<=[._])(?=[^ \n])", "\n", heading)


def _broken(column: Column, mark: str) -> Column:
    if mark not in column.marks:
        return column
    below = "\n" + mark.strip()
    return replace(column, cells=[each.replace(mark, below) for each in column.cells])


def _written(column: Column, encoding: str) -> Column:
    """Return the column in characters that the console can show."""
    lines = [encodable(printable(line), encoding) for line in column.heading.split("\n")]
    cells = [encodable(printable(cell), encoding) for cell in column.cells]
    return replace(column, heading="\n".join(lines), cells=cells, name=str(column))


def _has_mirrored(columns: Sequence[Column]) -> bool:
    """Return whether a cell is in a script that is written from right to left."""
    characters = {character for each in columns for cell in each.cells for character in cell}
    return any(unicodedata.bidirectional(each) in ("R", "AL") for each in characters)


def _line(words: str, encoding: str) -> Text:
    """Return text that is broken between words if it is too long."""
    return Text(encodable(printable(words), encoding), no_wrap=False, overflow="fold")


def _drawn(columns: Sequence[Column], gap: Gap, box: Box, mark: str) -> Table:
    """Return the table of these columns; every line of a cell begins with `mark`."""
    table = Table(box=box, padding=(0, gap, 0, 0))
    for column in columns:
        table.add_column(
            Text(column.heading),
            justify="right" if column.numeric else "left",
            no_wrap=not column.wrap,
            overflow="fold",
        )
    for cells in zip(*(_styled(column) for column in columns), strict=True):
        table.add_row(
            *(Text(mark + cell.replace("\n", "\n" + mark), style) for cell, style in cells)
        )
    return table


def _styled(column: Column) -> list[tuple[str, str]]:
    """Return the cells of a column with their styles."""
    return list(zip(column.cells, column.styles or [""] * len(column.cells), strict=True))
