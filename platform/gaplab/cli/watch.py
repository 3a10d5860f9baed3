"""The progress of a sweep as plain lines or JSON lines; `live_table` shows it on a terminal."""

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from gaplab.events import to_text
from gaplab.formatting import duration, points, printable, signed
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
SILENCE = 600.0
"""Seconds without a line on a running trial after which its step is one."""


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
        return max(0.0, self.epoch + self._part() - self._first)

    def epochs_left(self) -> float:
        """Return the epochs that the trial still needs; 0 if it will not be continued."""
        return self.trial.epochs - self.epoch - self._part() if self.state.open else 0.0

    def _part(self) -> float:
        """Return the part of the current epoch that is done."""
        step = self.step  # an event may delete it meanwhile: a table is drawn by another thread
        return step.step / step.steps if step else 0.0

    def seconds_left(self) -> float | None:
        """Return the expected seconds to the end of the trial.

        The first epoch of an attempt includes loading the data, so from the second one on it is
        left out of the mean. Before the end of an epoch, the steps of the first one count. None
        before any step is known, and after the end of the attempt.
        """
        if self.state != TrialState.RUNNING:
            return None
        if not (timings := self._timings):
            return self._seconds_left_by_steps()
        before = timings[0] if len(timings) > 1 else (self.resumed_at, 0.0)
        epochs, seconds = (b - a for a, b in zip(before, timings[-1], strict=True))
        expected = seconds / epochs * (self.trial.epochs - self.epoch)
        return max(0.0, expected - (self._clock() - self._updated))

    def _seconds_left_by_steps(self) -> float | None:
        elapsed, part = self._clock() - self._updated, self._part()
        return elapsed / part * (self.trial.epochs - self.epoch - part) if part else None

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


class Lines:
    """One plain line per event, and per SILENCE of a running trial, for log files.

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
        self._printed: dict[str, float] = {}
        self._sweep = {trial.id: trial for trial in sweep}
        self.add(trials)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, event: Event) -> None:
        """Print one event, unless it only replays evaluations of an earlier attempt."""
        row = self._rows[event.trial]
        row.update(event)
        if not isinstance(event, EpochDone) or event.losses:
            self._print(row, _sentence(event, row))

    def add_steps(self, steps: Sequence[StepDone]) -> None:
        """Print the last steps of the running trials that had no line for a while."""
        for step in steps:
            if (row := self._rows.get(step.trial)) is None:
                continue
            row.update_step(step)
            if row.step is step and self._clock() - self._printed[step.trial] >= SILENCE:
                epoch = f"epoch {step.epoch}/{row.trial.epochs}"
                self._print(row, f"{epoch}, step {step.step}/{step.steps}, {row.ending()}")

    def _print(self, row: Progress, sentence: str) -> None:
        trial = row.trial
        self._printed[trial.id] = self._clock()
        label = trial_label(trial.config, self._keys) or trial.assignment
        _write(printable(f"{trial.id} {label} seed {trial.seed}: {sentence}"))

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
