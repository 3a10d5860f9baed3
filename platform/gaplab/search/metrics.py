"""The metrics that a search may make large, and that a stopping rule may compare."""

from collections.abc import Iterable, Iterator

from gaplab.problems import Path, Problem
from gaplab.spec import Spec

_SIZES = ("small", "medium", "large")
MEASURED = {
    "coco": (
        *("ap", "ap50", "ap75", *(f"ap_{size}" for size in _SIZES)),
        *("ar1", "ar10", "ar", *(f"ar_{size}" for size in _SIZES)),
    ),
    "crowd": ("ap", "recall"),
}
"""What each evaluator measures and is better when larger: all but the miss rate."""


def metrics(evaluators: Iterable[str] = MEASURED) -> list[str]:
    """The names that an evaluation of each of `evaluators` has: a metric, with NMS, its gap."""
    found = dict.fromkeys(
        name
        for evaluator in evaluators
        for metric in MEASURED[evaluator]
        for name in (metric, f"{metric}_nms", "gap" if metric == "ap" else f"{metric}_gap")
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
