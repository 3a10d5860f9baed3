"""The scheduler of a driver: decides what starts next, what must stop, and when a sweep ends.

It is independent of Ray: Ray Tune gets trials from it and passes it the events of attempts, a
heartbeat passes it reports, and it sends orders to running attempts.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gaplab.errors import UserError
from gaplab.launch.decisions import Demand, share, should_stop
from gaplab.launch.heartbeat import DriverDemand, HeartbeatReport
from gaplab.launch.queue import ClaimedTrial, Queue
from gaplab.launch.recorder import Recorder
from gaplab.launch.search import Proposals
from gaplab.launch.stopping import SweepStopping
from gaplab.records import AttemptEnd, Cost, Ended, EpochDone, Event, TrialRecord
from gaplab.spec.models import Policy
from gaplab.states import TrialState
from gaplab.trial.control import Stop

REFRESH = 2.0
"""Seconds between two looks at the cluster, and between two questions to a search."""
CANCELLED = Stop(TrialState.CANCELLED, "cancelled by a user")
LEAVING = Stop(TrialState.PREEMPTED, "its machine is about to be taken away")
TAKEN_OVER = Stop(TrialState.INTERRUPTED, "another driver has taken over the trial")


class Orders(Protocol):
    """Sends orders and verdicts to running attempts; see `launch.ray.orders.OrdersClient`."""

    def stop(self, attempt: int, stop: Stop) -> None:
        """Order an attempt to stop."""
        ...

    def stop_node(self, node: str, stop: Stop) -> None:
        """Order all attempts on the node of this id to stop."""
        ...

    def answer(self, attempt: int, epoch: int, may_continue: bool) -> None:
        """Answer whether an attempt may continue after an epoch."""
        ...

    def forget(self, attempt: int) -> None:
        """Drop what was stored for an attempt that has ended."""
        ...


@dataclass(frozen=True)
class SchedulerContext:
    """What a scheduler works with.

    Attributes:
        driver: id of the driver.
        policy: the section `run` of the spec.
        queue: the trials to run.
        recorder: writes events to the ledger.
        orders: reaches running attempts.
        demand: updated by the scheduler, written to the ledger by the heartbeat.
        slots: returns how many trials the cluster holds now.
        announce: called with the trials that a search adds.
        leaving: returns the ids of nodes that are about to be taken away.
    """

    driver: str
    policy: Policy
    queue: Queue
    recorder: Recorder
    orders: Orders
    demand: DriverDemand
    slots: Callable[[], int]
    announce: Callable[[Sequence[TrialRecord]], None] = lambda trials: None
    leaving: Callable[[], Iterable[str]] = tuple


class Scheduler:
    """Schedules the trials of one sweep in one driver.

    All methods are called from one thread, except `receive_report`, which the heartbeat's thread
    calls, and `stop`, which a signal handler may call.
    """

    def __init__(
        self,
        context: SchedulerContext,
        stopping: SweepStopping | None = None,
        proposals: Proposals | None = None,
    ) -> None:
        self._context, self._stopping, self._proposals = context, stopping, proposals
        self._report = HeartbeatReport()
        self._slots, self._last_poll = 0, float("-inf")
        self._last_proposal = float("-inf")
        self._claimed_at: dict[int, float] = {}
        self._ordered: set[int] = set()
        self._verdicts: dict[int, str] = {}
        self._stopped_at: float | None = None
        self.stopped: Stop | None = None
        """The order that ended the sweep early, if there is one."""
        self.error: UserError | None = None
        """Why the ledger can't be written, if that ended the sweep."""

    @property
    def finished(self) -> bool:
        """Whether the driver may end: all trials are settled, or a stopped sweep has wound down.

        A stopped sweep has wound down when every attempt has ended or `run.grace_seconds` are over.
        """
        recorder = self._context.recorder
        if self._stopped_at is not None:
            return not recorder.open or self._too_late
        return self._context.queue.finished and not recorder.open and not self._searching

    def next_trial(self) -> ClaimedTrial | None:
        """Claim the next trial to start, or return None if none may start now."""
        if self.error is not None:
            return None
        try:
            return self._next_trial()
        except UserError as error:
            self._fail(error)
            return None

    def tick(self) -> None:
        """Carry out requests and signals received since the last call. To be called often."""
        self._poll_cluster()
        try:
            self._apply_report()
        except UserError as error:
            self._fail(error)
        if self.stopped is not None:
            for attempt in tuple(self._context.recorder.open):
                self._order(attempt, self.stopped)

    def handle(self, attempt: int, event: Event) -> None:
        """Record an event of an attempt and act on it."""
        if self.error is not None:  # a later attempt replays it from the checkpoint
            if isinstance(event, Ended):
                self._context.recorder.drop(attempt)
            return
        try:
            self._handle(attempt, event)
        except UserError as error:
            self._fail(error)
        except ValueError as error:  # the ledger rejects the event
            self._reject(attempt, str(error))

    def handle_death(self, attempt: int, end: AttemptEnd) -> None:
        """End an attempt whose process died before it could report an end."""
        recorder = self._context.recorder
        trial, node = recorder.open.get(attempt, ""), recorder.nodes.get(attempt, "")
        try:
            if event := recorder.end(attempt, end):
                self._ended(attempt, event, node)
            else:
                self._lose(attempt, trial)
        except UserError as error:
            self._fail(error)

    def receive_report(self, report: HeartbeatReport) -> None:
        """Store the report of a heartbeat; the next `tick` applies it."""
        self._report = report

    def stop(self, stop: Stop) -> None:
        """End the sweep early: nothing new starts, and running attempts save and stop.

        The first call counts. The next `tick` sends the orders.
        """
        if self.stopped is None:
            self.stopped, self._stopped_at = stop, time.monotonic()

    def close(self, reason: str) -> None:
        """End every attempt that is still open, before the driver ends.

        Args:
            reason: why they end; after a stop that waited for `run.grace_seconds`, that is why.

        Raises:
            UserError: the error that ended the sweep. Nothing can be written then; the next driver
                marks the open attempts as lost.
        """
        if self.error is not None:
            raise self.error
        state = self.stopped.state if self.stopped else TrialState.INTERRUPTED
        if self._too_late:
            reason = (
                f"no new checkpoint within {self._context.policy.grace_seconds:g} s of the stop; "
                "raise run.grace_seconds if a training step takes longer"
            )
        for attempt in tuple(self._context.recorder.open):
            self._context.recorder.end(attempt, AttemptEnd(state, reason, Cost()))

    @property
    def _too_late(self) -> bool:
        """Whether a stop has waited for `run.grace_seconds`."""
        waited = 0.0 if self._stopped_at is None else time.monotonic() - self._stopped_at
        return waited > self._context.policy.grace_seconds

    # Starting trials

    def _next_trial(self) -> ClaimedTrial | None:
        queue, demand = self._context.queue, self._context.demand
        queue.refresh()
        slots = 0 if self.stopped else self._own_slots()
        if queue.running < slots:
            self._search()
        claimed = queue.claim() if queue.running < slots else None
        demand.slots, demand.waits_for = self._demanded_slots(), queue.waits_for
        if claimed is not None:
            self._context.recorder.add(claimed.attempt, claimed.trial.id)
            self._claimed_at[claimed.attempt] = time.monotonic()
        return claimed

    def _own_slots(self) -> int:
        """Return how many trials may run in this driver now."""
        self._poll_cluster()
        driver, policy = self._context.driver, self._context.policy
        mine = Demand(driver, policy.priority, self._demanded_slots())
        others = [each for each in self._report.demands if each.driver != driver]
        return share(self._slots, sorted([*others, mine], key=lambda each: each.driver), driver)

    def _demanded_slots(self) -> int:
        limit, queue = self._context.policy.at_once, self._context.queue
        # One slot for the next proposal: a search is only asked while a slot is free.
        slots = queue.demand + (self._searching and not queue.due)
        return slots if limit is None else min(limit, slots)

    @property
    def _searching(self) -> bool:
        return self._proposals is not None and not self._proposals.finished

    def _search(self) -> None:
        """Ask the search for more trials if none is due."""
        queue, now = self._context.queue, time.monotonic()
        if self._proposals is None or self._proposals.finished or queue.due:
            return
        if now - self._last_proposal > REFRESH:
            self._last_proposal = now
            trials = self._proposals.next_trials()
            queue.add(trials)
            self._context.announce(trials)

    def _poll_cluster(self) -> None:
        """Read from time to time how many trials the cluster holds and which nodes leave."""
        if time.monotonic() - self._last_poll > REFRESH:
            self._last_poll, self._slots = time.monotonic(), self._context.slots()
            for node in self._context.leaving():
                self._context.orders.stop_node(node, LEAVING)

    # Handling events

    def _handle(self, attempt: int, event: Event) -> None:
        node = self._context.recorder.nodes.get(attempt, "")
        if isinstance(event, Ended):
            event = self._with_verdict(attempt, event)
        if not self._context.recorder.handle(attempt, event):
            self._lose(attempt, event.trial)
            if isinstance(event, EpochDone):  # the attempt may be waiting for a verdict
                self._context.orders.answer(attempt, event.epoch, False)
        elif isinstance(event, Ended):
            self._ended(attempt, event, node)
        elif isinstance(event, EpochDone) and self._stopping and event.evaluations:
            self._judge(attempt, event, self._stopping.reason(event))

    def _with_verdict(self, attempt: int, event: Ended) -> Ended:
        """Return the end of an attempt, with the stopping rule's reason if the rule ended it."""
        if event.end.state is not TrialState.STOPPED or attempt not in self._verdicts:
            return event
        return replace(event, end=replace(event.end, reason=self._verdicts[attempt]))

    def _judge(self, attempt: int, done: EpochDone, reason: str) -> None:
        """Send the verdict of the stopping rule; `reason` is empty if the attempt may continue.

        An attempt that has just resumed replays this epoch: it asks for no verdict, but obeys
        orders.
        """
        if reason:
            self._verdicts[attempt] = reason
        if done.losses:
            self._context.orders.answer(attempt, done.epoch, not reason)
        elif reason:
            self._order(attempt, Stop(TrialState.STOPPED, reason))

    def _ended(self, attempt: int, event: Ended, node: str) -> None:
        context = self._context
        context.orders.forget(attempt)
        self._claimed_at.pop(attempt, None)
        context.queue.handle_end(event.trial, event.end, node)
        if event.end.fault == "storage":
            self.stop(Stop(TrialState.INTERRUPTED, event.end.reason))
        elif reason := should_stop(context.queue.failures, context.policy):
            self.stop(Stop(TrialState.INTERRUPTED, reason))

    def _reject(self, attempt: int, reason: str) -> None:
        """End an attempt that reports impossible numbers; its later events are ignored."""
        self._order(attempt, Stop(TrialState.CANCELLED, reason))
        self.handle_death(attempt, AttemptEnd(TrialState.FAILED, reason, Cost(), "input"))

    def _lose(self, attempt: int, trial: str) -> None:
        """Let go of an attempt that has already ended, as the ledger says."""
        if self._claimed_at.pop(attempt, None) is not None:
            self._context.recorder.drop(attempt)
            self._order(attempt, TAKEN_OVER)
            self._context.queue.handle_loss(trial)

    def _apply_report(self) -> None:
        """Cancel trials as requested, and let go of attempts that belong to another driver."""
        report, recorder = self._report, self._context.recorder
        self._context.queue.cancel(report.cancelled)
        for attempt, trial in tuple(recorder.open.items()):
            if attempt not in report.held and self._claimed_at[attempt] < report.at:
                self._lose(attempt, trial)
            elif report.cancelled.covers(trial):
                self._order(attempt, CANCELLED)

    def _order(self, attempt: int, stop: Stop) -> None:
        """Order an attempt to stop; only the first order is sent."""
        if attempt not in self._ordered:
            self._ordered.add(attempt)
            self._context.orders.stop(attempt, stop)

    def _fail(self, error: UserError) -> None:
        """End the sweep because the ledger can't be written; `close` raises the error."""
        if self.error is None:
            self.error = error
            self.stop(Stop(TrialState.INTERRUPTED, str(error)))
