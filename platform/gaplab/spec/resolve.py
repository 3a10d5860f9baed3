"""Resolve a spec: build its axes once, validate every trial, and collect every problem.

The result, a `ResolvedSpec`, is what other modules pass on, so that nothing enumerates the trials
of a spec a second time.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from pydantic import ValidationError

from gaplab.errors import UserError
from gaplab.spec.axes import Axis, axes_of, split_key
from gaplab.spec.grid import Combination, Grid
from gaplab.spec.models import Experiment, Spec
from gaplab.spec.problems import Problem, problems_of, unknown
from gaplab.spec.references import find_parents
from gaplab.spec.sections import Section, Sections, different
from gaplab.spec.validate import check, unmeasured_metrics


class Variant(NamedTuple):
    """One trial of a spec before it has an id. Equal variants may be repeated."""

    row: str | None
    """Name of the row that the trial belongs to; None in a spec without rows."""
    sections: Mapping[str, Section]
    """Validated sections of the experiment, by name."""
    parent: int | None = None
    """Index of the variant that this one starts from, if its `init_from` names a row."""


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec without problems, with its axes and its trials."""

    spec: Spec
    axes: tuple[Axis, ...]
    """What the spec varies, slowest first."""
    variants: tuple[Variant, ...]
    """All trials that are not excluded, in the order of the axes."""
    notes: tuple[str, ...] = ()
    """Conditions that never hold and rows without trials, one line each."""
    ground_truth: Mapping[str, Mapping[str, Section]] = field(default_factory=dict)
    """Sections `data` and `evaluation` of each row that shows the ground truth."""

    def parents_first(self) -> Iterator[int]:
        """Yield the index of every variant, after that of the one that it starts from."""
        needs = {i: each.parent for i, each in enumerate(self.variants) if each.parent is not None}
        if not needs:
            yield from range(len(self.variants))
            return
        first = TopologicalSorter({i: [parent] for i, parent in needs.items()}).static_order()
        yield from dict.fromkeys([*first, *range(len(self.variants))])

    def with_parents(self, rows: Iterable[str]) -> set[str]:
        """Return rows and all those whose trials they start from, directly or indirectly."""
        found, variants = set(rows), self.variants
        for i in [*self.parents_first()][::-1]:
            if variants[i].row in found and (parent := variants[i].parent) is not None:
                found.add(variants[parent].row or "")
        return found

    def only(self, rows: Collection[str]) -> "ResolvedSpec":
        """Return the spec with some of its rows and those that they start from; all if none.

        Raises:
            UserError: with every name that isn't one of a row with trials.
        """
        trained = {each.row for each in self.variants}
        problems = [f"--row {row}: {self._not_trained(row)}" for row in rows if row not in trained]
        if problems:
            raise UserError(*problems)
        if not rows:
            return self
        kept = self.with_parents(rows)
        left = {row: keys for row, keys in self.spec.rows.items() if row in kept}
        return resolve(self.spec.model_copy(update={"rows": left}))

    def _not_trained(self, row: str) -> str:
        if row in self.ground_truth:
            return "shows the ground truth, so it has no trial; gaplab table computes it"
        if row in self.spec.rows:
            return "has no trial, because exclude leaves it out"
        if not self.spec.rows:
            return "the spec has no rows; remove --row"
        return unknown(row, self.spec.rows, "row ")

    @property
    def samples_left(self) -> int:
        """Number of samples that `search` asks for beyond those drawn; 0 without a search."""
        drawn = sum(axis.length for axis in self.axes if axis.drawn)
        return self.spec.search.trials - drawn if self.spec.search else 0


class SpecError(UserError):
    """A spec has problems. `found` has them with their paths in the spec."""

    def __init__(self, found: Sequence[Problem]) -> None:
        super().__init__(*map(str, found))
        self.found = tuple(found)


def resolve(spec: Spec) -> ResolvedSpec:
    """Validate every trial of a spec.

    Raises:
        SpecError: with all problems of the spec, each once.
    """
    axes = axes_of(spec)
    if problems := check(spec, axes):
        varied = {split_key(key)[0] for axis in axes for key in axis.values}
        raise SpecError(problems + base_problems(spec.base, varied))
    grid = Grid(spec, axes)
    found = list(grid.trials())
    truths = {
        each.row or "": {name: each.sections[name] for name in ("data", "evaluation")}
        for each in grid.ground_truth()
    }
    inside = [p for both in truths.values() for section in both.values() for p in section.problems]
    if problems := _problems(spec, grid, found) or inside or list(grid.undecided):
        raise SpecError(problems)
    parents, problems = find_parents(spec.rows, found, grid)
    if problems:
        raise SpecError(problems)
    variants = [Variant(each.row, each.sections, parents.get(i)) for i, each in enumerate(found)]
    untrained = [
        f"row {row} shows the ground truth: nothing is trained for it, gaplab table computes it"
        for row in truths
    ]
    notes = (*grid.notes(), *untrained)
    return ResolvedSpec(spec, tuple(axes), tuple(variants), notes, truths)


def base_problems(base: Mapping[str, Any], varied: set[str]) -> list[Problem]:
    """Return the problems of the sections in which nothing is varied.

    Args:
        base: sections of the base experiment.
        varied: names of the sections in which something is varied.
    """
    sections, names = Sections(base, ()), Experiment.model_fields
    return [p for name in names if name not in varied for p in sections.read(name, ()).problems]


def _problems(spec: Spec, grid: Grid, trials: Sequence[Combination]) -> list[Problem]:
    """Return the problems of the trials, each once."""
    if not trials:
        return [Problem(("exclude",), "leaves no trial")]
    found, tested = dict[Problem, None](), set[tuple[int, ...]]()
    without_seed = grid.without_seed()
    for each in trials:
        # No check between sections reads the seed.
        alike, sections = without_seed(each.positions), each.sections
        if alike in tested and not sections["seed"].problems:
            continue
        inside = [each for section in sections.values() for each in section.problems]
        found.update(dict.fromkeys(inside or _problems_between(each, grid)))
        if not sections["seed"].problems:
            tested.add(alike)
    evaluations = different(each.sections["evaluation"] for each in trials)
    used = [each.value.protocol.evaluator for each in evaluations if not each.problems]
    found.update(dict.fromkeys(unmeasured_metrics(spec, used)))
    return list(found)


def _problems_between(trial: Combination, grid: Grid) -> list[Problem]:
    """Return the problems between sections that are valid by themselves."""
    try:
        Experiment.model_validate({name: each.value for name, each in trial.sections.items()})
    except ValidationError as error:
        choices = grid.choices(trial.positions)
        return [
            grid.sections.relocated(each, choices[str(each.path[0])]) if each.path else each
            for each in problems_of(error, Experiment)
        ]
    return []
