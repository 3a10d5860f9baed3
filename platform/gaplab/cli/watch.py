"""The progress of a sweep: a live table, plain lines, or JSON lines. All listen to its events."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live

from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.events import to_text
from gaplab.formatting import duration, plural, points, printable, signed
from gaplab.records import Ended, EpochDone, EvaluationRecord, Event, Started, TrialRecord
from gaplab.states import TrialState

Clock = Callable[[], float]
"""Returns seconds that only ever increase."""


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
        self._clock = clock
        self._updated = clock()
        self._timings: list[tuple[int, float]] = []
        """Epochs of this attempt, each with the attempt's wall seconds at its end."""

    def update(self, event: Event) -> None:
        """Apply one event."""
        self._updated = self._clock()
        match event:
            case Started():
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

    def cells(self) -> tuple[str, ...]:
        """Return trial, assignment, seed, epoch, AP, AP with NMS, gap, and time left or state."""
        left = self.seconds_left()
        metrics = self.evaluation.metrics if self.evaluation else {}
        numbers = (points(metrics.get("ap")), points(metrics.get("ap_nms")))
        return (
            self.trial.id[:8],
            self.trial.assignment,
            str(self.trial.seed),
            f"{self.epoch}/{self.trial.epochs}",
            *numbers,
            signed(metrics.get("gap")),
            self.state if left is None else f"{duration(left)} left",
        )


class LiveTable:
    """A table on a terminal, redrawn once per second: running trials, and those that ended last."""

    COLUMNS = (
        *(text("trial", wrap=False), text("assignment")),
        *(number("seed", rank=2), number("epoch", rank=0)),
        *(number(heading) for heading in ("AP", "AP NMS", "gap")),
        replace(text("", rank=0), name="time left"),
    )

    def __init__(
        self, trials: Sequence[TrialRecord], console: Console, clock: Clock = time.monotonic
    ) -> None:
        self._console, self._clock = console, clock
        self._rows: dict[str, Progress] = {}
        self.add(trials)
        self._live = Live(
            console=console, refresh_per_second=1, get_renderable=self.table, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Update the table; failures and notes are printed above it and stay."""
        self._rows[event.trial].update(event)
        for note in event.notes if isinstance(event, Started) else ():
            self._console.print(f"{event.trial}: {note}")
        if isinstance(event, Ended) and event.end.state == TrialState.FAILED:
            self._console.print(f"{event.trial} failed: {event.end.reason}", style="red")

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """Add rows."""
        self._rows |= {trial.id: Progress(trial, self._clock) for trial in trials}

    def table(self) -> PlainTable:
        """Return the table as it is now, no higher than the screen."""
        order = {TrialState.RUNNING: 0, TrialState.WAITING: 2}
        rows = sorted(self._rows.values(), key=lambda row: order.get(row.state, 1))
        shown = max(1, self._console.height - 5)
        while (excess := self._height(self._of(rows[:shown])) - self._console.height + 1) > 0:
            if shown == 1:
                break
            shown = max(1, shown - excess)
        return self._of(rows[:shown])

    def _of(self, rows: Sequence[Progress]) -> PlainTable:
        """Return the table of some trials, in the order in which they were added."""
        ended = sum(not row.state.open for row in self._rows.values())
        title = f"{ended} of {plural(len(self._rows), 'trial')} done"
        if hidden := len(self._rows) - len(rows):
            title += f", {hidden} not shown"
        shown = {row.trial.id for row in rows}
        cells = (row.cells() for row in self._rows.values() if row.trial.id in shown)
        return plain_table(self.COLUMNS, cells, title=title, remedy="a wider terminal")

    def _height(self, table: PlainTable) -> int:
        return len(self._console.render_lines(table, pad=False))


class Lines:
    """One plain line per event, for log files."""

    def __init__(self, trials: Sequence[TrialRecord], clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[str, Progress] = {}
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
        name = f"{event.trial} {row.trial.assignment} seed {row.trial.seed}"
        _write(printable(f"{name}: {_sentence(event, row)}"))

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """Store the trials, whose names are part of the lines."""
        self._rows |= {trial.id: Progress(trial, self._clock) for trial in trials}


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
            _, _, _, epoch, ap, ap_nms, gap, left = row.cells()
            measured = f", AP {ap}, with NMS {ap_nms}, gap {gap}" if event.evaluations else ""
            return f"epoch {epoch}{measured}, {left}"
        case Ended():
            return event.end.state + (f": {event.end.reason}" if event.end.reason else "")


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
