"""Resolve a spec: build its axes once, validate every trial, and collect every problem.

The result, a `ResolvedSpec`, is what other modules pass on, so that nothing enumerates the trials
of a spec a second time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from gaplab.errors import UserError
from gaplab.spec.axes import Axis, axes_of, split_key
from gaplab.spec.grid import Grid
from gaplab.spec.models import Experiment, Spec
from gaplab.spec.problems import Problem, to_problem
from gaplab.spec.sections import Section, Sections
from gaplab.spec.validate import check, unmeasured_metrics


class Variant(NamedTuple):
    """One trial of a spec before it has an id. Equal variants may be repeated."""

    row: str | None
    """Name of the row that the trial belongs to; None in a spec without rows."""
    sections: Mapping[str, Section]
    """Validated sections of the experiment, by name."""


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec without problems, with its axes and its trials."""

    spec: Spec
    axes: tuple[Axis, ...]
    """What the spec varies, slowest first."""
    variants: tuple[Variant, ...]
    """All trials that are not excluded, in the order of the axes."""
    notes: tuple[str, ...] = ()
    """Conditions that never hold, one line each."""

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
    variants = [
        Variant(row, {name: grid.sections.read(name, choice) for name, choice in choices.items()})
        for row, choices in grid.trials()
    ]
    if problems := _problems(spec, variants) or list(grid.undecided):
        raise SpecError(problems)
    return ResolvedSpec(spec, tuple(axes), tuple(variants), tuple(grid.notes()))


def base_problems(base: Mapping[str, Any], varied: set[str]) -> list[Problem]:
    """Return the problems of the sections in which nothing is varied.

    Args:
        base: sections of the base experiment.
        varied: names of the sections in which something is varied.
    """
    sections, names = Sections(base, ()), Experiment.model_fields
    return [p for name in names if name not in varied for p in sections.read(name, ()).problems]


def _problems(spec: Spec, variants: Sequence[Variant]) -> list[Problem]:
    """Return the problems of the trials, each once."""
    if not variants:
        return [Problem(("exclude",), "leaves no trial")]
    found = dict[Problem, None]()
    for variant in variants:
        inside = [each for section in variant.sections.values() for each in section.problems]
        found.update(dict.fromkeys(inside or _problems_between(variant.sections)))
    evaluations = [variant.sections["evaluation"] for variant in variants]
    used = [each.value.protocol.evaluator for each in evaluations if not each.problems]
    found.update(dict.fromkeys(unmeasured_metrics(spec, used)))
    return list(found)


def _problems_between(sections: Mapping[str, Section]) -> list[Problem]:
    """Return the problems between sections that are valid by themselves."""
    try:
        Experiment.model_validate({name: section.value for name, section in sections.items()})
    except ValidationError as error:
        return [to_problem(each, Experiment) for each in error.errors(include_url=False)]
    return []
