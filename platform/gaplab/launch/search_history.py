"""What the trials of an adaptive search came to, by the samples that they belong to."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean
from typing import Any, Literal

from gaplab.identity import canonical
from gaplab.ledger import Ledger
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
class Seen:
    """A trial of the sweep as the ledger knows it.

    epoch, metrics: of its last evaluation on the branch kept at inference; 0 and none before it.
    """

    trial: TrialRecord
    state: TrialState
    epoch: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a sample came to. `objective` is None where the sample has failed, or is open.

    epoch: the least that one of its trials has reached.
    """

    sample: Sample
    state: Literal["open", "done", "stopped", "failed"]
    objective: tuple[float, ...] | None
    epoch: int


def seen(ledger: Ledger, sweep: str) -> list[Seen]:
    """The trials of the sweep of this id in its order; none where the ledger doesn't know it."""
    trials = ledger.trials(sweep)
    protocols = {trial.config["evaluation"]["protocol"]["preset"] for trial in trials}
    rows = {
        (row.trial, row.protocol): row
        for protocol in sorted(protocols)
        for row in ledger.rows(RowFilter(protocol=protocol, sweep=sweep))
    }
    found = list[Seen]()
    for trial in trials:
        row = rows.get((trial.id, trial.config["evaluation"]["protocol"]["preset"]))
        if row is None:
            found.append(Seen(trial.record(), trial.state))
        else:
            values = {name: vars(row).get(name, row.more.get(name)) for name in metrics()}
            found.append(Seen(trial.record(), trial.state, row.epoch, values))
    return found


def _outcome(sample: Sample, trials: Sequence[Seen], spec: Spec) -> Outcome:
    assert spec.search is not None
    epoch, objective = min(each.epoch for each in trials), spec.search.objective
    if any(_more_to_come(each.state, spec) for each in trials):
        return Outcome(sample, "open", None, epoch)
    ended = [each for each in trials if each.state in (TrialState.SUCCEEDED, TrialState.STOPPED)]
    rows = [[each.metrics.get(name) for name in objective] for each in ended]
    complete = [[value for value in row if value is not None] for row in rows if None not in row]
    if not complete:
        return Outcome(sample, "failed", None, epoch)
    stopped = any(each.state == TrialState.STOPPED for each in ended)
    means = tuple(fmean(column) for column in zip(*complete, strict=True))
    return Outcome(sample, "stopped" if stopped else "done", means, epoch)


def _more_to_come(state: TrialState, spec: Spec) -> bool:
    """Return whether the sweep trains on; without a rule of its own it resumes stopped trials."""
    return state.open or (state is TrialState.STOPPED and spec.stop is None)


class Reader:
    """Reads from the trials of an adaptive search which samples there are.

    A trial's configuration is all that is kept of a sample, so any driver can go on with a search.
    """

    def __init__(self, spec: Spec) -> None:
        assert spec.search is not None
        self._search, self._when, self._spec = spec.search, spec.when, spec
        self._varied = sorted({key for axis in axes_of(spec) for key in axis.values}, key=_depth)
        self._choice = cache(self._find_choice)

    def outcomes(self, trials: Iterable[Seen]) -> list[Outcome]:
        """The samples that `trials` belong to, in the order of their first trials."""
        groups = dict[str, tuple[Sample, list[Seen]]]()
        for each in trials:
            sample = self.sample(each.trial.config)
            groups.setdefault(canonical(sample), (sample, []))[1].append(each)
        return [_outcome(sample, held, self._spec) for sample, held in groups.values()]

    def sample(self, config: Mapping[str, Any]) -> Sample:
        """The value of each searched key that the trial has; a choice as the spec has it.

        Keys whose `when` doesn't hold for the trial are absent.
        """
        there = [key for key in self._search.space if self._there(key, config)]
        found = {key: self._value(key, config) for key in there}
        return {key: value for key, value in found.items() if value is not MISSING}

    def _there(self, key: str, config: Mapping[str, Any]) -> bool:
        condition = self._when.get(key, {})
        return all(matches(value_at(config, each), want) for each, want in condition.items())

    def _value(self, key: str, config: Mapping[str, Any]) -> Any:
        value, choices = value_at(config, key), self._search.space[key].choices
        if choices is None:
            return value
        if value in choices:
            return choices[choices.index(value)]
        below = (k for k in self._varied if k.startswith(f"{key}.") and self._there(k, config))
        section = split_key(key)[0]
        return self._choice(key, tuple(below), canonical({section: config[section]}))

    def _find_choice(self, key: str, below: Sequence[str], text: str) -> Any:
        """The choice that makes the section what it is, with the values of keys below it on top."""
        config = json.loads(text)
        (section,) = config
        for choice in self._search.space[key].choices or ():
            made = put(config, split_key(key), choice)
            for each in below:
                if (value := value_at(config, each)) is not MISSING:
                    made = put(made, split_key(each), value)
            found = Sections(made, ()).read(section, ())
            if not found.problems and found.config == config[section]:
                return choice
        return MISSING


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """What a configuration has at a dotted key; MISSING where it has no such key."""
    node: Any = config
    for part in split_key(key):
        node = node.get(part, MISSING) if isinstance(node, Mapping) else MISSING
    return node


def _depth(key: str) -> tuple[int, str]:
    return len(split_key(key)), key
