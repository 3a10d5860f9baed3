"""The trials of a spec: which value each varied key has in each of them."""

import itertools
from collections.abc import Iterator
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any

from gaplab.problems import Path, Problem
from gaplab.sections import MISSING, Choice, Key, Sections, Varied
from gaplab.spec import Condition, Experiment, Spec

Trial = dict[str, Choice]
"""Section -> its choice."""


def parts(key: str) -> Key:
    """`assignment.alpha` -> ("assignment", "alpha")."""
    return tuple(key.split("."))


def axes(spec: Spec) -> list[tuple[Path, dict[str, list[Any]]]]:
    """What moves independently: where the spec has it, and its keys with their values."""
    found: list[tuple[Path, dict[str, list[Any]]]]
    found = [(("grid",), {key: values}) for key, values in spec.grid.items()]
    if isinstance(spec.zip, dict):
        return found + [(("zip",), spec.zip)] * bool(spec.zip)
    return found + [(("zip", i), group) for i, group in enumerate(spec.zip) if group]


def size(spec: Spec) -> int:
    """How many combinations there are, before `when` and `exclude`."""
    total = 1
    for _, group in axes(spec):
        total *= len(next(iter(group.values())))
    return total


def conditional_order(spec: Spec) -> list[str]:
    """The keys of `when`, each after those that its condition needs. Raises graphlib.CycleError."""
    needs = {
        key: [other for other in spec.when if any(_settles(other, read) for read in condition)]
        for key, condition in spec.when.items()
    }
    return list(TopologicalSorter(needs).static_order())


def _settles(varied: str, read: str) -> bool:
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

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._axes = axes(spec)
        self._varied = sorted(self._keys(), key=lambda varied: len(varied.key))
        self._always = [i for i, v in enumerate(self._varied) if ".".join(v.key) not in spec.when]
        at = {".".join(varied.key): i for i, varied in enumerate(self._varied)}
        self._sometimes = [(at[key], spec.when[key]) for key in conditional_order(spec)]
        self.sections = Sections(spec.base, self._varied)
        self.unsettled: dict[Problem, None] = {}

    def _keys(self) -> Iterator[Varied]:
        for axis, (at, group) in enumerate(self._axes):
            for key, values in group.items():
                yield Varied(parts(key), values, (*at, key), axis)

    @cached_property
    def _lengths(self) -> list[int]:
        return [len(next(iter(group.values()))) for _, group in self._axes]

    def trials(self) -> Iterator[Trial]:
        """All trials that are not excluded, the first axis slowest; equal ones may repeat."""
        for rows in itertools.product(*map(range, self._lengths)):
            trial = self._trial(rows)
            if not any(self._holds(condition, trial) for condition in self._spec.exclude):
                yield trial

    def _trial(self, rows: tuple[int, ...]) -> Trial:
        trial: Trial = dict.fromkeys(Experiment.model_fields, ())
        for which in self._always:
            varied = self._varied[which]
            trial[varied.key[0]] += ((which, rows[varied.axis]),)
        for which, condition in self._sometimes:
            if self._holds(condition, trial):
                varied = self._varied[which]
                choice = (*trial[varied.key[0]], (which, rows[varied.axis]))
                trial[varied.key[0]] = tuple(sorted(choice))
        return trial

    def _holds(self, condition: Condition, trial: Trial) -> bool:
        return all(self._matches(parts(key), wanted, trial) for key, wanted in condition.items())

    def _matches(self, key: Key, wanted: Any, trial: Trial) -> bool:
        choice = trial[key[0]]
        value = self.sections.value(key, choice)
        if value is MISSING and self.sections.read(key[0], choice).problems:
            text = "a condition needs its value, and it has no default here; write it out"
            self.unsettled[Problem(key, text)] = None
        return matches(value, wanted)
