"""Enumerate the trials of a spec: which value each varied key has in each of them."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from gaplab.spec.axes import MISSING, Axis, Key, split_key, varied_keys
from gaplab.spec.models import Condition, Experiment, Reading, Spec
from gaplab.spec.problems import Problem
from gaplab.spec.sections import Choice, Section, Sections
from gaplab.spec.yaml_text import flow_yaml

T = TypeVar("T")
TrialChoices = dict[str, Choice]
"""Name of a section -> its choice, for one trial."""
_Positions = tuple[int, ...]
"""One position per axis."""


class Combination(NamedTuple):
    """One trial with the values that it has."""

    row: str | None
    """Name of its row; None in a spec without rows."""
    positions: _Positions
    sections: Mapping[str, Section]
    """All sections by name, validated."""

    @property
    def others(self) -> _Positions:
        """Its position on every axis other than that of `rows`."""
        return self.positions if self.row is None else self.positions[1:]


class Grid:
    """Enumerates the trials of a spec that passes `validate.check`.

    A section is read, and a condition tested, once for all trials that agree on the axes which may
    change its outcome, because most trials differ in few sections.

    Attributes:
        sections: validates the sections of the trials.
        undecided: problems of conditions whose outcome is unknown, filled during enumeration.
    """

    def __init__(self, spec: Spec, axes: Sequence[Axis]) -> None:
        self._spec, self._axes = spec, axes
        self._varied = varied_keys(axes)
        self._always = [i for i, v in enumerate(self._varied) if v.name not in spec.when]
        index = {varied.name: i for i, varied in enumerate(self._varied)}
        self._conditional = [(index[key], spec.when[key]) for key in condition_order(spec)]
        self.sections = Sections(spec.base, self._varied)
        self.undecided: dict[Problem, None] = {}
        self._untrained = {row for row, s in spec.rows.items() if Reading.of(s).ground_truth}
        self._unmet = dict.fromkeys(spec.when)
        self._unused = dict.fromkeys(range(len(spec.exclude)))
        self._depends = self._axes_by_section()
        self._read = {name: self._reader(name) for name in Experiment.model_fields}
        read = {split_key(key)[0] for condition in spec.exclude for key in condition}
        self._excluded = _once_per(self._axes_of(read), self._is_excluded)

    def trials(self) -> Iterator[Combination]:
        """Yield all trials that are not excluded.

        The first axis varies slowest. Equal trials may be repeated.
        """
        read = self._read.items()
        for row, positions in self._combinations():
            if row not in self._untrained and not self._excluded(positions):
                sections = {name: section(positions) for name, section in read}
                yield Combination(row, positions, sections)

    def ground_truth(self) -> Iterator[Combination]:
        """Yield the first combination of each row that shows the ground truth."""
        left = set(self._untrained)
        for row, positions in self._combinations() if left else ():
            if row in left:
                left.remove(row)
                sections = {name: section(positions) for name, section in self._read.items()}
                yield Combination(row, positions, sections)

    def without_seed(self) -> Callable[[_Positions], tuple[int, ...]]:
        """Return a function whose result is equal for trials that differ at most in the seed."""
        names = [name for name in self._read if name != "seed"]
        # Sections with equal choices are one object.
        return _once_per(
            self._axes_of(names), lambda at: tuple(id(self._read[name](at)) for name in names)
        )

    def choices(self, positions: _Positions) -> TrialChoices:
        """Return the choices of a trial."""
        trial: TrialChoices = dict.fromkeys(Experiment.model_fields, ())
        for index in self._always:
            self._choose(trial, index, positions)
        for index, condition in self._conditional:
            if self._holds(condition, trial):
                self._unmet.pop(self._varied[index].name, None)
                section = self._choose(trial, index, positions)
                trial[section] = tuple(sorted(trial[section]))
        return trial

    def _combinations(self) -> Iterator[tuple[str | None, _Positions]]:
        """Yield the row of every combination, and its positions."""
        rows = self._axes[0].rows if self._axes else ()
        for positions in itertools.product(*(range(axis.length) for axis in self._axes)):
            yield rows[positions[0]] if rows else None, positions

    def _axes_by_section(self) -> dict[str, set[int]]:
        """Return the axes that may change a section, also by a condition of one of its keys."""
        found: dict[str, set[int]] = {name: set() for name in Experiment.model_fields}
        for varied in self._varied:
            found[varied.key[0]].add(varied.axis_index)
        conditions = [(self._varied[index].key[0], wanted) for index, wanted in self._conditional]
        for _ in found:  # conditions may depend on sections that have conditions themselves
            for name, condition in conditions:
                found[name].update(*(found[split_key(key)[0]] for key in condition))
        return found

    def _axes_of(self, sections: Iterable[str]) -> list[int]:
        return sorted(set().union(*(self._depends[name] for name in sections)))

    def _reader(self, name: str) -> Callable[[_Positions], Section]:
        """Return a function that reads a section of the trial at some positions."""
        return _once_per(
            self._axes_of([name]), lambda at: self.sections.read(name, self.choices(at)[name])
        )

    def notes(self) -> list[str]:
        """Return the conditions that held for no combination, one line each.

        Call it after the trials were enumerated. Values that are drawn may be others next time.
        """
        if any(axis.drawn for axis in self._axes):
            return []
        spec = self._spec
        return [
            f"when.{key}: {flow_yaml(spec.when[key])} holds for no combination, so {key} is never "
            "varied"
            for key in self._unmet
        ] + [
            f"exclude[{i}]: {flow_yaml(spec.exclude[i])} holds for no combination"
            for i in self._unused
        ]

    def _is_excluded(self, positions: _Positions) -> bool:
        """Return whether one of the conditions of `exclude` holds; all that are new are tested."""
        trial = self.choices(positions)
        for i in [i for i in self._unused if self._holds(self._spec.exclude[i], trial)]:
            del self._unused[i]
        return any(self._holds(condition, trial) for condition in self._spec.exclude)

    def _choose(self, trial: TrialChoices, index: int, positions: _Positions) -> str:
        """Add the value of a varied key, if it has one, to its section. Return the section."""
        varied = self._varied[index]
        section, position = varied.key[0], positions[varied.axis_index]
        if varied.values[position] is not MISSING:
            trial[section] += ((index, position),)
        return section

    def _holds(self, condition: Condition, trial: TrialChoices) -> bool:
        return all(self._matches(split_key(key), value, trial) for key, value in condition.items())

    def _matches(self, key: Key, wanted: Any, trial: TrialChoices) -> bool:
        choice = trial[key[0]]
        value = self.sections.value(key, choice)
        if value is MISSING and self.sections.read(key[0], choice).problems:
            text = "a condition reads this key, and its default is unknown; set it in the spec"
            self.undecided[Problem(key, text)] = None
        return matches(value, wanted)


def _once_per(axes: Sequence[int], compute: Callable[[_Positions], T]) -> Callable[[_Positions], T]:
    """Return `compute`, called once for all positions that are equal on these axes."""
    known = dict[Any, T]()
    project = itemgetter(*axes) if axes else lambda positions: None

    def computed(positions: _Positions) -> T:
        key = project(positions)
        if key not in known:
            known[key] = compute(positions)
        return known[key]

    return computed


def size(spec: Spec, axes: Sequence[Axis]) -> int:
    """Return the number of combinations before `when` and `exclude` apply.

    Samples that an adaptive search has still to propose are included.
    """
    total = 1
    for axis in axes:
        planned = spec.search.trials if axis.drawn and spec.search and spec.search.adaptive else 0
        total *= max(axis.length, planned)
    return total


def condition_order(spec: Spec) -> list[str]:
    """Return the keys of `when`, each after those that its condition depends on.

    Raises:
        graphlib.CycleError: if conditions depend on each other.
    """
    needs = {
        key: [other for other in spec.when if any(may_change(other, read) for read in condition)]
        for key, condition in spec.when.items()
    }
    return list(TopologicalSorter(needs).static_order())


def may_change(varied: str, read: str) -> bool:
    """Return whether varying one key may change the value of another.

    It may if it is the same key, a section above it, or the `name` that selects such a section.
    """
    key, target = split_key(varied), split_key(read)
    above = key[:-1] if key[-1] == "name" else key
    return target[: len(above)] == above


def matches(value: Any, wanted: Any) -> bool:
    """Return whether a value equals `wanted` or, if that is a list, one of its entries.

    True and 1 need no care: `validate.check` rejects values of a type that the key can't have.
    """
    return value == wanted or (isinstance(wanted, list) and value in wanted)
