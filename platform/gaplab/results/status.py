"""The current state of a sweep, read from the ledger."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from gaplab.failures import Failure, Group, group
from gaplab.formatting import duration, plural
from gaplab.ledger import Reader
from gaplab.ledger.views import AttemptView, DriverView, EvaluationView, SweepView, TrialView
from gaplab.records import Process
from gaplab.spec.varied import swept_keys
from gaplab.spec.yaml_text import parse_yaml
from gaplab.states import TrialState

_ATTEMPTED = (TrialState.RUNNING, TrialState.FAILED)
"""States of trials whose last attempt is read."""


@dataclass(frozen=True)
class Running:
    """A running trial and its current attempt."""

    trial: TrialView
    attempt: AttemptView
    evaluation: EvaluationView | None
    """The last evaluation of the branch kept at inference."""


@dataclass(frozen=True)
class LostDriver:
    """A driver that has neither ended nor runs, and why it counts as lost."""

    driver: DriverView
    reason: str


@dataclass(frozen=True)
class Status:
    """A sweep with its running drivers, its running trials and its failed trials.

    Trials of lost drivers count as interrupted, which the next driver writes to the ledger.
    """

    sweep: SweepView
    at: datetime
    """Time of the status, by the ledger's clock."""
    drivers: tuple[DriverView, ...]
    running: tuple[Running, ...]
    failures: tuple[Group, ...]
    waiting: str
    """Why trials are waiting, as a message; empty if none is waiting."""
    lost: tuple[LostDriver, ...] = ()
    varied: tuple[str, ...] = ()
    """Dotted keys that the spec of the sweep varies."""

    def plain(self) -> dict[str, Any]:
        """Return the status as plain data for JSON, where a driver's demand is called `wants`."""
        drivers = [_plain(each) for each in self.drivers]
        lost = [{**_plain(each.driver), "reason": each.reason} for each in self.lost]
        return {**asdict(self), "drivers": drivers, "lost": lost}


def status(
    ledger: Reader,
    name: str | None,
    has_died: Callable[[Process], bool] = lambda process: False,
    resume: Callable[[str], str] = "gaplab resume {}".format,
) -> Status:
    """Return the status of the sweep called `name`, or of the newest sweep.

    Args:
        ledger: the ledger.
        name: id or name of a sweep.
        has_died: tells whether a process of this machine has ended; False for other machines.
        resume: returns the command that continues a sweep.

    Raises:
        UserError: there is no such sweep.
    """
    stored = ledger.chosen_sweep(name)
    trials = ledger.trials(stored.id, _ATTEMPTED)
    at, known = ledger.now(), ledger.drivers()
    lost = {each.id: why for each in known if (why := _why_lost(each, at, has_died))}
    held = {each.id for each in known} - set(lost)
    last = {t.id: ledger.attempts(t.id)[-1] for t in trials}
    running = [t for t in trials if t.state == TrialState.RUNNING and last[t.id].driver in held]
    sweep = _without_lost(stored, len(running))
    mine = [each for each in known if each.sweep == sweep.id]
    drivers = [each for each in mine if each.id in held]
    shown = [_running(ledger, trial, last[trial.id]) for trial in running]
    failed = [last[trial.id] for trial in trials if trial.state == TrialState.FAILED]
    failures = group([Failure(a.trial, a.fault, a.reason, a.node) for a in failed])
    waiting = _why_trials_wait(sweep, drivers, shown, resume(sweep.id))
    dead = tuple(LostDriver(each, lost[each.id]) for each in mine if each.id in lost)
    varied = tuple(swept_keys(parse_yaml(stored.spec)))
    return Status(sweep, at, tuple(drivers), tuple(shown), tuple(failures), waiting, dead, varied)


def _plain(driver: DriverView) -> dict[str, Any]:
    return {"wants" if name == "demand" else name: v for name, v in asdict(driver).items()}


def _why_lost(driver: DriverView, at: datetime, has_died: Callable[[Process], bool]) -> str:
    """Return why a driver that has not ended counts as lost; empty if it runs."""
    if has_died(driver.lease().process):
        return "died"
    late = (at - driver.lease_until).total_seconds()
    return f"sent no heartbeat, and its lease ended {duration(late)} ago" if late >= 0 else ""


def _without_lost(sweep: SweepView, running: int) -> SweepView:
    """Return the sweep with `running` running trials; the others count as interrupted."""
    counts = dict(sweep.counts)
    counts[TrialState.INTERRUPTED] += counts[TrialState.RUNNING] - running
    return replace(sweep, counts=counts | {TrialState.RUNNING: running})


def _running(ledger: Reader, trial: TrialView, attempt: AttemptView) -> Running:
    evaluations = [each for each in ledger.evaluations(trial.id) if each.primary]
    last = max(evaluations, key=lambda each: each.epoch, default=None)
    return Running(trial, attempt, last)


def _why_trials_wait(
    sweep: SweepView, drivers: Sequence[DriverView], running: Sequence[Running], resume: str
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
        return f"{waiting} and nothing is running {them}. Continue with: {resume}"
    if reasons := [each.waits_for for each in drivers if each.waits_for]:
        return f"{waiting}. Drivers: {'; '.join(reasons)}"
    nodes = Counter(each.attempt.node or "a node that is starting" for each in running)
    where = ", ".join(f"{n} on {node}" for node, n in nodes.items())
    return f"{waiting} for free resources ({f'running: {where}' if where else 'none is running'})"
