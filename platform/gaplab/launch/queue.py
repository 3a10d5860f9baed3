"""What a driver runs next: trials that are due are claimed in the ledger, one at a time. No Ray."""

import heapq
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from gaplab.failures import Failure
from gaplab.launch.decisions import Ending, next_step
from gaplab.launch.sources import parent
from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.ledger.views import AttemptView
from gaplab.records import AttemptEnd, Claim, TrialRecord
from gaplab.spec.models import Policy
from gaplab.states import TrialState

LOOK = 1.0
"""Seconds between two looks at trials that other drivers run."""


@dataclass(frozen=True)
class Claimed:
    """A trial that is ours to run, as the attempt of this id."""

    trial: TrialRecord
    attempt: int


class Queue:
    """The trials of a sweep that are not settled: due, due later, running here, running elsewhere.

    A trial is settled when it has succeeded, was stopped or cancelled, or failed too often. One
    that starts from another trial of the sweep is due when that one is settled. `clock` gives
    seconds, as time.monotonic does.
    """

    def __init__(
        self,
        ledger: Ledger,
        driver: tuple[str, str],
        policy: Policy,
        trials: Sequence[TrialRecord],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, (self._driver, self._sweep), self._policy = ledger, driver, policy
        self._clock, self._begun = clock, ledger.now()
        self._open: dict[str, TrialRecord] = {}
        self._due: deque[str] = deque()
        self._later: list[tuple[float, str]] = []
        self._elsewhere: set[str] = set()
        self._heirs: dict[str, list[str]] = {}
        self._running: set[str] = set()
        self._failures: dict[str, int] = {}
        self._looked = self._clock()
        self._known: dict[str, int] = {}  # the last attempt at a trial that we have heard of
        self.failed: list[Failure] = []
        """What has failed for good, in this driver."""
        self.add(trials)

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """More trials for the end of the queue."""
        self._open |= {trial.id: trial for trial in trials}
        self._known |= self._ledger.newest_attempts([trial.id for trial in trials])
        for trial in trials:
            source = parent(trial)
            if source in self._open:
                self._heirs.setdefault(source, []).append(trial.id)
            else:
                self._due.append(trial.id)

    @property
    def finished(self) -> bool:
        """Whether every trial is settled."""
        return not self._open

    @property
    def due(self) -> int:
        """Trials that could start now."""
        return len(self._due)

    @property
    def running(self) -> int:
        """Trials that run here."""
        return len(self._running)

    @property
    def wants(self) -> int:
        """Trials that run here, or would if there were room."""
        return len(self._running) + len(self._due)

    @property
    def waits_for(self) -> str:
        """What an idle driver waits for, in words; empty where trials are due or running."""
        if self._due or self._running or self.finished:
            return ""
        parts = [f"{len(self._elsewhere)} trials that other drivers run"] if self._elsewhere else []
        if self._later:
            seconds = max(0.0, self._later[0][0] - self._clock())
            parts.append(f"{len(self._later)} to be tried again, the first in {seconds:.0f} s")
        return " and ".join(parts)

    def take(self) -> Claimed | None:
        """Claim the next trial that is due; None if there is none now."""
        self.look_around()
        while self._due:
            trial = self._open.get(self._due.popleft())
            if trial is not None and (claimed := self._claim(trial)) is not None:
                return claimed
        return None

    def ended(self, trial: str, end: AttemptEnd, node: str = "") -> None:
        """Our attempt at `trial` has ended so."""
        self._running.discard(trial)
        if end.state == TrialState.FAILED:
            self._failures[trial] = self._failures.get(trial, 0) + 1
        ending = Ending(end.state, end.fault, self._failures.get(trial, 0))
        self._go_on(trial, ending, Failure(trial, end.fault, end.reason, node))

    def lost(self, trial: str) -> None:
        """Another driver holds `trial`: our attempt was taken for dead."""
        self._running.discard(trial)
        self._elsewhere.add(trial)

    def leave(self, trials: Collection[str]) -> None:
        """Leave these alone, if they are not running here; an empty id stands for all."""
        chosen = list(self._open) if "" in trials else list(trials)
        left = [each for each in chosen if each in self._open and each not in self._running]
        for trial in left:
            self._settle(trial)
        if left:
            self._due = deque(each for each in self._due if each in self._open)
            self._later = sorted(each for each in self._later if each[1] in self._open)

    def _claim(self, trial: TrialRecord) -> Claimed | None:
        known = self._known.get(trial.id, 0)
        try:
            attempt = self._ledger.start_attempt(
                Claim(trial.id, self._sweep, self._driver, after=known)
            )
        except ClaimError as error:
            if error.state == TrialState.SUCCEEDED:
                self._settle(trial.id)
            else:  # others run it, or did so meanwhile: look how that ended
                self._elsewhere.add(trial.id)
            return None
        self._running.add(trial.id)
        self._known[trial.id] = attempt
        return Claimed(trial, attempt)

    def look_around(self) -> None:
        """Bring back what is due by now."""
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            self._due.append(heapq.heappop(self._later)[1])
        if self._elsewhere and now - self._looked >= LOOK:
            self._looked = now
            for trial, ending in list(self._endings()):
                self._elsewhere.discard(trial)
                self._go_on(trial, ending, None)

    def _endings(self) -> Iterator[tuple[str, Ending]]:
        """How trials that ran elsewhere have ended since the last look."""
        for trial, state in self._ledger.states(sorted(self._elsewhere)).items():
            if state == TrialState.WAITING:
                yield trial, Ending(TrialState.INTERRUPTED, "", 0)
            elif state != TrialState.RUNNING:
                attempts = self._ledger.attempts(trial)
                since = [
                    a
                    for a in attempts
                    if a.started_at >= self._begun and a.state == TrialState.FAILED
                ]
                how = state if self._concerns_us(attempts[-1]) else TrialState.INTERRUPTED
                self._known[trial] = attempts[-1].id
                yield trial, Ending(how, attempts[-1].fault, len(since))

    def _concerns_us(self, last: AttemptView) -> bool:
        """Whether it settles a trial of ours that others ended so: not if they left it alone for a
        sweep that isn't ours, or on a wish that was said before this driver began.
        """
        if last.state == TrialState.CANCELLED:
            asked = self._ledger.cancelled(self._sweep, self._driver)
            return "" in asked or last.trial in asked
        return last.state != TrialState.STOPPED or last.sweep == self._sweep

    def _go_on(self, trial: str, ending: Ending, failure: Failure | None) -> None:
        step = next_step(ending, self._policy)
        if step.verdict == "again" and step.wait:
            heapq.heappush(self._later, (self._clock() + step.wait, trial))
        elif step.verdict == "again":
            self._due.append(trial)
        else:
            self._settle(trial)
            if step.verdict == "given up" and failure is not None:
                self.failed.append(failure)

    def _settle(self, trial: str) -> None:
        self._open.pop(trial, None)
        self._elsewhere.discard(trial)
        self._due.extend(self._heirs.pop(trial, []))
