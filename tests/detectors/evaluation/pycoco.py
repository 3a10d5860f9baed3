"""Compare metrics with those of pycocotools."""

from typing import Any

from detectors.evaluation.metrics import Metrics
from detectors.evaluation.oracle import (
    best_of_each_class,
    dataset,
    evaluated,
    results_of,
)
from detectors.evaluation.oracle import oracle_metrics as metrics_of

__all__ = [
    "best_of_each_class",
    "dataset",
    "differences",
    "evaluated",
    "metrics_of",
    "results_of",
    "same",
]


def differences(found: Metrics, expected: Metrics) -> dict[str, Any]:
    """Return the values of two Metrics that differ by more than 1e-9."""
    ours, theirs = (
        {**each.values, **{f"class {k}": ap for k, ap in enumerate(each.per_class)}}
        for each in (found, expected)
    )
    assert ours.keys() == theirs.keys()
    pairs = {name: (ours[name], theirs[name]) for name in ours}
    return {name: pair for name, pair in pairs.items() if not same(*pair)}


def same(a: float | None, b: float | None) -> bool:
    return a == b if a is None or b is None else abs(a - b) <= 1e-9
