"""The driver's pen: turns the events of trials into rows of the ledger, then tells listeners."""

from collections.abc import Callable, Sequence

from gaplab.ledger import Ledger
from gaplab.records import AttemptEnd, Cost, Ended, EpochDone, Event, Machine, Started

Listener = Callable[[Event], None]


class Recorder:
    """The only writer of attempts and evaluations of one sweep.

    The ledger is written before any listener hears of an event, so what a person sees is kept.
    """

    def __init__(self, ledger: Ledger, sweep: str, listeners: Sequence[Listener]) -> None:
        self._ledger, self._sweep, self._listeners = ledger, sweep, listeners
        self._open: dict[str, int] = {}
        self._cost: dict[str, Cost] = {}

    def handle(self, event: Event) -> None:
        """Write one event. Repeated evaluations are kept once."""
        match event:
            case Started():
                attempt = self._ledger.start_attempt(event.trial, self._sweep, event.machine)
                self._open[event.trial], self._cost[event.trial] = attempt, Cost()
            case EpochDone():
                self._cost[event.trial] = event.cost
                self._ledger.record_epoch(event, self._open[event.trial])
            case Ended():
                self._ledger.end_attempt(self._open.pop(event.trial), event.end)
        for listener in self._listeners:
            listener(event)

    def lost(self, trial: str, reason: str) -> None:
        """The process of a running trial died without a word."""
        if trial not in self._open:
            self.handle(Started(trial, Machine("unknown", "unknown", 0, 0.0), 0))
        self.handle(Ended(trial, AttemptEnd("failed", reason, self._cost[trial])))

    def interrupt(self, reason: str) -> None:
        """Close every attempt that is still open: the driver stops."""
        for trial in tuple(self._open):
            self.handle(Ended(trial, AttemptEnd("interrupted", reason, self._cost[trial])))
