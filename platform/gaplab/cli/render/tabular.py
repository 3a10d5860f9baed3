"""Plain tables for a terminal: words on the left, numbers on the right."""

from collections.abc import Collection
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

_WORDS = {
    *("trial", "assignment", "data set", "state", "sweep", "branch", "protocol", "class", "metric"),
    *("node", "device", "reason", "begun", "recall, no NMS", "NMS among", "assign-\nment"),
    *("row", "in the paper", "read as", "used by", "detector"),
}


def plain_table(
    *columns: str, whole: Collection[str] = ("branch",), between: Literal[0, 1] = 1
) -> Table:
    """An empty table with these columns; those that hold numbers, and `whole`, never break.

    between: how many more blanks than one stand between columns.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, between, 0, 0))
    for name in columns:
        word = name in _WORDS
        side: Literal["left", "right"] = "left" if word else "right"
        table.add_column(name, justify=side, no_wrap=not word or name in whole, overflow="fold")
    return table
