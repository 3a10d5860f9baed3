"""The trials of a spec: which value each varied key has in each of them."""

import itertools
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from typing import Any

from gaplab.spec.axes import MISSING, Axis, Key, parts, varied_keys
from gaplab.spec.models import Condition, Experiment, Spec
from gaplab.spec.problems import Problem
from gaplab.spec.sections import Choice, Sections

Trial = dict[str, Choice]
"""Section -> its choice."""
_Positions = tuple[int, ...]
"""Of each axis."""


def size(spec: Spec, axes: Sequence[Axis]) -> int:
    """How many combinations there are, before `when` and `exclude`; also of samples to come."""
    total = 1
    for axis in axes:
        to_come = spec.search.trials if axis.drawn and spec.search and spec.search.adaptive else 0
        total *= max(axis.length, to_come)
    return total


def conditional_order(spec: Spec) -> list[str]:
    """The keys of `when`, each after those that its condition needs. Raises graphlib.CycleError."""
    needs = {
        key: [other for other in spec.when if any(settles(other, read) for read in condition)]
        for key, condition in spec.when.items()
    }
    return list(TopologicalSorter(needs).static_order())


def settles(varied: str, read: str) -> bool:
    """Whether the value at `read` can depend on `varied`: itself, a part above, or its name."""
    key, target = parts(varied), parts(read)
    above = key[:-1] if key[-1] == "name" else key
    return target[: len(above)] == above


def matches(value: Any, wanted: Any) -> bool:
    """A value is wanted when it equals `wanted` or, `wanted` being a list, one of its entries.

    True and 1 need no care: `checks.check` refuses values of a type that the key can't have.
    """
    return value == wanted or (isinstance(wanted, list) and value in wanted)


class Grid:
    """Enumerates the trials of a spec without problems of its own (see `checks.check`)."""

    def __init__(self, spec: Spec, axes: Sequence[Axis]) -> None:
        self._spec, self._axes = spec, axes
        self._varied = varied_keys(axes)
        self._always = [i for i, v in enumerate(self._varied) if v.name not in spec.when]
        at = {varied.name: i for i, varied in enumerate(self._varied)}
        self._sometimes = [(at[key], spec.when[key]) for key in conditional_order(spec)]
        self.sections = Sections(spec.base, self._varied)
        self.unsettled: dict[Problem, None] = {}

    def trials(self) -> Iterator[tuple[str | None, Trial]]:
        """All trials that are not excluded, each with the name of its row where there are rows.

        The first axis is the slowest; equal trials may repeat.
        """
        rows = self._axes[0].rows if self._axes else ()
        for positions in itertools.product(*(range(axis.length) for axis in self._axes)):
            trial = self._trial(positions)
            if not any(self._holds(condition, trial) for condition in self._spec.exclude):
                yield (rows[positions[0]] if rows else None), trial

    def _trial(self, positions: _Positions) -> Trial:
        trial: Trial = dict.fromkeys(Experiment.model_fields, ())
        for which in self._always:
            self._choose(trial, which, positions)
        for which, condition in self._sometimes:
            if self._holds(condition, trial):
                section = self._choose(trial, which, positions)
                trial[section] = tuple(sorted(trial[section]))
        return trial

    def _choose(self, trial: Trial, which: int, positions: _Positions) -> str:
        """Give the section of a varied key, whose name comes back, its value, if there is one."""
        varied = self._varied[which]
        section, position = varied.key[0], positions[varied.number]
        if varied.values[position] is not MISSING:
            trial[section] += ((which, position),)
        return section

    def _holds(self, condition: Condition, trial: Trial) -> bool:
        return all(self._matches(parts(key), wanted, trial) for key, wanted in condition.items())

    def _matches(self, key: Key, wanted: Any, trial: Trial) -> bool:
        choice = trial[key[0]]
        value = self.sections.value(key, choice)
        if value is MISSING and self.sections.read(key[0], choice).problems:
            text = "a condition needs its value, and it has no default here; write it out"
            self.unsettled[Problem(key, text)] = None
        return matches(value, wanted)
