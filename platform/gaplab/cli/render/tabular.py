"""Tables for a terminal, made of columns that state whether they hold text or numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

Gap = Literal[0, 1]
"""Number of blanks between two columns, beyond the first one."""


@dataclass(frozen=True)
class Column:
    """A column of a table, with its cells where they are known before its rows."""

    heading: str
    numeric: bool
    """Numbers are aligned to the right, text to the left."""
    wrap: bool = False
    """Whether long cells may be broken into several lines. Numbers never are."""
    cells: Sequence[str] = ()


def text(heading: str, cells: Sequence[str] = (), *, wrap: bool = True) -> Column:
    """Return a column of text."""
    return Column(heading, False, wrap, cells)


def number(heading: str, cells: Sequence[str] = ()) -> Column:
    """Return a column of numbers, written out."""
    return Column(heading, True, False, cells)


def plain_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], gap: Gap = 1) -> Table:
    """Return a table with these columns and rows. Cells are text, never markup."""
    table = Table(box=SIMPLE_HEAD, padding=(0, gap, 0, 0))
    for column in columns:
        table.add_column(
            Text(column.heading),
            justify="right" if column.numeric else "left",
            no_wrap=not column.wrap,
            overflow="fold",
        )
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table


def filled_table(columns: Sequence[Column], gap: Gap = 1) -> Table:
    """Return a table of columns that hold their cells."""
    return plain_table(columns, zip(*(column.cells for column in columns), strict=True), gap)


def width_of(columns: Sequence[Column], gap: Gap, folded: int) -> int:
    """Return the width of a table of these columns.

    Args:
        columns: Columns that hold their cells.
        gap: Blanks between columns, see `Gap`.
        folded: Characters that a line of a wrapped cell keeps at least.
    """
    total = 1
    for column in columns:
        lines = [line for cell in (column.heading, *column.cells) for line in cell.split("\n")]
        longest = max(map(cell_len, lines))
        total += 1 + gap + (min(longest, folded) if column.wrap else longest)
    return total
