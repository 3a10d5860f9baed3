"""The only writer of a driver: turns events of attempts into rows of the ledger."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from gaplab.formatting import one_line
from gaplab.ledger import Ledger
from gaplab.ledger.claims import ClaimError
from gaplab.records import AttemptEnd, Cost, Ended, EpochDone, Event, Started
from gaplab.trial.provenance import Code, assemble

Listener = Callable[[Event], None]


class Recorder:
    """Writes the attempts of one driver and their evaluations, then passes events to listeners.

    The ledger is written first, so everything that a person sees is stored. An attempt that the
    ledger says has already ended (its driver was considered lost) is not written any more.

    Args:
        ledger: the ledger.
        listeners: called with every event that was written.
        code: the driver's half of the provenance of attempts, if it is to be stored.
    """

    def __init__(
        self, ledger: Ledger, listeners: Sequence[Listener], code: Code | None = None
    ) -> None:
        self._ledger, self._listeners, self._code = ledger, listeners, code
        self._cost: dict[int, Cost] = {}
        self.open: dict[int, str] = {}
        """Attempts that have not ended, and their trials."""
        self.nodes: dict[int, str] = {}
        """The nodes on which open attempts run, as far as they are known."""

    def add(self, attempt: int, trial: str) -> None:
        """Start to record an attempt that this driver has claimed."""
        self.open[attempt], self._cost[attempt] = trial, Cost()

    def handle(self, attempt: int, event: Event) -> bool:
        """Write one event of an attempt and pass it on; evaluations already stored are kept.

        Returns:
            False if the attempt has already ended; nothing is written or passed on then.
        """
        if attempt not in self.open:
            return False
        if isinstance(event, Ended):  # a reason may quote text from anywhere
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
        """Stop recording an attempt without ending it."""
        for known in (self.open, self._cost, self.nodes):
            known.pop(attempt, None)

    def end(self, attempt: int, end: AttemptEnd) -> Ended | None:
        """End an attempt that can't report its own end; its last known cost replaces `end.cost`.

        Returns:
            The event that was written, or None if the attempt had already ended.
        """
        if attempt not in self.open:
            return None
        trial, cost = self.open[attempt], self._cost[attempt]
        event = Ended(trial, replace(end, cost=cost))
        return event if self.handle(attempt, event) else None

    def _write(self, attempt: int, event: Event) -> None:
        match event:
            case Started():
                worker = event.provenance
                whole = assemble(self._code, worker) if self._code else worker
                self._ledger.begin_attempt(attempt, replace(event, provenance=whole))
                self.nodes[attempt] = event.machine.node
            case EpochDone():
                self._ledger.record_epoch(event, attempt)
                self._cost[attempt] = event.cost
            case Ended():
                self._ledger.end_attempt(attempt, event.end)
                self.drop(attempt)
