"""Check the sweep's own keys of a spec, before any trial is built.

`check` runs all checks: of varied keys, of the keys that say how rows are read, of conditions, of
metrics that the spec names, and of the search. Values of varied keys are validated later, with the
section they belong to (see `sections`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from detectors.evaluation.metrics import LOWER_IS_BETTER, MEASURED, names_of
from detectors.options import Options
from gaplab.formatting import plural
from gaplab.spec.axes import Axis, Key, split_key
from gaplab.spec.fields import (
    dotted_keys,
    entries_with,
    keys_of,
    models_below,
    owners_of,
    single_field_model,
)
from gaplab.spec.grid import condition_order, may_change, size
from gaplab.spec.models import READ, Condition, Experiment, Reading, Spec
from gaplab.spec.problems import (
    Problem,
    SpecPath,
    format_path,
    problems_of,
    similar_keys,
    suggest,
    unknown,
    unknown_dotted,
)
from gaplab.spec.raw import varied_seed
from gaplab.spec.sampling import number_type
from gaplab.spec.search import Domain


def check(spec: Spec, axes: Sequence[Axis]) -> list[Problem]:
    """Return all problems of the sweep's own keys.

    Args:
        spec: the spec.
        axes: its axes.
    """
    found = [
        *_repeat(spec),
        *_varied_keys(axes),
        *_readings(spec),
        *_conditions(spec, axes),
        *_metrics(spec),
        *_search(spec, axes),
    ]
    if not found:
        found = [*_condition_cycles(spec), *_limit(spec, axes)]
    return found


def metrics(evaluators: Iterable[str] = MEASURED) -> list[str]:
    """Return the names of the metrics that a search can maximise, for each of `evaluators`.

    Every metric has three names: without NMS, with NMS, and its gap. Metrics that are better when
    lower are left out.
    """
    found = dict.fromkeys(
        name
        for evaluator in evaluators
        for metric in MEASURED[evaluator]
        if metric not in LOWER_IS_BETTER
        for name in names_of(metric)
    )
    return list(found)


def unmeasured_metrics(spec: Spec, evaluators: Iterable[str]) -> list[Problem]:
    """Return a problem for each metric of the spec that one of `evaluators` doesn't measure."""
    return [
        Problem(path, f"evaluator {evaluator} doesn't measure {metric}; choose another metric")
        for evaluator in sorted(set(evaluators))
        for path, metric in _named_metrics(spec)
        if metric not in metrics([evaluator])
    ]


# --- keys and values ------------------------------------------------------------------------------


def _unknown_part(key: Key, path: SpecPath) -> Iterator[Problem]:
    """Yield a problem at `path` if an experiment can't have `key`."""
    owners: list[type[Options]] = [Experiment]
    for depth, part in enumerate(key):
        if not owners:
            text = f"unknown key; {format_path(key[:depth])} is a single value"
            yield Problem(path, text, True)
        elif part not in keys_of(owners):
            text = unknown_dotted(".".join(key), dotted_keys(Experiment), keys_of(owners))
            yield Problem(path, text, True)
        else:
            owners = models_below(key[: depth + 1], Experiment)
            continue
        return


def _value_problems(key: Key, value: Any) -> list[Problem]:
    """Return why no experiment can have `value` at `key`; empty if one can.

    The paths of the problems start with the last part of the key.
    """
    found = [_field_problems(owner, key[-1], value) for owner in owners_of(key, Experiment)]
    names = entries_with(key, Experiment) if key[-1] == "name" else []
    if not all(found):
        return []
    if names and isinstance(value, str):
        return [Problem((key[-1],), unknown(value, names))]
    return found[0]


def _field_problems(owner: type[Options], key: str, value: Any) -> list[Problem]:
    model = single_field_model(owner, key)
    try:
        model.model_validate({key: value})
    except ValidationError as error:
        return problems_of(error, model)
    return []


# --- varied keys, rows and conditions -------------------------------------------------------------


def _varied_keys(axes: Sequence[Axis]) -> Iterator[Problem]:
    """Yield lists of different lengths, unknown keys, and keys that are varied twice."""
    seen: dict[str, SpecPath] = {}
    for axis in axes:
        lengths = {key: len(values) for key, values in axis.values.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            yield Problem(axis.path, f"lists must have equal lengths: {listed}")
        for key in axis.values:
            for path in axis.key_paths(key):
                yield from _unknown_part(split_key(key), path)
            if key in seen:
                yield Problem((*axis.path, key), f"is already varied in {seen[key][0]}")
            seen.setdefault(key, axis.path)


def _repeat(spec: Spec) -> Iterator[Problem]:
    """Yield a problem if the seed is varied twice; otherwise `repeat` has become `grid.seed`."""
    if spec.repeat is not None and (path := varied_seed(spec.model_dump())) is not None:
        text = f"{format_path(path)} varies the seed, too; remove one of them"
        yield Problem(("repeat",), text)


def _readings(spec: Spec) -> Iterator[Problem]:
    """Yield problems of the `read.` keys of rows."""
    for row, settings in spec.rows.items():
        try:
            if Reading.of(settings).ground_truth:
                yield from _keys_without_trial(row, settings)
        except ValidationError as error:
            for problem in problems_of(error, Reading):
                path = ("rows", row, f"{READ}{problem.path[0]}", *problem.path[1:])
                yield Problem(path, problem.text, problem.of_key)


def _keys_without_trial(row: str, settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the keys of a row of the ground truth that only a trial could have."""
    allowed = ("data", "evaluation", READ.rstrip("."))
    for key in settings:
        if key.split(".")[0] not in allowed or key in (f"{READ}branch", f"{READ}epoch"):
            text = "has no effect on a row of the ground truth, which has no trial; remove it"
            yield Problem(("rows", row, key), text)


def _conditions(spec: Spec, axes: Sequence[Axis]) -> Iterator[Problem]:
    """Yield problems of `when` and `exclude`."""
    varied = [key for axis in axes for key in axis.values]
    for key, condition in spec.when.items():
        if key not in varied:
            near = (similar_keys(key, varied) or [key])[0]
            text = f"not a key of grid, zip, rows or search; {suggest(near, varied)}"
            yield Problem(("when", key), text, True)
        yield from _condition(condition, ("when", key))
    for i, condition in enumerate(spec.exclude):
        yield from _condition(condition, ("exclude", i))


def _condition(condition: Condition, path: SpecPath) -> Iterator[Problem]:
    if not condition:
        yield Problem(path, "must name at least one key")
    for key, wanted in condition.items():
        found = list(_unknown_part(split_key(key), (*path, key)))
        yield from found or _wanted_values(split_key(key), wanted, (*path, key))


def _wanted_values(key: Key, wanted: Any, path: SpecPath) -> Iterator[Problem]:
    """Yield wanted values that `key` can't have: such a condition would silently never hold."""
    if inner := keys_of(models_below(key, Experiment)):
        yield Problem(path, f"must name a single value, such as {format_path((*key, inner[0]))}")
    elif _value_problems(key, wanted):
        for value in wanted if isinstance(wanted, list) else [wanted]:
            problems = _value_problems(key, value)[:1]
            yield from (Problem(path, problem.text) for problem in problems)


def _condition_cycles(spec: Spec) -> Iterator[Problem]:
    try:
        condition_order(spec)
    except CycleError as error:
        keys = " -> ".join(error.args[1])
        yield Problem(("when",), f"conditions depend on each other: {keys}")


def _limit(spec: Spec, axes: Sequence[Axis]) -> Iterator[Problem]:
    """Yield a problem if the spec has more combinations than it allows."""
    if (trials := size(spec, axes)) > spec.max_trials:
        combinations = plural(trials, "combination")
        yield Problem(("max_trials",), f"{combinations}, more than {spec.max_trials}; vary less")


# --- metrics and the search -----------------------------------------------------------------------


def _named_metrics(spec: Spec) -> Iterator[tuple[SpecPath, str]]:
    """Yield the metrics that the spec names, each with its path."""
    if spec.search is not None:
        for i, metric in enumerate(spec.search.objective):
            yield ("search", "objective", i), metric
    if spec.stop is not None:
        yield ("stop", "metric"), spec.stop.metric


def _metrics(spec: Spec) -> Iterator[Problem]:
    """Yield metrics that no evaluator measures."""
    for path, metric in _named_metrics(spec):
        if metric not in metrics():
            yield Problem(path, unknown(metric, metrics(), "metric "))


def _search(spec: Spec, axes: Sequence[Axis]) -> Iterator[Problem]:
    """Yield problems of the search. Unknown keys are skipped: `_varied_keys` reports them."""
    if spec.search is None:
        return
    for key, domain in spec.search.space.items():
        path = ("search", "space", key)
        if any(_unknown_part(split_key(key), path)):
            continue
        if domain.choices is None:
            yield from _range(key, domain, path)
        elif not any(name.startswith(f"{key}.") for axis in axes for name in axis.values):
            yield from _choices(key, domain.choices, path)  # else varied keys may complete them
    if spec.search.adaptive:
        yield from _adaptive(spec, axes)


def _range(key: str, domain: Domain, path: SpecPath) -> Iterator[Problem]:
    """Yield problems of a domain from low to high."""
    number = number_type(key)
    if number is None:
        yield Problem(path, "is not a number; give choices instead of low and high")
        return
    for name in ("low", "high"):
        value = getattr(domain, name)
        whole = number is int and value.is_integer()
        for problem in _value_problems(split_key(key), int(value) if whole else value):
            yield Problem((*path, name), problem.text)
    if number is int and domain.step is not None and not domain.step.is_integer():
        yield Problem((*path, "step"), f"must be an integer, got {domain.step:g}")


def _choices(key: str, choices: Sequence[Any], path: SpecPath) -> Iterator[Problem]:
    """Yield choices that the key can't have, whether or not any sample has them."""
    for i, value in enumerate(choices):
        for problem in _value_problems(split_key(key), value):
            inner = (*path, "choices", i, *problem.path[1:])
            yield Problem(inner, problem.text, problem.of_key)


def _adaptive(spec: Spec, axes: Sequence[Axis]) -> Iterator[Problem]:
    """Yield what a search can't do whose samples depend on earlier results."""
    if find_spec("optuna") is None:
        text = "optuna is not installed here; pip install 'gaplab[optuna]', or use method: random"
        yield Problem(("search", "method"), text)
    searched = {key for axis in axes if axis.drawn for key in axis.values}
    others = [key for axis in axes if not axis.drawn for key in axis.values]
    pairs = [(key, other) for key in spec.when if key in searched for other in others]
    for key, other in pairs:
        if any(may_change(other, read) for read in spec.when[key]):
            text = (
                "with method: optuna, a searched key must exist in all trials of a sample or in "
                f"none, but {other} is varied outside of the search; move it into search.space"
            )
            yield Problem(("when", key), text)
