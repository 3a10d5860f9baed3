"""Watching a sweep: a live table, plain lines, or JSON lines; all are listeners of events."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gaplab.events import to_text
from gaplab.formatting import duration, points, signed
from gaplab.records import Ended, EpochDone, EvaluationRecord, Event, Started, TrialRecord
from gaplab.states import TrialState


class Watcher(Protocol):
    """Something that shows events while it is entered."""

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
        """More trials are to come."""
        ...


class Row:
    """What is known of one trial while it runs."""

    def __init__(self, trial: TrialRecord) -> None:
        self.trial = trial
        self.state = TrialState.WAITING
        self.epoch = self.resumed_at = 0
        self.evaluation: EvaluationRecord | None = None
        self._said: list[tuple[int, float]] = []
        self._heard = time.monotonic()

    def hear(self, event: Event) -> None:
        """Take over what `event` says."""
        self._heard = time.monotonic()
        match event:
            case Started():
                self.state, self.epoch, self.resumed_at = (
                    TrialState.RUNNING,
                    event.epoch,
                    event.epoch,
                )
                self._said = []
            case EpochDone():
                self.epoch = event.epoch
                if event.losses:
                    self._said.append((event.epoch, event.cost.wall_seconds))
                primary = [e for e in event.evaluations if e.primary]
                self.evaluation = primary[-1] if primary else self.evaluation
            case Ended():
                self.state = event.end.state

    def seconds_left(self) -> float | None:
        """Expected seconds to this trial's end; None before its first epoch here and at the end.

        By the second epoch on, the first is not counted: it carries the loading of the data.
        """
        if self.state != TrialState.RUNNING or not self._said:
            return None
        before = self._said[0] if len(self._said) > 1 else (self.resumed_at, 0.0)
        epochs, seconds = (b - a for a, b in zip(before, self._said[-1], strict=True))
        expected = seconds / epochs * (self.trial.epochs - self.epoch)
        return max(0.0, expected - (time.monotonic() - self._heard))

    def cells(self) -> tuple[str, ...]:
        """Trial, assignment, seed, epoch, AP, AP with NMS, gap, and time left or state."""
        left = self.seconds_left()
        metrics = self.evaluation.metrics if self.evaluation else {}
        numbers = (points(metrics.get("ap")), points(metrics.get("ap_nms")))
        return (
            self.trial.id,
            self.trial.assignment,
            str(self.trial.seed),
            f"{self.epoch}/{self.trial.epochs}",
            *numbers,
            signed(metrics.get("gap")),
            self.state if left is None else f"{duration(left)} left",
        )


class LiveTable:
    """A table that is redrawn once a second; shows the trials that run and the last that ended."""

    COLUMNS = ("trial", "assignment", "seed", "epoch", "AP", "AP NMS", "gap", "")

    def __init__(self, trials: Sequence[TrialRecord], console: Console) -> None:
        self._rows = {trial.id: Row(trial) for trial in trials}
        self._console = console
        self._live = Live(
            console=console, refresh_per_second=1, get_renderable=self.table, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take one event; failures and notes stay on the screen above the table."""
        self._rows[event.trial].hear(event)
        for note in event.notes if isinstance(event, Started) else ():
            self._console.print(Text(f"{event.trial}: {note}"), highlight=False)
        if isinstance(event, Ended) and event.end.state == TrialState.FAILED:
            said = Text.assemble((f"{event.trial} failed:", "red"), f" {event.end.reason}")
            self._console.print(said, highlight=False)

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """More rows."""
        self._rows |= {trial.id: Row(trial) for trial in trials}

    def table(self) -> Table:
        """The table as it stands, no higher than the screen."""
        rows = list(self._rows.values())
        ended = sum(not row.state.open for row in rows)
        title = f"{ended} of {len(rows)} trials done"
        table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
        for name in self.COLUMNS:
            numeric = name in ("seed", "epoch", "AP", "AP NMS", "gap")
            table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
        for row in self._shown(rows):
            table.add_row(*row.cells())
        return table

    def _shown(self, rows: list[Row]) -> list[Row]:
        room = max(3, self._console.size.height - 6)
        order = {TrialState.RUNNING: 0, TrialState.WAITING: 2}
        kept = sorted(rows, key=lambda row: order.get(row.state, 1))[:room]
        return [row for row in rows if row in kept]


class Lines:
    """One plain line for each event, for logs."""

    def __init__(self, trials: Sequence[TrialRecord]) -> None:
        self._rows = {trial.id: Row(trial) for trial in trials}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, event: Event) -> None:
        """Print one event; what is only said again, is not."""
        row = self._rows[event.trial]
        row.hear(event)
        if isinstance(event, EpochDone) and not event.losses:
            return
        name = f"{event.trial} {row.trial.assignment} seed {row.trial.seed}"
        _write(f"{name}: {_sentence(event, row)}")

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """Know them by name."""
        self._rows |= {trial.id: Row(trial) for trial in trials}


class JsonLines:
    """Every event as one line of JSON."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, event: Event) -> None:
        """Print one event."""
        _write(to_text(event))

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """Nothing to know."""


def _sentence(event: Event, row: Row) -> str:
    match event:
        case Started():
            where = f"on {event.machine.node} ({event.machine.device})"
            begun = f"resumed after epoch {event.epoch}" if event.epoch else "started"
            return "; ".join((f"{begun} {where}", *event.notes))
        case EpochDone():
            _, _, _, epoch, ap, ap_nms, gap, left = row.cells()
            measured = f", AP {ap}, with NMS {ap_nms}, gap {gap}" if event.evaluations else ""
            return f"epoch {epoch}{measured}, {left}"
        case Ended():
            return event.end.state + (f": {event.end.reason}" if event.end.reason else "")


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
