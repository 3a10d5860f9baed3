"""What can be wrong with the sections `search` and `stop`, apart from their own form."""

from collections.abc import Iterator
from importlib.util import find_spec

from gaplab.axes import axes, parts
from gaplab.grid import settles
from gaplab.keys import known, unfit
from gaplab.problems import Path, Problem, unknown
from gaplab.search.dimensions import kind
from gaplab.search.metrics import metrics, named
from gaplab.search.options import Domain
from gaplab.spec import Spec


def search_problems(spec: Spec) -> Iterator[Problem]:
    """All of them; keys that no experiment has are left to the checks of varied keys."""
    for at, metric in named(spec):
        if metric not in metrics():
            yield Problem(at, unknown(metric, metrics(), "metric "))
    if spec.search is None:
        return
    for key, domain in spec.search.space.items():
        at = ("search", "space", key)
        if any(known(parts(key), at)):
            continue
        yield from _range(key, domain, at) if domain.choices is None else _choices(spec, key, at)
    if spec.search.adaptive:
        yield from _adaptive(spec)


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


def _choices(spec: Spec, key: str, at: Path) -> Iterator[Problem]:
    """Choices that the key can't have, drawn or not; what is varied below it may complete them."""
    if any(name.startswith(f"{key}.") for axis in axes(spec) for name in axis.values):
        return
    assert spec.search is not None
    for i, value in enumerate(spec.search.space[key].choices or ()):
        for problem in unfit(parts(key), value):
            yield Problem((*at, "choices", i, *problem.path[1:]), problem.text, problem.of_key)


def _adaptive(spec: Spec) -> Iterator[Problem]:
    """What only a search that learns from its trials can't do."""
    if find_spec("optuna") is None:
        text = "optuna is not installed here; pip install 'gaplab[optuna]', or use method: random"
        yield Problem(("search", "method"), text)
    others = [key for axis in axes(spec) if not axis.drawn for key in axis.values]
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
