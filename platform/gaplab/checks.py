"""What can be wrong with a sweep before any trial is looked at."""

from collections.abc import Iterator
from graphlib import CycleError
from typing import Any

from pydantic import ValidationError

from gaplab.axes import Key, axes, parts
from gaplab.grid import conditional_order, size
from gaplab.keys import known, unfit
from gaplab.problems import Path, Problem, advice, dotted, explain
from gaplab.schema import inside, keys_of
from gaplab.search.check import search_problems
from gaplab.spec import READ, Condition, Experiment, Reading, Spec


def check(spec: Spec) -> list[Problem]:
    """All problems of the sweep's own keys, without looking at any value that is varied."""
    found = [*_keys(spec), *_readings(spec), *_conditions(spec), *search_problems(spec)]
    if not found:
        found = [*_order(spec), *_limit(spec)]
    return found


def _keys(spec: Spec) -> Iterator[Problem]:
    seen: dict[str, Path] = {}
    for axis in axes(spec):
        lengths = {key: len(values) for key, values in axis.values.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            yield Problem(axis.at, f"lists must be of equal length: {listed}")
        for key in axis.values:
            for place in axis.places(key):
                yield from known(parts(key), place)
            if key in seen:
                yield Problem((*axis.at, key), f"is varied in {seen[key][0]} already")
            seen.setdefault(key, axis.at)


def _readings(spec: Spec) -> Iterator[Problem]:
    """Problems of the keys that say how a row is read."""
    for row, settings in spec.rows.items():
        try:
            Reading.of(settings)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                problem = explain(each, Reading)
                at = ("rows", row, f"{READ}{problem.path[0]}", *problem.path[1:])
                yield Problem(at, problem.text, problem.of_key)


def _conditions(spec: Spec) -> Iterator[Problem]:
    varied = [key for axis in axes(spec) for key in axis.values]
    for key, condition in spec.when.items():
        if key not in varied:
            text = f"not a key of grid, zip, rows or search; {advice(key, varied)}"
            yield Problem(("when", key), text, True)
        yield from _condition(condition, ("when", key))
    for i, condition in enumerate(spec.exclude):
        yield from _condition(condition, ("exclude", i))


def _condition(condition: Condition, at: Path) -> Iterator[Problem]:
    if not condition:
        yield Problem(at, "must name at least one key")
    for key, wanted in condition.items():
        found = list(known(parts(key), (*at, key)))
        yield from found or _wanted(parts(key), wanted, (*at, key))


def _wanted(key: Key, wanted: Any, at: Path) -> Iterator[Problem]:
    """Values that `key` can't have: a condition on one would never hold, and nobody would know."""
    if inner := keys_of(inside(key, Experiment)):
        yield Problem(at, f"must name a single value, as {dotted((*key, inner[0]))} does")
    elif unfit(key, wanted):
        for value in wanted if isinstance(wanted, list) else [wanted]:
            yield from (Problem(at, problem.text) for problem in unfit(key, value)[:1])


def _order(spec: Spec) -> Iterator[Problem]:
    try:
        conditional_order(spec)
    except CycleError as error:
        keys = " -> ".join(error.args[1])
        yield Problem(("when",), f"conditions wait for each other: {keys}")


def _limit(spec: Spec) -> Iterator[Problem]:
    if (trials := size(spec)) > spec.max_trials:
        text = f"the grid has {trials} combinations, more than {spec.max_trials}; vary less"
        yield Problem(("max_trials",), text)
