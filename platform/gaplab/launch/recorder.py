"""The driver's pen: turns the events of attempts into rows of the ledger, then tells listeners."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from gaplab.formatting import one_line
from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.records import AttemptEnd, Cost, Ended, EpochDone, Event, Started
from gaplab.trial.provenance import Code, assemble

Listener = Callable[[Event], None]


class Recorder:
    """The only writer of the attempts of one driver, and of their evaluations.

    The ledger is written before any listener hears of an event, so what a person sees is kept. An
    attempt that the ledger holds for over (its driver was taken for dead) is written no more.
    """

    def __init__(
        self, ledger: Ledger, listeners: Sequence[Listener], code: Code | None = None
    ) -> None:
        self._ledger, self._listeners, self._code = ledger, listeners, code
        self.open: dict[int, str] = {}
        """The trials of attempts that have not ended, by attempt."""
        self.nodes: dict[int, str] = {}
        """Where they run, as far as they said."""
        self._cost: dict[int, Cost] = {}

    def claimed(self, attempt: int, trial: str) -> None:
        """The attempt is ours from now on."""
        self.open[attempt], self._cost[attempt] = trial, Cost()

    def handle(self, attempt: int, event: Event) -> bool:
        """Write one event; False, and nothing is written or said, if the attempt is over.

        Repeated evaluations are kept once.
        """
        if attempt not in self.open:
            return False
        if isinstance(event, Ended):  # a reason may quote what came from anywhere
            event = replace(event, end=replace(event.end, reason=one_line(event.end.reason)))
        try:
            self._write(attempt, event)
        except ClaimError:
            self.drop(attempt)
            return False
        for listener in self._listeners:
            listener(event)
        return True

    def drop(self, attempt: int) -> None:
        """The attempt is another's to end."""
        for known in (self.open, self._cost, self.nodes):
            known.pop(attempt, None)

    def end(self, attempt: int, end: AttemptEnd) -> Ended | None:
        """Close an attempt that can't speak for itself, with what it had cost; what was said of it.

        None if it was over already.
        """
        if attempt not in self.open:
            return None
        trial, cost = self.open[attempt], self._cost[attempt]
        event = Ended(trial, AttemptEnd(end.state, end.reason, cost, end.fault))
        return event if self.handle(attempt, event) else None

    def _write(self, attempt: int, event: Event) -> None:
        match event:
            case Started():
                said = assemble(self._code, event.provenance) if self._code else event.provenance
                self._ledger.begin_attempt(attempt, replace(event, provenance=said))
                self.nodes[attempt] = event.machine.node
            case EpochDone():
                self._ledger.record_epoch(event, attempt)
                self._cost[attempt] = event.cost
            case Ended():
                self._ledger.end_attempt(attempt, event.end)
                self.drop(attempt)
