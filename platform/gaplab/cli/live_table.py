"""The live table of a sweep on a terminal: a bar, and a row per trial."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gaplab.cli.render.progress import bar_line
from gaplab.cli.render.tabular import Column, PlainTable, number, text
from gaplab.cli.render.varied import EPOCHS, VariedColumns
from gaplab.cli.watch import Clock, Progress
from gaplab.formatting import duration, plural
from gaplab.records import Ended, Event, Started, StepDone, TrialRecord
from gaplab.spec.varied import varied_keys
from gaplab.states import TrialState

REDRAWN = 2
"""How often per second a live table is drawn."""
UNICODE_FRAMES, ASCII_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
"""What is shown beside a running trial, one character after the other."""
STYLES = {
    TrialState.RUNNING: "cyan",
    TrialState.SUCCEEDED: "green",
    TrialState.FAILED: "red",
    TrialState.WAITING: "dim",
}
"""Colours of states, where the terminal has colours."""


class LiveTable:
    """A bar and a table on a terminal, redrawn twice per second.

    The table shows running trials, and those that ended last. It stays where trials are left.

    Args:
        trials: the trials that are to be trained.
        console: the terminal.
        sweep: all trials of the sweep; columns show the keys in which any of them differ.
    """

    COLUMNS = (
        *(number("seed", rank=1), number("epoch", rank=0)),
        *(number("step", rank=3), number("loss", rank=3)),
        *(number("AP", rank=0), number("AP NMS", rank=2), number("gap", rank=0)),
        replace(text("", rank=0, wrap=False), name="time left"),
    )

    def __init__(
        self,
        trials: Sequence[TrialRecord],
        console: Console,
        clock: Clock = time.monotonic,
        sweep: Sequence[TrialRecord] = (),
    ) -> None:
        self._console, self._clock = console, clock
        self._rows: dict[str, Progress] = {}
        self._sweep = {trial.id: trial for trial in sweep}
        self._started: float | None = None
        self.add(trials)
        self._live = Live(
            console=console, refresh_per_second=REDRAWN, get_renderable=self.view, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._live.transient = kind is None and not any(r.state.open for r in self._rows.values())
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Update the table; failures and notes are printed above it and stay."""
        if self._started is None:
            self._started = self._clock()
        self._rows[event.trial].update(event)
        for note in event.notes if isinstance(event, Started) else ():
            self._console.print(f"{event.trial}: {note}")
        if isinstance(event, Ended) and event.end.state == TrialState.FAILED:
            self._console.print(f"{event.trial} failed: {event.end.reason}", style="red")

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """Add rows, and a column for every key in which trials differ now."""
        added = {trial.id: Progress(trial, self._clock) for trial in trials}
        self._rows = self._rows | added  # a new mapping: another thread may be drawing the old one
        self._sweep |= {trial.id: trial for trial in trials}
        configs = [trial.config for trial in self._sweep.values()]
        heads = [each.heading for each in self.COLUMNS]
        self._varied = VariedColumns(varied_keys(configs), configs, (EPOCHS,), heads)

    def add_steps(self, steps: Sequence[StepDone]) -> None:
        """Show the last steps of running trials."""
        for step in steps:
            if step.trial in self._rows:
                self._rows[step.trial].update_step(step)

    def view(self) -> Group:
        """Return the bar and the table as they are now, no higher than the screen."""
        return Group(self._bar(), self.table())

    def table(self) -> PlainTable:
        """Return the table as it is now."""
        order = {TrialState.RUNNING: 0, TrialState.WAITING: 2}
        rows = sorted(self._rows.values(), key=lambda row: order.get(row.state, 1))
        shown = max(1, self._console.height - 6)
        while (excess := self._height(self._of(rows[:shown])) - self._console.height + 2) > 0:
            if shown == 1:
                break
            shown = max(1, shown - excess)
        return self._of(rows[:shown])

    def seconds_left(self) -> float | None:
        """Return the expected seconds to the end of the sweep; None before any step is known."""
        done = sum(row.epochs_done() for row in self._rows.values())
        if self._started is None or not done:
            return None
        left = sum(row.epochs_left() for row in self._rows.values())
        return (self._clock() - self._started) / done * left

    def _bar(self) -> Text:
        """Return the progress of all trials, in epochs."""
        total = sum(row.trial.epochs for row in self._rows.values())
        left = sum(row.epochs_left() for row in self._rows.values())
        part = 1 - left / total if total else 1.0
        seconds = self.seconds_left()
        expected = "" if seconds is None else f", about {duration(seconds)} left"
        return bar_line(part, f"{part:.0%}{expected}", self._console)

    def _of(self, rows: Sequence[Progress]) -> PlainTable:
        """Return the table of some trials, in the order in which they were added."""
        ended = sum(not row.state.open for row in self._rows.values())
        title = f"{ended} of {plural(len(self._rows), 'trial')} done"
        if hidden := len(self._rows) - len(rows):
            title += f", {hidden} not shown"
        wanted = {row.trial.id for row in rows}
        shown = [row for row in self._rows.values() if row.trial.id in wanted]
        columns = [
            text("trial", [row.trial.id[:8] for row in shown], wrap=False),
            text("assignment", [row.trial.assignment for row in shown], rank=0),
            *_filled(self._varied.columns(), [self._varied.cells(r.trial.config) for r in shown]),
            *_filled(self.COLUMNS, [self._cells(row) for row in shown]),
        ]
        styles = [STYLES.get(row.state, "") for row in shown]
        columns[-1] = replace(columns[-1], styles=styles)
        return PlainTable(columns, title=title, remedy="a wider terminal")

    def _cells(self, row: Progress) -> tuple[str, ...]:
        """Return the cells of a trial; a running one has a spinner in the last cell."""
        cells = row.cells()
        if row.state is not TrialState.RUNNING:
            return cells
        frames = UNICODE_FRAMES if self._console.encoding.startswith("utf") else ASCII_FRAMES
        spinner = frames[int(self._clock() * REDRAWN) % len(frames)]
        return (*cells[:-1], f"{spinner} {cells[-1]}")

    def _height(self, table: PlainTable) -> int:
        return len(self._console.render_lines(table, pad=False))


def _filled(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[Column]:
    """Return columns with the cells of these rows."""
    return [replace(each, cells=[row[i] for row in rows]) for i, each in enumerate(columns)]
