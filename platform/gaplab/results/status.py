"""What a sweep is doing at this moment, from the ledger alone."""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from gaplab.failures import Failure, Group, group
from gaplab.ledger import Ledger
from gaplab.ledger.views import AttemptView, DriverView, EvaluationView, SweepView, TrialView
from gaplab.states import TrialState


@dataclass(frozen=True)
class Running:
    """A trial that runs: its attempt, and its last evaluation on the branch kept at inference."""

    trial: TrialView
    attempt: AttemptView
    evaluation: EvaluationView | None


@dataclass(frozen=True)
class Status:
    """A sweep, its drivers that live, what runs, and what has failed as it stands.

    at: the ledger's clock; waiting: why trials wait, in words; empty where none do.
    """

    sweep: SweepView
    at: datetime
    drivers: tuple[DriverView, ...]
    running: tuple[Running, ...]
    failures: tuple[Group, ...]
    waiting: str

    def plain(self) -> dict[str, Any]:
        """Return the status as plain data; a driver's demand is called `wants`, as ever."""
        drivers = [
            {"wants" if name == "demand" else name: value for name, value in asdict(each).items()}
            for each in self.drivers
        ]
        return {**asdict(self), "drivers": drivers}


def status(ledger: Ledger, name: str | None) -> Status:
    """Of the sweep that `name` means, or of the newest. Raises UserError."""
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
    return Status(sweep, at, drivers, running, tuple(failures), _why(sweep, drivers, running))


def _running(ledger: Ledger, trial: TrialView) -> Running:
    known = [each for each in ledger.evaluations(trial.id) if each.primary]
    last = max(known, key=lambda each: each.epoch, default=None)
    return Running(trial, ledger.attempts(trial.id)[-1], last)


def _why(sweep: SweepView, drivers: tuple[DriverView, ...], running: tuple[Running, ...]) -> str:
    """Why the trials wait that could run."""
    count = sum(
        n for state, n in sweep.counts.items() if state.open and state is not TrialState.RUNNING
    )
    if not count:
        return ""
    if not drivers:
        return f"{count} wait for a driver: none lives; `gaplab resume {sweep.id}` starts one"
    said = [each.waits_for for each in drivers if each.waits_for]
    if said:
        return f"{count} wait: {'; '.join(said)}"
    nodes = Counter(each.attempt.node or "a node to start on" for each in running)
    where = ", ".join(f"{n} on {node}" for node, n in nodes.items()) or "nothing runs yet"
    return f"{count} wait for room on the cluster ({where})"
