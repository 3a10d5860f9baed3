"""Which trials end early: verdicts as pure functions of what all trials of a sweep came to so far.

Epochs are the trial's own, as its evaluations have them, so a resumed trial meets the same rungs,
and the same history gives the same verdict.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import fmean, median

from gaplab.ledger import Ledger
from gaplab.records import EpochDone, EvaluationRecord, TrialRecord
from gaplab.spec.search import StopOptions

LOOK = 10.0
"""Seconds between two looks at what other drivers of the sweep have measured."""

Course = Mapping[int, float]
"""What one trial came to: epoch -> value of the rule's metric, the larger the better."""
History = Mapping[str, Course]
"""The course of every trial that is compared with others, by its id."""


def verdict(rule: StopOptions, history: History, trial: str, epoch: int) -> str:
    """Why `trial` ends after `epoch`; empty where it goes on.

    Without a value for that epoch nothing is decided. See `asha` and `by_median`.
    """
    if epoch < rule.after or epoch not in history.get(trial, {}):
        return ""
    return (
        asha(rule, history, trial, epoch)
        if rule.rule == "asha"
        else by_median(rule, history, trial, epoch)
    )


def asha(rule: StopOptions, history: History, trial: str, epoch: int) -> str:
    """The verdict of asynchronous successive halving (Li et al. 2018, arXiv 1810.05934).

    Rung i lies at epoch after * keep^i. Algorithm 2 of the paper lets a configuration of a rung go
    on to the next when it is among the top |rung| / keep of those that have reached the rung by
    then (rounded down). Asked when a trial reaches a rung, that is the verdict here.

    Deviations, those of the stopping form that other tools have: who isn't among the top is
    stopped, where the paper holds it back and may promote it when more have come; until `keep`
    trials have reached a rung nobody is stopped there, since the top of them is empty; of equal
    values all go on, or none. A trial reaches a rung with its first evaluation at or after it.
    """
    for rung in rungs(rule, epoch):
        found = {each: at for each, course in history.items() if (at := reached(course, rung))}
        if found[trial] != epoch:
            continue  # judged by an earlier evaluation
        values = [history[each][at] for each, at in found.items()]
        own, top = history[trial][epoch], len(values) // rule.keep
        place = 1 + sum(value > own for value in values)
        if top and place > top:
            return (
                f"asha: place {place} of {len(values)} at epoch {rung} by {rule.metric} "
                f"({own:.4g}), the best {top} go on"
            )
    return ""


def rungs(rule: StopOptions, epoch: int) -> Iterator[int]:
    """The rungs up to `epoch`."""
    rung = rule.after
    while rung <= epoch:
        yield rung
        rung *= rule.keep


def reached(course: Course, rung: int) -> int | None:
    """The epoch at which a trial reached a rung: its first evaluation at or after it."""
    return min((epoch for epoch in course if epoch >= rung), default=None)


def by_median(rule: StopOptions, history: History, trial: str, epoch: int) -> str:
    """The verdict of the median rule (Golovin et al. 2017, Google Vizier, section 3.2).

    A trial is stopped when its best value so far is below the median of the running averages, up to
    the same epoch, of all other trials that got at least as far. (Vizier asks those that ended.)
    """
    best = max(_until(history[trial], epoch))
    averages = [
        fmean(values)
        for other, course in history.items()
        if other != trial and max(course, default=0) >= epoch and (values := _until(course, epoch))
    ]
    if not averages or best >= (middle := median(averages)):
        return ""
    return (
        f"median: best {rule.metric} up to epoch {epoch} is {best:.4g}, below {middle:.4g}, "
        f"the median of {len(averages)} others' averages"
    )


def _until(course: Course, epoch: int) -> list[float]:
    return [value for at, value in course.items() if at <= epoch]


class Judge:
    """Says for the trials of a sweep which of them end early.

    Compared are trials of the same data under the same protocol. What it heard is all that it goes
    by: after a resume it is told the sweep's evaluations again, in any order.
    """

    def __init__(self, rule: StopOptions) -> None:
        self._rule = rule
        self._courses: dict[str, dict[int, float]] = {}

    def hear(self, evaluations: Iterable[EvaluationRecord]) -> None:
        """Take note of evaluations; all but those of the branch kept at inference are passed over,
        and repeating one changes nothing.
        """
        for each in evaluations:
            value = each.metrics.get(self._rule.metric)
            if each.primary and value is not None:
                self._courses.setdefault(_key(each.trial, each.protocol), {})[each.epoch] = value

    def verdict(self, trial: TrialRecord, peers: Iterable[TrialRecord], epoch: int) -> str:
        """Why `trial` ends after `epoch`; empty where it goes on, as always after its last epoch.

        peers: the trials of the sweep, `trial` itself among them or not.
        """
        if epoch >= trial.epochs:
            return ""
        like = (trial.dataset, _protocol(trial))
        ids = {trial.id, *(each.id for each in peers if (each.dataset, _protocol(each)) == like)}
        history = {each: self._courses.get(_key(each, like[1]), {}) for each in ids}
        return verdict(self._rule, history, trial.id, epoch)


def _protocol(trial: TrialRecord) -> str:
    return str(trial.config["evaluation"]["protocol"]["preset"])


def _key(trial: str, protocol: str) -> str:
    return f"{trial}/{protocol}"


class Referee:
    """The sweep's stopping rule, with all that was measured so far, also by other drivers."""

    def __init__(
        self,
        ledger: Ledger,
        sweep: str,
        judge: Judge,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._sweep, self._judge, self._clock = ledger, sweep, judge, clock
        self._looked = float("-inf")
        self._trials: dict[str, TrialRecord] = {}

    def reason(self, done: EpochDone) -> str:
        """Why the trial ends after this epoch; empty where it goes on."""
        if self._clock() - self._looked > LOOK or done.trial not in self._trials:
            self._looked = self._clock()
            self._judge.hear(self._ledger.all_evaluations(self._sweep))
            self._trials = {t.id: t.record() for t in self._ledger.trials(self._sweep)}
        self._judge.hear(done.evaluations)
        return self._judge.verdict(self._trials[done.trial], self._trials.values(), done.epoch)
