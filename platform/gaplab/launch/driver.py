"""The driver of a sweep: finds the unfinished trials in the ledger and trains them on a cluster."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from uuid import uuid4

from gaplab.errors import UserError
from gaplab.launch.capacity import Node, concurrency, misfits
from gaplab.launch.heartbeat import Heartbeat
from gaplab.launch.process import node_name, this_process
from gaplab.launch.queue import Queue
from gaplab.launch.ray.cluster import alive_nodes, cluster, cluster_id
from gaplab.launch.ray.private import draining_nodes
from gaplab.launch.recorder import Listener, Recorder
from gaplab.launch.scheduler import Scheduler, SchedulerContext
from gaplab.launch.search import Proposals, open_search
from gaplab.launch.sources import check_sources, check_weights
from gaplab.launch.stopping import Judge, SweepStopping
from gaplab.ledger import Ledger
from gaplab.records import DriverRecord, StepDone, SweepRecord, TrialRecord
from gaplab.spec.files import stored_spec
from gaplab.spec.models import Policy, Resources, Spec
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home
from gaplab.trial.control import Stop
from gaplab.trial.provenance import read_code, save_changes

SIGNALS = {
    signal.SIGINT: Stop(TrialState.INTERRUPTED, "interrupted with Ctrl-C", signal.SIGINT),
    signal.SIGTERM: Stop(TrialState.PREEMPTED, "the driver received SIGTERM", signal.SIGTERM),
    signal.SIGHUP: Stop(TrialState.PREEMPTED, "the driver received SIGHUP", signal.SIGHUP),
}
"""The signals that end a sweep early, and how."""


@dataclass(frozen=True)
class Listeners:
    """Functions that are called while a sweep runs.

    Attributes:
        on_event: each is called with every event of every attempt.
        on_trials: called with the trials that a search adds to the sweep.
        on_message: called with lines about the search.
        on_steps: called once per second with the last steps of running trials, from a thread of its
            own; None: steps are not read.
    """

    on_event: Sequence[Listener]
    on_trials: Callable[[Sequence[TrialRecord]], None] = lambda trials: None
    on_message: Callable[[str], None] = lambda line: None
    on_steps: Callable[[Sequence[StepDone]], None] | None = None


def run_sweep(
    home: Home, ledger: Ledger, sweep: SweepRecord, address: str, listeners: Listeners
) -> Stop | None:
    """Train the unfinished trials of a sweep.

    Args:
        home: the home folder.
        ledger: the ledger, which gets the sweep if it is new.
        sweep: the sweep.
        address: the cluster, see `launch.ray.cluster.cluster`.
        listeners: called while the sweep runs.

    Returns:
        What ended the sweep early, or None if all its trials are settled.

    Raises:
        UserError: before anything starts, if a trial can't fit the cluster or starts from weights
            that don't exist; later, if the ledger can't be written.
    """
    spec, todo = stored_spec(sweep), ledger.unfinished(sweep)
    check_sources(ledger, todo)
    check_weights(todo)
    with cluster(address, home.path) as nodes:
        needs = _check_fit(nodes, todo)
        ledger.add_sweep(sweep)
        driver = _driver(sweep, address, spec.run)
        heartbeat = Heartbeat(ledger, driver, spec.run.lease_seconds)
        # Imported only now: both import Ray, which reads settings made by `cluster` on import, and
        # which takes seconds that commands without a cluster need not spend.
        from gaplab.launch.ray.orders import OrdersClient
        from gaplab.launch.ray.tune import run_with_tune

        orders = OrdersClient(f"gaplab-orders-{driver.id}")
        context = SchedulerContext(
            driver=driver.id,
            policy=spec.run,
            queue=Queue(ledger, driver, spec.run, todo),
            recorder=_recorder(ledger, home, listeners),
            orders=orders,
            demand=heartbeat.demand,
            slots=lambda: concurrency(alive_nodes(), needs),
            announce=listeners.on_trials,
            leaving=draining_nodes,
        )
        scheduler = _scheduler(context, ledger, sweep, spec, listeners)
        heartbeat.on_report = scheduler.receive_report
        steps = orders.watched_steps(listeners.on_steps) if listeners.on_steps else nullcontext()
        with heartbeat, _stop_on_signals(scheduler.stop), steps:
            try:
                run_with_tune(scheduler, str(home.path), orders.name, spec.stop is not None)
            finally:
                if scheduler.error is not None:
                    ledger.stop_waiting()
                scheduler.close("the driver was stopped")
        return scheduler.stopped


def _scheduler(
    context: SchedulerContext, ledger: Ledger, sweep: SweepRecord, spec: Spec, listeners: Listeners
) -> Scheduler:
    stopping = SweepStopping(ledger, sweep.id, Judge(spec.stop)) if spec.stop else None
    search = open_search(spec)
    if search is None:
        return Scheduler(context, stopping)
    proposals = Proposals(ledger, sweep.id, search, sweep.trials, listeners.on_message)
    return Scheduler(context, stopping, proposals)


def _recorder(ledger: Ledger, home: Home, listeners: Listeners) -> Recorder:
    code = save_changes(read_code(), Storage(str(home.path)))
    return Recorder(ledger, listeners.on_event, code)


def _driver(sweep: SweepRecord, address: str, policy: Policy) -> DriverRecord:
    return DriverRecord(
        id=uuid4().hex,
        sweep=sweep.id,
        node=node_name(),
        **vars(this_process()),
        cluster=cluster_id(address),
        priority=policy.priority,
    )


def _check_fit(nodes: tuple[Node, ...], trials: Sequence[TrialRecord]) -> set[Resources]:
    """Return the resources that trials need. Raises UserError if one can't run on the cluster."""
    needs = {Resources.model_validate(trial.config["resources"]) for trial in trials}
    if problems := misfits(nodes, needs):
        raise UserError(*problems)
    return needs


@contextmanager
def _stop_on_signals(stop: Callable[[Stop], None]) -> Iterator[None]:
    """Call `stop` at the first signal of each kind; a second one has its original effect.

    SIGHUP stays ignored where it is, as under `nohup`. A second SIGHUP is ignored: both the shell
    and the kernel send one when a terminal is closed.
    """
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def handle(number: int, frame: FrameType | None) -> None:
        signum = signal.Signals(number)
        stop(SIGNALS[signum])
        signal.signal(signum, signal.SIG_IGN if signum == signal.SIGHUP else before[signum])

    for signum in before:
        signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
