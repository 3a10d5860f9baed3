"""The progress of a sweep: a live table, plain lines, or JSON lines. All listen to its events."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gaplab.cli.render.progress import bar_line
from gaplab.cli.render.tabular import Column, PlainTable, number, text
from gaplab.cli.render.varied import EPOCHS, VariedColumns
from gaplab.events import to_text
from gaplab.formatting import duration, plural, points, printable, signed
from gaplab.records import (
    Ended,
    EpochDone,
    EvaluationRecord,
    Event,
    Started,
    StepDone,
    TrialRecord,
)
from gaplab.spec.varied import trial_label, varied_keys
from gaplab.states import TrialState

Clock = Callable[[], float]
"""Returns seconds that only ever increase."""
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


class Watcher(Protocol):
    """Shows the events of a sweep while its context is entered."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...

    def __call__(self, event: Event) -> None:
        """Show one event."""
        ...

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """Expect events of more trials."""
        ...


class Progress:
    """The progress of one trial, computed from its events."""

    def __init__(self, trial: TrialRecord, clock: Clock = time.monotonic) -> None:
        self.trial = trial
        self.state = TrialState.WAITING
        self.epoch = self.resumed_at = 0
        self.evaluation: EvaluationRecord | None = None
        self.step: StepDone | None = None
        """The last step that is known of the current epoch."""
        self._clock = clock
        self._updated = clock()
        self._timings: list[tuple[int, float]] = []
        """Epochs of this attempt, each with the attempt's wall seconds at its end."""
        self._first = 0
        """Epochs that were done before this driver first started the trial."""

    def update(self, event: Event) -> None:
        """Apply one event."""
        self._updated = self._clock()
        self.step = None
        match event:
            case Started():
                if self.state is TrialState.WAITING:
                    self._first = event.epoch
                self.state = TrialState.RUNNING
                self.epoch = self.resumed_at = event.epoch
                self._timings = []
            case EpochDone():
                self.epoch = event.epoch
                if event.losses:
                    self._timings.append((event.epoch, event.cost.wall_seconds))
                primary = [e for e in event.evaluations if e.primary]
                self.evaluation = primary[-1] if primary else self.evaluation
            case Ended():
                self.state = event.end.state

    def update_step(self, step: StepDone) -> None:
        """Apply a step, unless it is one of an epoch or an attempt that has ended."""
        if self.state is TrialState.RUNNING and step.epoch == self.epoch + 1:
            self.step = step

    def epochs_done(self) -> float:
        """Return the epochs that were done since this driver first started the trial."""
        part = self.step.step / self.step.steps if self.step else 0.0
        return max(0.0, self.epoch + part - self._first)

    def epochs_left(self) -> float:
        """Return the epochs that the trial still needs; 0 if it will not be continued."""
        part = self.step.step / self.step.steps if self.step else 0.0
        return self.trial.epochs - self.epoch - part if self.state.open else 0.0

    def seconds_left(self) -> float | None:
        """Return the expected seconds to the end of the trial.

        The first epoch of an attempt includes loading the data, so from the second one on it is
        left out of the mean. None before the first epoch of this attempt, and after its end.
        """
        if self.state != TrialState.RUNNING or not self._timings:
            return None
        before = self._timings[0] if len(self._timings) > 1 else (self.resumed_at, 0.0)
        epochs, seconds = (b - a for a, b in zip(before, self._timings[-1], strict=True))
        expected = seconds / epochs * (self.trial.epochs - self.epoch)
        return max(0.0, expected - (self._clock() - self._updated))

    def numbers(self) -> tuple[str, str, str]:
        """Return AP, AP with NMS and gap of the last evaluation."""
        metrics = self.evaluation.metrics if self.evaluation else {}
        return points(metrics.get("ap")), points(metrics.get("ap_nms")), signed(metrics.get("gap"))

    def ending(self) -> str:
        """Return the time left, or the state where that is not known."""
        left = self.seconds_left()
        return self.state if left is None else f"{duration(left)} left"

    def cells(self) -> tuple[str, ...]:
        """Return the cells from seed to time left, as `LiveTable` has them."""
        step = self.step
        return (
            str(self.trial.seed),
            f"{self.epoch}/{self.trial.epochs}",
            f"{step.step}/{step.steps}" if step else "",
            f"{step.loss:.4g}" if step else "",
            *self.numbers(),
            self.ending(),
        )


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
        self._rows |= {trial.id: Progress(trial, self._clock) for trial in trials}
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


class Lines:
    """One plain line per event, for log files.

    Args:
        trials: the trials that are to be trained.
        sweep: all trials of the sweep; names of trials have the keys in which any of them differ.
    """

    def __init__(
        self,
        trials: Sequence[TrialRecord],
        clock: Clock = time.monotonic,
        sweep: Sequence[TrialRecord] = (),
    ) -> None:
        self._clock = clock
        self._rows: dict[str, Progress] = {}
        self._sweep = {trial.id: trial for trial in sweep}
        self.add(trials)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, event: Event) -> None:
        """Print one event, unless it only replays evaluations of an earlier attempt."""
        row = self._rows[event.trial]
        row.update(event)
        if isinstance(event, EpochDone) and not event.losses:
            return
        label = trial_label(row.trial.config, self._keys) or row.trial.assignment
        name = f"{event.trial} {label} seed {row.trial.seed}"
        _write(printable(f"{name}: {_sentence(event, row)}"))

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """Store the trials, whose names are part of the lines."""
        self._rows |= {trial.id: Progress(trial, self._clock) for trial in trials}
        self._sweep |= {trial.id: trial for trial in trials}
        self._keys = varied_keys(trial.config for trial in self._sweep.values())


class JsonLines:
    """Every event as one line of JSON."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, event: Event) -> None:
        """Print one event."""
        _write(to_text(event))

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """Do nothing: an event names its trial."""


def _sentence(event: Event, row: Progress) -> str:
    match event:
        case Started():
            where = f"on {event.machine.node} ({event.machine.device})"
            start = f"resumed after epoch {event.epoch}" if event.epoch else "started"
            return "; ".join((f"{start} {where}", *event.notes))
        case EpochDone():
            ap, ap_nms, gap = row.numbers()
            measured = f", AP {ap}, with NMS {ap_nms}, gap {gap}" if event.evaluations else ""
            return f"epoch {row.epoch}/{row.trial.epochs}{measured}, {row.ending()}"
        case Ended():
            return event.end.state + (f": {event.end.reason}" if event.end.reason else "")


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
