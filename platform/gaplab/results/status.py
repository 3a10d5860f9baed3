"""The current state of a sweep, read from the ledger."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from gaplab.failures import Failure, Group, group
from gaplab.formatting import plural
from gaplab.ledger import Ledger
from gaplab.ledger.views import AttemptView, DriverView, EvaluationView, SweepView, TrialView
from gaplab.states import TrialState


@dataclass(frozen=True)
class Running:
    """A running trial and its current attempt."""

    trial: TrialView
    attempt: AttemptView
    evaluation: EvaluationView | None
    """The last evaluation of the branch kept at inference."""


@dataclass(frozen=True)
class Status:
    """A sweep with its running drivers, its running trials and its failed trials."""

    sweep: SweepView
    at: datetime
    """Time of the status, by the ledger's clock."""
    drivers: tuple[DriverView, ...]
    running: tuple[Running, ...]
    failures: tuple[Group, ...]
    waiting: str
    """Why trials are waiting, as a message; empty if none is waiting."""

    def plain(self) -> dict[str, Any]:
        """Return the status as plain data for JSON, where a driver's demand is called `wants`."""
        drivers = [
            {"wants" if name == "demand" else name: value for name, value in asdict(each).items()}
            for each in self.drivers
        ]
        return {**asdict(self), "drivers": drivers}


def status(ledger: Ledger, name: str | None) -> Status:
    """Return the status of the sweep called `name`, or of the newest sweep.

    Raises:
        UserError: there is no such sweep.
    """
    stored = ledger.stored_sweep(name)
    sweep, trials, at = ledger.sweep(stored.id), ledger.trials(stored.id), ledger.now()
    drivers = tuple(
        each for each in ledger.drivers() if each.sweep == sweep.id and each.lease_until > at
    )
    running = tuple(
        _running(ledger, trial) for trial in trials if trial.state == TrialState.RUNNING
    )
    failed = [ledger.attempts(trial.id)[-1] for trial in trials if trial.state == TrialState.FAILED]
    failures = group([Failure(a.trial, a.fault, a.reason, a.node) for a in failed])
    waiting = _why_trials_wait(sweep, drivers, running)
    return Status(sweep, at, drivers, running, tuple(failures), waiting)


def _running(ledger: Ledger, trial: TrialView) -> Running:
    evaluations = [each for each in ledger.evaluations(trial.id) if each.primary]
    last = max(evaluations, key=lambda each: each.epoch, default=None)
    return Running(trial, ledger.attempts(trial.id)[-1], last)


def _why_trials_wait(
    sweep: SweepView, drivers: Sequence[DriverView], running: Sequence[Running]
) -> str:
    """Return a message that says how many trials are waiting and why; empty if none is."""
    count = sum(
        n for state, n in sweep.counts.items() if state.open and state is not TrialState.RUNNING
    )
    if not count:
        return ""
    waiting = f"{plural(count, 'trial')} {'is' if count == 1 else 'are'} waiting"
    if not drivers:
        them = "it" if count == 1 else "them"
        return f"{waiting} and nothing is running {them}. Continue with: gaplab resume {sweep.id}"
    if reasons := [each.waits_for for each in drivers if each.waits_for]:
        return f"{waiting}. Drivers: {'; '.join(reasons)}"
    nodes = Counter(each.attempt.node or "a node that is starting" for each in running)
    where = ", ".join(f"{n} on {node}" for node, n in nodes.items())
    return f"{waiting} for free resources ({f'running: {where}' if where else 'none is running'})"
