"""What a driver decides while a sweep runs: what is next, when to stop, whom to tell. No Ray."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gaplab.errors import UserError
from gaplab.launch.decisions import Demand, share, should_stop
from gaplab.launch.heartbeat import News, Wish
from gaplab.launch.queue import Claimed, Queue
from gaplab.launch.recorder import Recorder
from gaplab.launch.search import Proposals
from gaplab.launch.stopping import Referee
from gaplab.records import AttemptEnd, Cost, Ended, EpochDone, Event, TrialRecord
from gaplab.spec.models import Policy
from gaplab.states import TrialState
from gaplab.trial.control import Stop

REFRESH = 2.0
"""Seconds between two looks at the cluster."""
CANCELLED = Stop(TrialState.CANCELLED, "somebody cancelled it")
LEAVING = Stop(TrialState.PREEMPTED, "its machine is about to be taken away")
TAKEN_OVER = Stop(TrialState.INTERRUPTED, "another driver has taken the trial over")


class Desk(Protocol):
    """How a running attempt is told something; see `desk.DeskClient`."""

    def order(self, attempt: int, stop: Stop) -> None:
        """Stop."""
        ...

    def leave(self, node: str, stop: Stop) -> None:
        """Stop, all that run on the node of this id."""
        ...

    def judge(self, attempt: int, epoch: int, go_on: bool) -> None:
        """Whether it may go on after this epoch."""
        ...

    def forget(self, attempt: int) -> None:
        """It is over."""
        ...


@dataclass(frozen=True)
class Sweeping:
    """What a conductor works with. slots: how many trials the cluster holds at this moment;
    announce: hears of trials that a search adds; leaving: ids of nodes about to be taken away.
    """

    driver: str
    policy: Policy
    queue: Queue
    recorder: Recorder
    desk: Desk
    wish: Wish
    slots: Callable[[], int]
    announce: Callable[[Sequence[TrialRecord]], None] = lambda trials: None
    leaving: Callable[[], Iterable[str]] = tuple


class Conductor:
    """One driver's sweep, in one thread; only `hear` is called from another.

    `over` is true when Tune may end: everything is settled, or all have stopped, or the grace is
    over.
    """

    def __init__(
        self, given: Sweeping, referee: Referee | None = None, proposals: Proposals | None = None
    ) -> None:
        self._given, self._referee, self._proposals = given, referee, proposals
        self._reasons: dict[int, str] = {}
        self._proposed = float("-inf")
        self._news = News()
        self._room, self._looked = 0, float("-inf")
        self._opened: dict[int, float] = {}
        self._told: set[int] = set()
        self._stopped_at: float | None = None
        self.error: UserError | None = None
        """Why the ledger can't be written, if so."""
        self.stopped: Stop | None = None
        """The order that ends the sweep early, if there is one."""

    @property
    def over(self) -> bool:
        """See the class."""
        recorder = self._given.recorder
        if self._stopped_at is not None:
            waited = time.monotonic() - self._stopped_at
            return not recorder.open or waited > self._given.policy.grace_seconds
        return self._given.queue.finished and not recorder.open and not self._searching

    @property
    def _searching(self) -> bool:
        return self._proposals is not None and not self._proposals.over

    def next(self) -> Claimed | None:
        """The next trial to start, claimed; None if there is none now."""
        if self.error is not None:
            return None
        try:
            return self._next()
        except UserError as error:
            self._fail(error)
            return None

    def tick(self) -> None:
        """To be called often: do what others wish, and what a signal asked for."""
        self._look()
        try:
            self._read_news()
        except UserError as error:
            self._fail(error)
        if self.stopped is not None:
            for attempt in tuple(self._given.recorder.open):
                self._order(attempt, self.stopped)

    def _next(self) -> Claimed | None:
        queue, wish = self._given.queue, self._given.wish
        queue.look_around()
        room = 0 if self.stopped else self._allowed()
        if queue.running < room:
            self._search()
        claimed = queue.take() if queue.running < room else None
        wish.wants, wish.waits_for = self._wants(), queue.waits_for
        if claimed is not None:
            self._given.recorder.claimed(claimed.attempt, claimed.trial.id)
            self._opened[claimed.attempt] = time.monotonic()
        return claimed

    def heard(self, attempt: int, event: Event) -> None:
        """An attempt says something."""
        if self.error is not None:  # who comes next, hears it again from the checkpoint
            if isinstance(event, Ended):
                self._given.recorder.drop(attempt)
            return
        try:
            self._heard(attempt, event)
        except UserError as error:
            self._fail(error)
        except ValueError as error:  # the ledger refuses what it says
            self._refuse(attempt, str(error))

    def _heard(self, attempt: int, event: Event) -> None:
        node = self._given.recorder.nodes.get(attempt, "")
        if (
            isinstance(event, Ended)
            and event.end.state == TrialState.STOPPED
            and attempt in self._reasons
        ):
            event = replace(event, end=replace(event.end, reason=self._reasons[attempt]))
        if not self._given.recorder.handle(attempt, event):
            self._lose(attempt, event.trial)
            if isinstance(event, EpochDone):  # it may wait for a verdict
                self._given.desk.judge(attempt, event.epoch, False)
        elif isinstance(event, Ended):
            self._ended(attempt, event, node)
        elif isinstance(event, EpochDone) and self._referee and event.evaluations:
            self._judge(attempt, event, self._referee.reason(event))

    def _refuse(self, attempt: int, reason: str) -> None:
        """End an attempt whose numbers can't be right; what it still says is not heard."""
        self._order(attempt, Stop(TrialState.CANCELLED, reason))
        self.died(attempt, AttemptEnd(TrialState.FAILED, reason, Cost(), "input"))

    def _judge(self, attempt: int, done: EpochDone, reason: str) -> None:
        """Tell the attempt; one that resumed after this epoch doesn't ask about it, but obeys."""
        if reason:
            self._reasons[attempt] = reason
        if done.losses:
            self._given.desk.judge(attempt, done.epoch, not reason)
        elif reason:
            self._order(attempt, Stop(TrialState.STOPPED, reason))

    def _search(self) -> None:
        """Where nothing is due, ask the search for more."""
        queue, now = self._given.queue, time.monotonic()
        if self._proposals is None or self._proposals.over or queue.due:
            return
        if now - self._proposed > REFRESH:
            self._proposed = now
            found = self._proposals.more()
            queue.add(found)
            self._given.announce(found)

    def died(self, attempt: int, end: AttemptEnd) -> None:
        """The process of an attempt died without a word."""
        recorder = self._given.recorder
        trial, node = recorder.open.get(attempt, ""), recorder.nodes.get(attempt, "")
        try:
            if event := recorder.end(attempt, end):
                self._ended(attempt, event, node)
            else:
                self._lose(attempt, trial)
        except UserError as error:
            self._fail(error)

    def hear(self, news: News) -> None:
        """A heartbeat's news; read later."""
        self._news = news

    def stop(self, stop: Stop) -> None:
        """End the sweep: nothing new starts, and what runs saves itself and stops.

        May be called by a signal's handler: the next tick tells the attempts.
        """
        if self.stopped is None:
            self.stopped, self._stopped_at = stop, time.monotonic()

    def _fail(self, error: UserError) -> None:
        """The ledger can't be written: end the sweep, and let the driver say why."""
        if self.error is None:
            self.error = error
            self.stop(Stop(TrialState.INTERRUPTED, str(error)))

    def abandon(self, reason: str) -> None:
        """Close whatever has not ended: the driver goes. Raises what the sweep failed of."""
        if self.error is not None:  # nothing can be written; who comes next, buries what is open
            raise self.error
        state = self.stopped.state if self.stopped else TrialState.INTERRUPTED
        for attempt in tuple(self._given.recorder.open):
            self._given.recorder.end(attempt, AttemptEnd(state, reason, Cost()))

    def _ended(self, attempt: int, event: Ended, node: str) -> None:
        given = self._given
        given.desk.forget(attempt)
        self._opened.pop(attempt, None)
        given.queue.ended(event.trial, event.end, node)
        if event.end.fault == "storage":
            self.stop(Stop(TrialState.INTERRUPTED, event.end.reason))
        elif reason := should_stop(given.queue.failed, given.policy):
            self.stop(Stop(TrialState.INTERRUPTED, reason))

    def _lose(self, attempt: int, trial: str) -> None:
        """The ledger holds our attempt for over."""
        if self._opened.pop(attempt, None) is not None:
            self._given.recorder.drop(attempt)
            self._order(attempt, TAKEN_OVER)
            self._given.queue.lost(trial)

    def _read_news(self) -> None:
        """Leave cancelled trials alone, and let go of what is not ours any more."""
        news, queue, recorder = self._news, self._given.queue, self._given.recorder
        everything = "" in news.cancelled
        queue.leave(news.cancelled)
        for attempt, trial in tuple(recorder.open.items()):
            if attempt not in news.held and self._opened[attempt] < news.at:
                self._lose(attempt, trial)
            elif everything or trial in news.cancelled:
                self._order(attempt, CANCELLED)

    def _order(self, attempt: int, stop: Stop) -> None:
        """Tell an attempt to stop; the first order counts."""
        if attempt not in self._told:
            self._told.add(attempt)
            self._given.desk.order(attempt, stop)

    def _allowed(self) -> int:
        """How many trials may run here now."""
        self._look()
        mine = Demand(self._given.driver, self._given.policy.priority, self._wants())
        known = [each for each in self._news.demands if each.driver != mine.driver]
        return share(self._room, sorted([*known, mine], key=lambda each: each.driver), mine.driver)

    def _look(self) -> None:
        """At the cluster, now and then: how much room there is, and which nodes leave."""
        if time.monotonic() - self._looked > REFRESH:
            self._looked, self._room = time.monotonic(), self._given.slots()
            for node in self._given.leaving():
                self._given.desk.leave(node, LEAVING)

    def _wants(self) -> int:
        cap, queue = self._given.policy.at_once, self._given.queue
        # A search that is asked only where there is room wants room for what it may propose.
        wants = queue.wants + (self._searching and not queue.due)
        return wants if cap is None else min(cap, wants)
