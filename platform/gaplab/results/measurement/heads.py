"""Compare two sets of detections of the same images: the head gap, and differences with intervals.

The head gap is AP of a one-to-many head with NMS minus AP of a one-to-one head without. It is not
the NMS gap, which compares the same detections without NMS and with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detectors.evaluation.bootstrap import interval
from detectors.evaluation.operating import duplicates_replicates
from gaplab.results.intervals import Interval
from gaplab.results.measurement.measure import Measured, as_list

Floats = NDArray[np.float64]
_Name = Literal["ap", "ap_nms", "gap"]
_NAMES: tuple[_Name, ...] = ("ap", "ap_nms", "gap")


@dataclass(frozen=True)
class Paired:
    """A difference, with its 95 % interval over images; None if there is none."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Heads:
    """Two inputs on the same images under one protocol.

    Attributes:
        head_gap: AP of the first with NMS minus AP of the second without.
        gaps: the NMS gap of the first and that of the second.
        differences: differences of AP, AP with NMS, the NMS gap, and the duplicates per object
            without NMS at the lowest threshold; first minus second.
    """

    head_gap: Paired
    gaps: tuple[Paired, Paired]
    differences: Mapping[str, Paired]


def compare_heads(first: Measured, second: Measured) -> Heads:
    """Compare two inputs: first a one-to-many head, then a one-to-one head.

    Raises:
        ValueError: the two were measured on other annotations or under another protocol.
    """
    if (first.input.truth, first.protocol) != (second.input.truth, second.protocol):
        raise ValueError("the two were measured on other annotations or under another protocol")
    differences: dict[str, Paired] = {
        name: _difference(first, name, second, name) for name in _NAMES
    }
    a, b = (each.summary.without.points[0].duplicates for each in (first, second))
    duplicates = _paired(a, b, _duplicates(first), _duplicates(second))
    head_gap = _difference(first, "ap_nms", second, "ap")
    gaps = (Paired(first.gap, first.gap_interval), Paired(second.gap, second.gap_interval))
    return Heads(head_gap, gaps, differences | {"duplicates": duplicates})


def plain_heads(heads: Heads) -> dict[str, Any]:
    """Return a comparison as plain JSON."""
    pairs = {"head_gap": heads.head_gap}
    pairs |= {f"{name}_difference": each for name, each in heads.differences.items()}
    values = {name: each.value for name, each in pairs.items()}
    return values | {f"{name}_interval": as_list(each.interval) for name, each in pairs.items()}


def _difference(first: Measured, mine: _Name, second: Measured, theirs: _Name) -> Paired:
    """Return a metric of the first minus one of the second."""
    return _paired(
        first.summary.gap.metrics[mine],
        second.summary.gap.metrics[theirs],
        None if first.replicates is None else getattr(first.replicates, mine),
        None if second.replicates is None else getattr(second.replicates, theirs),
    )


def _duplicates(measured: Measured) -> Floats | None:
    """Return the duplicates on the resamples of the images."""
    if measured.replicates is None:
        return None
    threshold = measured.summary.without.points[0].threshold
    return duplicates_replicates(measured.summary.judged[0], threshold, len(measured.replicates.ap))


def _paired(
    mine: float | None, theirs: float | None, resampled: Floats | None, others: Floats | None
) -> Paired:
    value = None if mine is None or theirs is None else mine - theirs
    if value is None or resampled is None or others is None:
        return Paired(value, None)
    return Paired(value, Interval(*interval(resampled - others, around=value)))
