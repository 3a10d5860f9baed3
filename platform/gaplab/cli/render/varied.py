"""Columns for the keys in which the trials of a table differ."""

from collections.abc import Iterable, Sequence

from gaplab.cli.render.tabular import Column, PlainTable, number, plain_table, text
from gaplab.records import TrialRecord
from gaplab.spec.varied import (
    ASSIGNMENT,
    Config,
    short_names,
    varied_cells,
    varied_keys,
    varied_values,
)

EPOCHS = "training.epochs"
DATA = ("data.name", "data.title")
"""Keys whose values are in a column `data set`."""


class VariedColumns:
    """Columns for varied keys, without those that the table shows in its own columns.

    Attributes:
        keys: the dotted keys.
    """

    def __init__(
        self,
        keys: Iterable[str],
        configs: Sequence[Config],
        shown: Iterable[str] = (),
        taken: Iterable[str] = (),
    ) -> None:
        """Name the columns.

        Args:
            keys: the varied keys.
            configs: the trials that are shown.
            shown: keys with a column of their own, besides that of the assignment.
            taken: headings of the table's own columns.
        """
        own = {ASSIGNMENT, *shown}
        self.keys = [key for key in keys if key not in own]
        names = short_names(self.keys, taken)
        values = [varied_values(config, self.keys) for config in configs]
        self._columns = [_column(names[k], [v[k] for v in values if k in v]) for k in self.keys]

    def columns(self) -> list[Column]:
        """Return one column per key, without cells."""
        return self._columns

    def cells(self, config: Config) -> list[str]:
        """Return the cells of one trial; empty ones for keys that it lacks."""
        return varied_cells(config, self.keys)


def _column(name: str, values: Iterable[object]) -> Column:
    """Return a column: numbers are aligned to the right, and none is ever broken into two lines."""
    numeric = all(type(value) in (int, float) for value in values)
    return number(name, rank=0) if numeric else text(name, rank=0)


def trial_table(
    trials: Sequence[TrialRecord], states: Sequence[str], names: tuple[str, str]
) -> PlainTable:
    """Return a table of the first trials of a sweep.

    Args:
        trials: all trials of the sweep. The columns show the keys in which any of them differ.
        states: the states of the first trials, which are the rows.
        names: heading of the states, and title.
    """
    heads = ["trial", "assignment", "data set", "seed", "epochs", names[0]]
    configs = [each.config for each in trials]
    shown = configs[: len(states)]
    varied = VariedColumns(varied_keys(configs), shown, (EPOCHS, *DATA), heads)
    columns = [
        *(text("trial"), text("assignment", rank=0), *varied.columns(), text("data set")),
        *(number("seed", rank=0), number("epochs"), text(names[0], rank=0)),
    ]
    rows = (
        [
            *(each.id or "?", each.assignment, *varied.cells(each.config), each.dataset),
            *(str(each.seed), str(each.epochs), state),
        ]
        for each, state in zip(trials, states, strict=False)
    )
    return plain_table(columns, rows, title=names[1])
