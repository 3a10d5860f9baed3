"""The results of the trials of an adaptive search, grouped by the samples that they belong to.

Of a sample only the configurations of its trials are stored; `SampleReader` finds it again in them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean
from typing import Any, Literal

from gaplab.identity import canonical
from gaplab.ledger import Reader
from gaplab.ledger.views import RowFilter
from gaplab.records import TrialRecord
from gaplab.spec.axes import MISSING, axes_of, split_key
from gaplab.spec.grid import matches
from gaplab.spec.models import Spec
from gaplab.spec.sampling import Sample
from gaplab.spec.sections import Sections, put
from gaplab.spec.validate import metrics
from gaplab.states import TrialState


@dataclass(frozen=True)
class TrialResult:
    """A trial of a sweep with its state and its last evaluation.

    Attributes:
        trial: the trial.
        state: its state.
        epoch: epoch of its last evaluation on the branch kept at inference; 0 before the first.
        metrics: the metrics of that evaluation; empty before the first.
    """

    trial: TrialRecord
    state: TrialState
    epoch: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The result of a sample over all its trials.

    Attributes:
        sample: the sample.
        state: `open` while one of its trials may train on, then `done`, `stopped` or `failed`.
        objective: the mean of each objective; None while the sample is open, and if it failed.
        epoch: the smallest epoch that its trials have reached.
    """

    sample: Sample
    state: Literal["open", "done", "stopped", "failed"]
    objective: tuple[float, ...] | None
    epoch: int


def trial_results(ledger: Reader, sweep: str) -> list[TrialResult]:
    """Return the trials of a sweep in its order; none if the ledger has no such sweep."""
    trials = ledger.trials(sweep)
    protocols = {trial.protocol for trial in trials}
    rows = {
        (row.trial, row.protocol): row
        for protocol in sorted(protocols)
        for row in ledger.rows(RowFilter(protocol=protocol, sweep=sweep))
    }
    found = list[TrialResult]()
    for trial in trials:
        row = rows.get((trial.id, trial.protocol))
        if row is None:
            found.append(TrialResult(trial.record(), trial.state))
        else:
            values = {name: vars(row).get(name, row.more.get(name)) for name in metrics()}
            found.append(TrialResult(trial.record(), trial.state, row.epoch, values))
    return found


def _outcome(sample: Sample, trials: Sequence[TrialResult], spec: Spec) -> Outcome:
    assert spec.search is not None
    epoch, objective = min(each.epoch for each in trials), spec.search.objective
    if any(_trains_on(each.state, spec) for each in trials):
        return Outcome(sample, "open", None, epoch)
    ended = [each for each in trials if each.state in (TrialState.SUCCEEDED, TrialState.STOPPED)]
    rows = [[each.metrics.get(name) for name in objective] for each in ended]
    complete = [[value for value in row if value is not None] for row in rows if None not in row]
    if not complete:
        return Outcome(sample, "failed", None, epoch)
    stopped = any(each.state == TrialState.STOPPED for each in ended)
    means = tuple(fmean(column) for column in zip(*complete, strict=True))
    return Outcome(sample, "stopped" if stopped else "done", means, epoch)


def _trains_on(state: TrialState, spec: Spec) -> bool:
    """Return whether the sweep trains on; without a stopping rule it resumes stopped trials."""
    return state.open or (state is TrialState.STOPPED and spec.stop is None)


class SampleReader:
    """Finds the samples of an adaptive search in the configurations of its trials."""

    def __init__(self, spec: Spec) -> None:
        assert spec.search is not None
        self._search, self._when, self._spec = spec.search, spec.when, spec
        self._varied = sorted({key for axis in axes_of(spec) for key in axis.values}, key=_depth)
        self._choice = cache(self._find_choice)

    def outcomes(self, trials: Iterable[TrialResult]) -> list[Outcome]:
        """Return the samples of `trials`, in the order of their first trials."""
        groups = dict[str, tuple[Sample, list[TrialResult]]]()
        for each in trials:
            sample = self.sample(each.trial.config)
            groups.setdefault(canonical(sample), (sample, []))[1].append(each)
        return [_outcome(sample, held, self._spec) for sample, held in groups.values()]

    def sample(self, config: Mapping[str, Any]) -> Sample:
        """Return the value of each searched key in a configuration; a choice as in the spec.

        Keys whose `when` doesn't hold are left out.
        """
        applying = [key for key in self._search.space if self._applies(key, config)]
        found = {key: self._value(key, config) for key in applying}
        return {key: value for key, value in found.items() if value is not MISSING}

    def _applies(self, key: str, config: Mapping[str, Any]) -> bool:
        condition = self._when.get(key, {})
        return all(matches(value_at(config, each), want) for each, want in condition.items())

    def _value(self, key: str, config: Mapping[str, Any]) -> Any:
        value, choices = value_at(config, key), self._search.space[key].choices
        if choices is None:
            return value
        if value in choices:
            return choices[choices.index(value)]
        below = (k for k in self._varied if k.startswith(f"{key}.") and self._applies(k, config))
        section = split_key(key)[0]
        return self._choice(key, tuple(below), canonical({section: config[section]}))

    def _find_choice(self, key: str, below: Sequence[str], text: str) -> Any:
        """Return the choice that gives the section, with the values of keys below it on top."""
        config = json.loads(text)
        (section,) = config
        for choice in self._search.space[key].choices or ():
            changed = put(config, split_key(key), choice)
            for each in below:
                if (value := value_at(config, each)) is not MISSING:
                    changed = put(changed, split_key(each), value)
            found = Sections(changed, ()).read(section, ())
            if not found.problems and found.config == config[section]:
                return choice
        return MISSING


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key of a configuration, or MISSING."""
    node: Any = config
    for part in split_key(key):
        node = node.get(part, MISSING) if isinstance(node, Mapping) else MISSING
    return node


def _depth(key: str) -> tuple[int, str]:
    return len(split_key(key)), key
