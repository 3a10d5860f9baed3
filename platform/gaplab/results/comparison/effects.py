"""How large differences are, in words, and which keys of a grid explain the spread of a metric."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean
from typing import Any

from detectors.evaluation.metrics import label
from gaplab.formatting import points
from gaplab.results.comparison.compare import Group
from gaplab.results.comparison.keys import in_order
from gaplab.results.intervals import Metric
from gaplab.results.verdicts import LEVEL
from gaplab.spec.varied import short_names

EXPLAINED: tuple[Metric, ...] = ("ap", "gap")
"""The metrics whose spread is explained."""
INTERACTIONS, WITHIN = "interactions", "within groups"


def is_real(group: Group, metric: Metric) -> bool:
    """Return whether the difference to the baseline is significant after the correction."""
    found = group.stats[metric].to_baseline if metric in group.stats else None
    return found is not None and found.corrected is not None and found.corrected <= LEVEL


def in_words(group: Group, metric: Metric) -> str:
    """Return the difference of a group to its baseline in words, such as `better by 1.2 AP`."""
    if metric not in group.stats:
        return ""
    found = group.stats[metric].to_baseline
    if found is None:
        return "no counterpart"
    if group.baseline == group.keys:
        return "baseline"
    if found.corrected is None:
        return "one seed" if group.pairs == 1 else "same each seed" if group.pairs else "not paired"
    if not is_real(group, metric):
        return "no difference shown"
    size = f"{abs(found.mean):.1f}" if abs(found.mean) >= 0.05 else f"{abs(found.mean):.1g}"
    if metric == "gap":
        return f"gap {'higher' if found.mean > 0 else 'lower'} by {size}"
    return f"{'better' if found.mean > 0 else 'worse'} by {size} {label(metric)}"


@dataclass(frozen=True)
class Effect:
    """The main effect of a key: what the trials with each of its values have on average.

    Attributes:
        key: a key that trials are grouped by; `interactions` for what the keys explain only
            together, and `within groups` for the spread of trials that are equal in all keys.
        levels: its values, numbers by size.
        means: the mean over the trials with each value, in percent points, by metric.
        share: share of the sum of squares around the mean of all trials, in percent, by metric;
            None if all trials are equal.
    """

    key: str
    levels: tuple[Any, ...]
    means: Mapping[Metric, tuple[float, ...]]
    share: Mapping[Metric, float | None]


@dataclass(frozen=True)
class Grid:
    """Comparable trials and the effects of their keys.

    Attributes:
        groups: groups of the trials, which have the same data set, protocol and schedule.
        effects: one per key with several values, and what is left.
        combinations: number of combinations of the values.
        measured: number of those that have finished trials.
        balanced: whether all combinations have equally many. Otherwise the shares of the keys
            overlap, and there is no share for interactions.
    """

    groups: tuple[Group, ...]
    effects: tuple[Effect, ...]
    combinations: int
    measured: int
    balanced: bool


def main_effects(groups: Sequence[Group]) -> list[Grid]:
    """Return the main effects of the keys, one grid per set of comparable groups.

    Args:
        groups: what `compare` returns. Those without finished trials are left out.
    """
    cells: dict[tuple[Any, ...], list[Group]] = defaultdict(list)
    for group in groups:
        if group.n:
            measured = (group.dataset, group.protocol, group.truth, -group.results_version)
            cells[(*measured, group.epochs, str(group.epoch))].append(group)
    return [_grid(members) for _, members in sorted(cells.items())]


def _grid(groups: list[Group]) -> Grid:
    levels = {key: _levels(groups, key) for key in groups[0].keys}
    varied = {key: found for key, found in levels.items() if len(found) > 1}
    combinations = prod(map(len, varied.values()))
    balanced = len(groups) == combinations and len({group.n for group in groups}) == 1
    effects = [_effect(groups, key, found) for key, found in varied.items()]
    within = _shares({m: sum(_squares(_of(g, m)) for g in groups) for m in EXPLAINED}, groups)
    rest = {
        m: None if share is None else 100 - share - sum(e.share[m] or 0.0 for e in effects)
        for m, share in within.items()
    }
    left = [Effect(INTERACTIONS, (), {}, rest)] if balanced and len(varied) > 1 else []
    left += [Effect(WITHIN, (), {}, within)] if any(group.n > 1 for group in groups) else []
    return Grid(tuple(groups), (*effects, *left), combinations, len(groups), balanced)


def _levels(groups: Sequence[Group], key: str) -> list[Any]:
    found = {json.dumps(group.keys[key]): group.keys[key] for group in groups}
    return sorted(found.values(), key=in_order)


def _effect(groups: Sequence[Group], key: str, levels: Sequence[Any]) -> Effect:
    means, between = {}, {}
    for metric in EXPLAINED:
        by_level: dict[str, list[float]] = {json.dumps(level): [] for level in levels}
        for group in groups:
            by_level[json.dumps(group.keys[key])] += _of(group, metric)
        grand = fmean(value for values in by_level.values() for value in values)
        means[metric] = tuple(fmean(values) for values in by_level.values())
        between[metric] = sum(len(v) * (fmean(v) - grand) ** 2 for v in by_level.values())
    return Effect(key, tuple(levels), means, _shares(between, groups))


def _shares(squares: Mapping[Metric, float], groups: Sequence[Group]) -> dict[Metric, float | None]:
    """Return sums of squares as shares of the total, in percent."""
    found: dict[Metric, float | None] = {}
    for metric, value in squares.items():
        total = _squares([each for group in groups for each in _of(group, metric)])
        found[metric] = 100 * value / total if total > 1e-12 else None
    return found


def _squares(values: Sequence[float]) -> float:
    """Return the sum of squares around the mean."""
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values)


def _of(group: Group, metric: Metric) -> list[float]:
    return [getattr(row, metric) for row in group.trials]


def explanation(grid: Grid) -> str:
    """Return which key explains most, and what is missing for a complete grid."""
    names = short_names(each.key for each in grid.effects if each.levels)
    most: dict[str, list[str]] = {}
    for metric in EXPLAINED:
        shares = [(e.share[metric] or 0.0, names[e.key]) for e in grid.effects if e.levels]
        if shares and max(shares)[0] > 0:
            share, key = max(shares)
            most.setdefault(key, []).append(f"{points(share)} % of {label(metric)}")
    parts = [f"{k} explains most of the spread: {' and '.join(each)}" for k, each in most.items()]
    if grid.measured < grid.combinations:
        parts.append(
            f"incomplete grid: {grid.measured} of {grid.combinations} combinations have finished "
            "trials, so the shares of keys overlap"
        )
    elif not grid.balanced:
        parts.append("combinations have different numbers of trials, so the shares of keys overlap")
    if parts and all(group.n == 1 for group in grid.groups):
        parts.append("one trial per combination: shares contain the spread over seeds")
    return "; ".join(parts)
