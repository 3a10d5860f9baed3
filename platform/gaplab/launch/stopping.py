"""Early stopping: the rules, and the judge that applies one to the trials of a sweep.

A rule is a pure function of the evaluations of all trials of a sweep. Epochs are those of the trial
itself, as in its evaluations, so a resumed trial meets the same rungs and the same history gives
the same verdict. `Judge` collects evaluations and asks the rule; `SweepStopping` supplies it with
the evaluations of other drivers from the ledger. A new rule goes into `RULES`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import fmean, median

from gaplab.formatting import plural
from gaplab.ledger import Ledger
from gaplab.records import EpochDone, EvaluationRecord, TrialRecord
from gaplab.spec.search import StopOptions

POLL = 10.0
"""Seconds between two looks into the ledger at evaluations of other drivers of the sweep."""

Curve = Mapping[int, float]
"""Value of the rule's metric of one trial at each evaluated epoch; larger is better."""
History = Mapping[str, Curve]
"""The curves of all trials that are compared, by trial id."""


def stop_reason(rule: StopOptions, history: History, trial: str, epoch: int) -> str:
    """Return why a rule stops `trial` after `epoch`, or an empty text if the trial continues.

    Nothing is decided before epoch `rule.after`, or without a value of the metric at `epoch`.
    """
    if epoch < rule.after or epoch not in history.get(trial, {}):
        return ""
    return RULES[rule.rule](rule, history, trial, epoch)


def asha(rule: StopOptions, history: History, trial: str, epoch: int) -> str:
    """Apply asynchronous successive halving (Li et al. 2018, arXiv 1810.05934).

    Rung i is at epoch after * keep^i. Algorithm 2 of the paper promotes a configuration to the next
    rung if it is among the top |rung| / keep (rounded down) of those that have reached its rung so
    far. Here the same test decides when a trial reaches a rung.

    Deviations, as in the stopping variant of other tools: a trial that is not among the top is
    stopped, where the paper may promote it later, when more trials have reached the rung; no trial
    is stopped before `keep` trials have reached the rung, since the top is empty until then; equal
    values either all continue or all stop. A trial reaches a rung with its first evaluation at the
    rung's epoch or after it.
    """
    for rung in rungs(rule, epoch):
        epochs = {each: at for each, curve in history.items() if (at := reached(curve, rung))}
        if epochs[trial] != epoch:
            continue  # an earlier evaluation decided
        values = [history[each][at] for each, at in epochs.items()]
        own, top = history[trial][epoch], len(values) // rule.keep
        rank = 1 + sum(value > own for value in values)
        if top and rank > top:
            continues = "trial continues" if top == 1 else f"{top} trials continue"
            return (
                f"asha: rank {rank} of {len(values)} at epoch {rung} by {rule.metric} "
                f"({own:.4g}); the best {continues}"
            )
    return ""


def rungs(rule: StopOptions, epoch: int) -> Iterator[int]:
    """Yield the rungs up to `epoch`."""
    rung = rule.after
    while rung <= epoch:
        yield rung
        rung *= rule.keep


def reached(curve: Curve, rung: int) -> int | None:
    """Return the epoch of a trial's first evaluation at or after a rung, or None."""
    return min((epoch for epoch in curve if epoch >= rung), default=None)


def median_rule(rule: StopOptions, history: History, trial: str, epoch: int) -> str:
    """Apply the median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2).

    A trial is stopped if its best value so far is below the median of the running averages, up to
    the same epoch, of all other trials that have got at least as far. Deviation: Vizier compares
    with trials that have ended.
    """
    best = max(_until(history[trial], epoch))
    averages = [
        fmean(values)
        for other, curve in history.items()
        if other != trial and max(curve, default=0) >= epoch and (values := _until(curve, epoch))
    ]
    if not averages or best >= (middle := median(averages)):
        return ""
    return (
        f"median: best {rule.metric} up to epoch {epoch} is {best:.4g}, below {middle:.4g}, "
        f"the median of the averages of {plural(len(averages), 'other trial')}"
    )


RULES: dict[str, Callable[[StopOptions, History, str, int], str]] = {
    "asha": asha,
    "median": median_rule,
}
"""The rules by their name in a spec; each returns the reason to stop, or an empty text."""


def _until(curve: Curve, epoch: int) -> list[float]:
    return [value for at, value in curve.items() if at <= epoch]


class Judge:
    """Applies a stopping rule to the trials of a sweep.

    Trials are compared if they have the same data and protocol. The evaluations may be added in any
    order and more than once, as happens after a resume.
    """

    def __init__(self, rule: StopOptions) -> None:
        self._rule = rule
        self._curves: dict[str, dict[int, float]] = {}

    def add(self, evaluations: Iterable[EvaluationRecord]) -> None:
        """Add evaluations; those of a branch that is not kept at inference are ignored."""
        for each in evaluations:
            value = each.metrics.get(self._rule.metric)
            if each.primary and value is not None:
                self._curves.setdefault(_key(each.trial, each.protocol), {})[each.epoch] = value

    def stop_reason(self, trial: TrialRecord, peers: Iterable[TrialRecord], epoch: int) -> str:
        """Return why `trial` stops after `epoch`, or an empty text if it continues.

        A trial is never stopped at its last epoch.

        Args:
            trial: the trial in question.
            peers: the trials of the sweep, with or without `trial`.
            epoch: the epoch that `trial` has finished.
        """
        if epoch >= trial.epochs:
            return ""
        like = (trial.dataset, trial.protocol)
        ids = {trial.id, *(each.id for each in peers if (each.dataset, each.protocol) == like)}
        history = {each: self._curves.get(_key(each, like[1]), {}) for each in ids}
        return stop_reason(self._rule, history, trial.id, epoch)


def _key(trial: str, protocol: str) -> str:
    return f"{trial}/{protocol}"


class SweepStopping:
    """The stopping rule of one sweep, fed with the evaluations of all its drivers.

    Args:
        ledger: read at most every `POLL` seconds.
        sweep: id of the sweep.
        judge: applies the rule.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        sweep: str,
        judge: Judge,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._sweep, self._judge, self._clock = ledger, sweep, judge, clock
        self._last_poll = float("-inf")
        self._trials: dict[str, TrialRecord] = {}

    def reason(self, done: EpochDone) -> str:
        """Return why a trial stops after an epoch, or an empty text if it continues."""
        if self._clock() - self._last_poll > POLL or done.trial not in self._trials:
            self._last_poll = self._clock()
            self._judge.add(self._ledger.all_evaluations(self._sweep, classes=False))
            self._trials = {t.id: t.record() for t in self._ledger.trials(self._sweep)}
        self._judge.add(done.evaluations)
        trials = self._trials
        return self._judge.stop_reason(trials[done.trial], trials.values(), done.epoch)
