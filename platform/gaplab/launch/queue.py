"""The queue of a driver: trials that are due are claimed in the ledger one at a time. No Ray."""

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gaplab.failures import Failure
from gaplab.formatting import duration, plural
from gaplab.launch.decisions import Ending, next_step
from gaplab.launch.sources import parent
from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError, LimitError
from gaplab.ledger.views import AttemptView
from gaplab.records import AttemptEnd, CancelRequest, Claim, DriverRecord, TrialRecord
from gaplab.spec.models import Policy
from gaplab.states import TrialState

POLL = 1.0
"""Seconds between two looks into the ledger at trials that other drivers run."""


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that this driver may run, and the id of its new attempt."""

    trial: TrialRecord
    attempt: int


class Queue:
    """The unsettled trials of a sweep: due now, due later, running here or in another driver.

    A trial is settled when it has succeeded, was stopped or cancelled, or failed too often. A trial
    that starts from another trial of the sweep becomes due when that one is settled.

    Args:
        ledger: the ledger.
        driver: the driver that claims the trials; it must be in the ledger.
        policy: the section `run` of the spec.
        trials: the unfinished trials of the driver's sweep, in the order in which they are to run.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        driver: DriverRecord,
        policy: Policy,
        trials: Sequence[TrialRecord],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._driver, self._policy = ledger, driver, policy
        self._clock, self._started_at = clock, ledger.now()
        self._open: dict[str, TrialRecord] = {}
        self._due: deque[str] = deque()
        self._retries: list[tuple[float, str]] = []  # a heap: when, and which trial
        self._elsewhere: set[str] = set()
        self._dependents: dict[str, list[str]] = {}
        self._running: set[str] = set()
        self._failed_attempts: dict[str, int] = {}
        self._last_poll = self._clock()
        self._limited_until = float("-inf")
        self._known: dict[str, int] = {}  # id of the last attempt at a trial that we know of
        self.failures: list[Failure] = []
        """The last failure of every trial that this driver has given up."""
        self.add(trials)

    @property
    def finished(self) -> bool:
        """Whether every trial is settled."""
        return not self._open

    @property
    def due(self) -> int:
        """Number of trials that could start now."""
        return len(self._due)

    @property
    def running(self) -> int:
        """Number of trials that run in this driver."""
        return len(self._running)

    @property
    def demand(self) -> int:
        """Number of trials that run in this driver or could start now."""
        return len(self._running) + (0 if self.limited else len(self._due))

    @property
    def limited(self) -> bool:
        """Whether nothing may start because all drivers together run `run.at_once` trials.

        The next claim finds out again after `POLL` seconds, or when an attempt has ended here.
        """
        return self._clock() < self._limited_until

    @property
    def waits_for(self) -> str:
        """What an idle driver is waiting for, in words; empty where trials can start or run."""
        if self._running or self.finished or (self._due and not self.limited):
            return ""
        parts = list[str]()
        if count := len(self._elsewhere):
            drivers = "another driver runs" if count == 1 else "other drivers run"
            parts.append(f"{plural(count, 'trial')} that {drivers}")
        if count := len(self._due):
            parts.append(f"a free slot for {plural(count, 'trial')} (run.at_once)")
        if count := len(self._retries):
            wait = duration(max(0.0, self._retries[0][0] - self._clock()))
            parts.append(f"{plural(count, 'trial')} to be retried, the first in {wait}")
        return f"waiting for {' and '.join(parts)}" if parts else ""

    def add(self, trials: Sequence[TrialRecord]) -> None:
        """Add trials to the end of the queue."""
        self._open |= {trial.id: trial for trial in trials}
        self._known |= self._ledger.newest_attempts([trial.id for trial in trials])
        for trial in trials:
            source = parent(trial)
            if source in self._open:
                self._dependents.setdefault(source, []).append(trial.id)
            else:
                self._due.append(trial.id)

    def claim(self) -> ClaimedTrial | None:
        """Claim the next trial that is due, or return None if there is none now."""
        self.refresh()
        while self._due and not self.limited:
            trial = self._open.get(self._due.popleft())
            if trial is not None and (claimed := self._claim(trial)) is not None:
                return claimed
        return None

    def handle_end(self, trial: str, end: AttemptEnd, node: str = "") -> None:
        """Decide what follows the end of this driver's attempt at `trial`.

        Args:
            trial: id of the trial.
            end: how the attempt ended.
            node: where it ran, if known; taken out of the reason when failures are compared.
        """
        self._running.discard(trial)
        self._limited_until = float("-inf")
        if end.state == TrialState.FAILED:
            self._failed_attempts[trial] = self._failed_attempts.get(trial, 0) + 1
        ending = Ending(end.state, end.fault, self._failed_attempts.get(trial, 0))
        self._apply(trial, ending, Failure(trial, end.fault, end.reason, node))

    def handle_loss(self, trial: str) -> None:
        """Watch `trial` from now on: this driver was considered lost, and another may have it."""
        self._running.discard(trial)
        self._elsewhere.add(trial)

    def cancel(self, request: CancelRequest) -> None:
        """Settle the trials that are to be cancelled and are not running in this driver."""
        chosen = [t for t in self._open if request.covers(t) and t not in self._running]
        for trial in chosen:
            self._settle(trial)
        if chosen:
            self._due = deque(each for each in self._due if each in self._open)
            self._retries = sorted(each for each in self._retries if each[1] in self._open)

    def refresh(self) -> None:
        """Make trials due whose retry has come or whose attempt in another driver has ended."""
        now = self._clock()
        while self._retries and self._retries[0][0] <= now:
            self._due.append(heapq.heappop(self._retries)[1])
        if self._elsewhere and now - self._last_poll >= POLL:
            self._last_poll = now
            for trial, ending in list(self._endings_elsewhere()):
                self._elsewhere.discard(trial)
                self._apply(trial, ending, None)

    def _claim(self, trial: TrialRecord) -> ClaimedTrial | None:
        known = self._known.get(trial.id, 0)
        claim = Claim(
            trial.id,
            self._driver.sweep,
            self._driver.id,
            after=known,
            at_once=self._policy.at_once,
            config=trial.config,
        )
        try:
            attempt = self._ledger.start_attempt(claim)
        except LimitError:
            self._due.appendleft(trial.id)
            self._limited_until = self._clock() + POLL
            return None
        except ClaimError as error:
            if error.state == TrialState.SUCCEEDED:
                self._settle(trial.id)
            else:  # another driver runs it, or did since we looked: read later how that ended
                self._elsewhere.add(trial.id)
            return None
        self._running.add(trial.id)
        self._known[trial.id] = attempt
        return ClaimedTrial(trial, attempt)

    def _endings_elsewhere(self) -> Iterator[tuple[str, Ending]]:
        """Yield how trials that ran in other drivers have ended since the last look."""
        for trial, state in self._ledger.states(sorted(self._elsewhere)).items():
            if state == TrialState.WAITING:
                yield trial, Ending(TrialState.INTERRUPTED, "", 0)
            elif state != TrialState.RUNNING:
                attempts = self._ledger.attempts(trial)
                failures = [
                    each
                    for each in attempts
                    if each.started_at >= self._started_at and each.state == TrialState.FAILED
                ]
                last = attempts[-1]
                self._known[trial] = last.id
                counted = state if self._concerns_this_sweep(last) else TrialState.INTERRUPTED
                yield trial, Ending(counted, last.fault, len(failures))

    def _concerns_this_sweep(self, last: AttemptView) -> bool:
        """Return whether the last attempt, made by another driver, settles the trial here too.

        It doesn't if that driver cancelled or stopped the trial for another sweep, or on a request
        that was made before this driver started.
        """
        if last.state == TrialState.CANCELLED:
            request = self._ledger.cancelled(self._driver.sweep, self._driver.id)
            return request.covers(last.trial)
        return last.state != TrialState.STOPPED or last.sweep == self._driver.sweep

    def _apply(self, trial: str, ending: Ending, failure: Failure | None) -> None:
        """Settle the trial or queue its retry."""
        step = next_step(ending, self._policy)
        if step.action == "retry" and step.wait:
            heapq.heappush(self._retries, (self._clock() + step.wait, trial))
        elif step.action == "retry":
            self._due.append(trial)
        else:
            self._settle(trial)
            if step.action == "give up" and failure is not None:
                self.failures.append(failure)

    def _settle(self, trial: str) -> None:
        self._open.pop(trial, None)
        self._elsewhere.discard(trial)
        self._due.extend(self._dependents.pop(trial, []))
