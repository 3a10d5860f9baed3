"""What can be wrong with a sweep before any trial is looked at."""

from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from detectors.evaluation.metrics import LOWER_IS_BETTER, MEASURED, names_of
from detectors.options import Options
from gaplab.spec.axes import Axis, Key, parts
from gaplab.spec.fields import entries_with, inside, keys_of, owners_of, single
from gaplab.spec.grid import conditional_order, settles, size
from gaplab.spec.models import READ, Condition, Experiment, Reading, Spec
from gaplab.spec.problems import Path, Problem, advice, dotted, explain, unknown, unknown_key
from gaplab.spec.sampling import kind
from gaplab.spec.search import Domain


def check(spec: Spec, axes: Sequence[Axis]) -> list[Problem]:
    """All problems of the sweep's own keys, without looking at any value that is varied."""
    found = [
        *_keys(axes),
        *_readings(spec),
        *_conditions(spec, axes),
        *_metrics(spec),
        *_search(spec, axes),
    ]
    if not found:
        found = [*_order(spec), *_limit(spec, axes)]
    return found


def _keys(axes: Sequence[Axis]) -> Iterator[Problem]:
    seen: dict[str, Path] = {}
    for axis in axes:
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


def _conditions(spec: Spec, axes: Sequence[Axis]) -> Iterator[Problem]:
    varied = [key for axis in axes for key in axis.values]
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


def _limit(spec: Spec, axes: Sequence[Axis]) -> Iterator[Problem]:
    if (trials := size(spec, axes)) > spec.max_trials:
        text = f"the grid has {trials} combinations, more than {spec.max_trials}; vary less"
        yield Problem(("max_trials",), text)


def _metrics(spec: Spec) -> Iterator[Problem]:
    """Yield the metrics that no evaluator measures."""
    for at, metric in named(spec):
        if metric not in metrics():
            yield Problem(at, unknown(metric, metrics(), "metric "))


def _search(spec: Spec, axes: Sequence[Axis]) -> Iterator[Problem]:
    """Yield the problems of a search, except unknown keys: `_keys` reports those."""
    if spec.search is None:
        return
    for key, domain in spec.search.space.items():
        at = ("search", "space", key)
        if any(known(parts(key), at)):
            continue
        if domain.choices is None:
            yield from _range(key, domain, at)
        elif not any(name.startswith(f"{key}.") for axis in axes for name in axis.values):
            yield from _choices(key, domain.choices, at)  # otherwise other keys may complete them
    if spec.search.adaptive:
        yield from _adaptive(spec, axes)


def _range(key: str, domain: Domain, at: Path) -> Iterator[Problem]:
    number = kind(key)
    if number is None:
        yield Problem(at, "takes no numbers from low to high; give choices")
        return
    for name in ("low", "high"):
        value = getattr(domain, name)
        whole = number is int and value.is_integer()
        for problem in unfit(parts(key), int(value) if whole else value):
            yield Problem((*at, name), problem.text)
    if number is int and domain.step is not None and not domain.step.is_integer():
        yield Problem((*at, "step"), f"must be an integer, got {domain.step:g}")


def _choices(key: str, choices: Sequence[Any], at: Path) -> Iterator[Problem]:
    """Yield the problems of choices that the key can't have, drawn or not."""
    for i, value in enumerate(choices):
        for problem in unfit(parts(key), value):
            yield Problem((*at, "choices", i, *problem.path[1:]), problem.text, problem.of_key)


def _adaptive(spec: Spec, axes: Sequence[Axis]) -> Iterator[Problem]:
    """What only a search that learns from its trials can't do."""
    if find_spec("optuna") is None:
        text = "optuna is not installed here; pip install 'gaplab[optuna]', or use method: random"
        yield Problem(("search", "method"), text)
    others = [key for axis in axes if not axis.drawn for key in axis.values]
    for key, condition in spec.when.items():
        for other in others:
            if (
                spec.search
                and key in spec.search.space
                and any(settles(other, c) for c in condition)
            ):
                text = (
                    f"with method: optuna a searched key is there in all trials of a sample or in "
                    f"none, but {other} is varied beside the search; move it into search.space"
                )
                yield Problem(("when", key), text)


def metrics(evaluators: Iterable[str] = MEASURED) -> list[str]:
    """Return the names of the metrics that a search may maximise, for each of `evaluators`.

    Each stands for itself, with NMS, and for its gap. A metric that is better when lower is left
    out.
    """
    found = dict.fromkeys(
        name
        for evaluator in evaluators
        for metric in MEASURED[evaluator]
        if metric not in LOWER_IS_BETTER
        for name in names_of(metric)
    )
    return list(found)


def named(spec: Spec) -> Iterator[tuple[Path, str]]:
    """Where the spec names a metric, and which."""
    if spec.search is not None:
        for i, metric in enumerate(spec.search.objective):
            yield ("search", "objective", i), metric
    if spec.stop is not None:
        yield ("stop", "metric"), spec.stop.metric


def unmeasured(spec: Spec, evaluators: Iterable[str]) -> list[Problem]:
    """Metrics that the spec names and that one of its trials' evaluators doesn't measure."""
    return [
        Problem(at, f"evaluator {evaluator} doesn't measure {metric}; name one that it does")
        for evaluator in sorted(set(evaluators))
        for at, metric in named(spec)
        if metric not in metrics([evaluator])
    ]


def known(key: Key, at: Path) -> Iterator[Problem]:
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


def unfit(key: Key, value: Any) -> list[Problem]:
    """Why no experiment can have `value` at `key`; empty when one can.

    The problems' paths begin with the last part of the key.
    """
    found = [_problems(owner, key[-1], value) for owner in owners_of(key, Experiment)]
    names = entries_with(key, Experiment) if key[-1] == "name" else []
    if not all(found):
        return []
    if names and isinstance(value, str):
        return [Problem((key[-1],), unknown(value, names))]
    return found[0]


def _problems(owner: type[Options], key: str, value: Any) -> list[Problem]:
    model = single(owner, key)
    try:
        model.model_validate({key: value})
    except ValidationError as error:
        return [explain(each, model) for each in error.errors(include_url=False)]
    return []
