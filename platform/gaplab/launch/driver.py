"""Running a sweep: see what is missing in the ledger, train exactly that."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from uuid import uuid4

from gaplab.errors import UserError
from gaplab.launch.capacity import Node, concurrency, misfits
from gaplab.launch.heartbeat import Heart
from gaplab.launch.process import node_name, this_process
from gaplab.launch.queue import Queue
from gaplab.launch.ray.cluster import alive_nodes, cluster, cluster_id, leaving_nodes
from gaplab.launch.recorder import Listener, Recorder
from gaplab.launch.scheduler import Conductor, Sweeping
from gaplab.launch.search import Proposals, open_search
from gaplab.launch.sources import check_sources
from gaplab.launch.stopping import Judge, Referee
from gaplab.ledger import Ledger
from gaplab.records import DriverRecord, SweepRecord, TrialRecord
from gaplab.spec.files import stored_spec
from gaplab.spec.models import Policy, Resources
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home
from gaplab.trial.control import Stop
from gaplab.trial.provenance import code_of, keep

SIGNALS = {
    signal.SIGINT: Stop(TrialState.INTERRUPTED, "somebody pressed Ctrl-C"),
    signal.SIGTERM: Stop(TrialState.PREEMPTED, "its driver was asked to end (SIGTERM)"),
}


@dataclass(frozen=True)
class Audience:
    """Who hears of a sweep while it runs: of every event, of trials that a search adds, and what
    it has to say of them, in lines.
    """

    hear: Sequence[Listener]
    add: Callable[[Sequence[TrialRecord]], None] = lambda trials: None
    say: Callable[[str], None] = lambda line: None


def run_sweep(
    home: Home, ledger: Ledger, sweep: SweepRecord, address: str, audience: Audience
) -> Stop | None:
    """Train what is missing of `sweep` on the cluster at `address`; what ended it early, if so.

    Refuses, before anything starts, a sweep of which a trial can't fit the cluster or starts from
    a trial that is not there (UserError).
    """
    spec, todo = stored_spec(sweep), ledger.missing(sweep)
    check_sources(ledger, todo)
    with cluster(address, home.path) as nodes:
        needs = _fit(nodes, todo)
        ledger.add_sweep(sweep)
        driver = _driver(sweep, address, spec.run)
        heart = Heart(ledger, driver, spec.run.lease_seconds)
        # Not at the top: ray reads its settings, which `cluster` makes, when it is imported.
        from gaplab.launch.ray.orders import DeskClient
        from gaplab.launch.ray.tune import run_with_tune

        desk = DeskClient(f"gaplab-desk-{driver.id}")
        given = Sweeping(
            driver=driver.id,
            policy=spec.run,
            queue=Queue(ledger, (driver.id, sweep.id), spec.run, todo),
            recorder=Recorder(ledger, audience.hear, keep(code_of(), Storage(str(home.path)))),
            desk=desk,
            wish=heart.wish,
            slots=lambda: concurrency(alive_nodes(), needs),
            announce=audience.add,
            leaving=leaving_nodes,
        )
        conductor = _conductor(given, ledger, sweep, audience.say)
        heart.hear = conductor.hear
        with heart, _interruptible(conductor.stop):
            try:
                run_with_tune(conductor, str(home.path), desk.name, spec.stop is not None)
            finally:
                if conductor.error is not None:
                    ledger.give_up()
                conductor.abandon("the driver was stopped")
        return conductor.stopped


def _conductor(
    given: Sweeping, ledger: Ledger, sweep: SweepRecord, say: Callable[[str], None]
) -> Conductor:
    spec = stored_spec(sweep)
    referee = Referee(ledger, sweep.id, Judge(spec.stop)) if spec.stop else None
    search = open_search(spec)
    proposals = Proposals(ledger, sweep.id, search, sweep.trials, say) if search else None
    return Conductor(given, referee, proposals)


def _driver(sweep: SweepRecord, address: str, policy: Policy) -> DriverRecord:
    process, shared = this_process(), cluster_id(address)
    return DriverRecord(
        id=uuid4().hex,
        sweep=sweep.id,
        node=node_name(),
        **vars(process),
        cluster=shared,
        priority=policy.priority,
    )


def _fit(nodes: tuple[Node, ...], trials: Sequence[TrialRecord]) -> set[Resources]:
    """What the trials need. Raises UserError where one can't be run here."""
    needs = {Resources.model_validate(trial.config["resources"]) for trial in trials}
    if problems := misfits(nodes, needs):
        raise UserError(*problems)
    return needs


@contextmanager
def _interruptible(stop: Callable[[Stop], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks for a clean stop, the second is Python's own."""
    before = {s: signal.getsignal(s) for s in SIGNALS}

    def hear(signum: int, frame: FrameType | None) -> None:
        stop(SIGNALS[signal.Signals(signum)])
        signal.signal(signum, before[signal.Signals(signum)])

    for signum in before:
        signal.signal(signum, hear)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
