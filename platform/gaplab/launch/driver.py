"""Running a sweep: see what is missing in the ledger, train exactly that."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from gaplab.errors import UserError
from gaplab.home import Home
from gaplab.inherit import check_sources, waves
from gaplab.launch.capacity import Node, concurrency, misfits
from gaplab.launch.cluster import cluster
from gaplab.launch.recorder import Listener, Recorder
from gaplab.ledger import Ledger
from gaplab.records import SweepRecord, TrialRecord
from gaplab.spec import Resources


def missing(ledger: Ledger, sweep: SweepRecord) -> tuple[TrialRecord, ...]:
    """The trials of `sweep` that have not succeeded, in order."""
    states = ledger.states([trial.id for trial in sweep.trials])
    return tuple(t for t in sweep.trials if states.get(t.id) != "succeeded")


def run_sweep(
    home: Home, ledger: Ledger, sweep: SweepRecord, address: str, listeners: Sequence[Listener]
) -> bool:
    """Train what is missing of `sweep` on the cluster at `address`; False if it was interrupted.

    Refuses, before anything starts, a sweep of which a trial can't fit the cluster or starts from
    a trial that is not there, and a home folder in which another driver runs (UserError).
    """
    todo = missing(ledger, sweep)
    recorder = Recorder(ledger, sweep.id, listeners)
    check_sources(ledger, todo)
    with cluster(address, home.path) as nodes:
        at_once = _fit(nodes, todo)
        ledger.add_sweep(sweep)
        # Not at the top: ray reads its settings, which `cluster` makes, when it is imported.
        from gaplab.launch.tune import Stop, run_with_tune

        stop = Stop()
        with _interruptible(stop.request):
            try:
                for wave in waves(todo):
                    if not stop.requested:
                        run_with_tune(wave, at_once, home.path, recorder, stop)
            finally:
                recorder.interrupt("the driver was stopped")
        return not stop.requested


def _fit(nodes: tuple[Node, ...], trials: Sequence[TrialRecord]) -> int:
    needs = [Resources.model_validate(trial.config["resources"]) for trial in trials]
    if problems := misfits(nodes, needs):
        raise UserError(*problems)
    return concurrency(nodes, set(needs))


@contextmanager
def _interruptible(request: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks for a clean stop, the second is Python's own."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def hear(signum: int, frame: FrameType | None) -> None:
        request()
        signal.signal(signum, before[signal.Signals(signum)])

    for signum in before:
        signal.signal(signum, hear)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
