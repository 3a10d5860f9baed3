"""What can be wrong with a sweep before any trial is looked at."""

from collections.abc import Iterator
from graphlib import CycleError
from typing import Any

from pydantic import ValidationError

from detectors.options import Options
from gaplab.axes import Key, axes, parts
from gaplab.grid import conditional_order, size
from gaplab.problems import Path, Problem, advice, dotted, explain, unknown, unknown_key
from gaplab.schema import entries_with, inside, keys_of, owners_of, single
from gaplab.spec import READ, Condition, Experiment, Reading, Spec


def check(spec: Spec) -> list[Problem]:
    """All problems of the sweep's own keys, without looking at any value that is varied."""
    found = [*_keys(spec), *_readings(spec), *_conditions(spec)]
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
                yield from _known(parts(key), place)
            if key in seen:
                yield Problem((*axis.at, key), f"is varied in {seen[key][0]} already")
            seen.setdefault(key, axis.at)


def _known(key: Key, at: Path) -> Iterator[Problem]:
    """A problem at the first part of `key` that no experiment has."""
    owners: list[type[Options]] = [Experiment]
    for depth, part in enumerate(key):
        if not owners:
            yield Problem(at, f"unknown key; {dotted(key[:depth])} is a single value", True)
        elif part not in keys_of(owners):
            yield Problem(at, unknown_key(part, keys_of(owners)), True)
        else:
            owners = inside(key[: depth + 1], Experiment)
            continue
        return


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
            text = f"not a key of grid, zip or rows; {advice(key, varied)}"
            yield Problem(("when", key), text, True)
        yield from _condition(condition, ("when", key))
    for i, condition in enumerate(spec.exclude):
        yield from _condition(condition, ("exclude", i))


def _condition(condition: Condition, at: Path) -> Iterator[Problem]:
    if not condition:
        yield Problem(at, "must name at least one key")
    for key, wanted in condition.items():
        found = list(_known(parts(key), (*at, key)))
        yield from found or _wanted(parts(key), wanted, (*at, key))


def _wanted(key: Key, wanted: Any, at: Path) -> Iterator[Problem]:
    """Values that `key` can't have: a condition on one would never hold, and nobody would know."""
    owners = owners_of(key, Experiment)
    if inner := keys_of(inside(key, Experiment)):
        yield Problem(at, f"must name a single value, as {dotted((*key, inner[0]))} does")
    elif all(_refused(owner, key[-1], wanted) for owner in owners):
        yield from _each_wanted(key, wanted if isinstance(wanted, list) else [wanted], at)


def _each_wanted(key: Key, wanted: list[Any], at: Path) -> Iterator[Problem]:
    names = entries_with(key, Experiment) if key[-1] == "name" else []
    for value in wanted:
        texts = [_refused(owner, key[-1], value) for owner in owners_of(key, Experiment)]
        if all(texts):
            name = bool(names) and isinstance(value, str)
            yield Problem(at, unknown(value, names) if name else texts[0])


def _refused(owner: type[Options], key: str, value: Any) -> str:
    """Why a field of `owner` can't have this value; empty when it can."""
    model = single(owner, key)
    try:
        model.model_validate({key: value})
    except ValidationError as error:
        return explain(error.errors(include_url=False)[0], model).text
    return ""


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
