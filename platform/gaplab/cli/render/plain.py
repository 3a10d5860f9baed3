"""Rows and groups as plain JSON. Metrics are percent points, in full precision."""

from collections.abc import Iterator, Sequence
from typing import Any

from gaplab.ledger.grouping import GROUPED
from gaplab.ledger.views import METRICS, GroupView
from gaplab.results.comparison.compare import Group, Stat, stat_of
from gaplab.results.comparison.effects import EXPLAINED, Grid
from gaplab.results.comparison.leaderboard import LeaderboardRow
from gaplab.results.intervals import METRICS as COMPARED

LEADERBOARD_COLUMNS = (
    *("trial", "sweep", "sweep_name", "assignment", "family", "dataset", "seed", "state", "stale"),
    *("epoch", "epochs", "branch", "protocol", *METRICS, "results_version", "truth"),
)
"""Columns of a leaderboard, in this order. All other metrics follow: as one object `metrics` in
JSON, as one column per metric in CSV and Parquet."""
_ABOUT = (
    *("dataset", "protocol", "epochs", "epoch", "results_version", "stale"),
    *("n", "seeds", "unfinished", "over", "to_baseline_over", "pairs", "truth"),
    "baseline",
)
_OF_STAT = (
    *("mean", "std", "low", "high"),
    *("to_baseline", "to_baseline_low", "to_baseline_high", "to_baseline_p", "to_baseline_p_holm"),
)
COMPARE_COLUMNS = (*_ABOUT, *(f"{metric}_{part}" for metric in COMPARED for part in _OF_STAT))
"""Columns of a comparison, after the keys compared by.

`low` and `high` are the limits of the 95 % interval, over what `over` and `to_baseline_over` name;
`p` is that of the paired t-test over seeds, and `p_holm` the same corrected for all differences in
this metric by Holm's method."""


GROUP_COLUMNS = (
    *("dataset", "protocol", "epochs", "results_version", "trials", "seeds", "unfinished"),
    *(f"{metric}_{part}" for metric in GROUPED for part in ("mean", "std")),
)
"""Columns of groups of a leaderboard, after the keys grouped by."""


def plain_group(group: GroupView, protocol: str) -> dict[str, Any]:
    """Return the names and values of a group of a leaderboard, in order."""
    values = {"protocol": protocol, **group.keys, **vars(group)}
    for metric in GROUPED:
        mean, std = group.stats.get(metric, (None, None))
        values |= {f"{metric}_mean": mean, f"{metric}_std": std}
    names = dict.fromkeys((*group.keys, *GROUP_COLUMNS))
    return {name: values[name] for name in names}


def plain(row: LeaderboardRow | Group) -> dict[str, Any]:
    """Return column names and values, in order. Metrics without a column are under `metrics`."""
    if isinstance(row, LeaderboardRow):
        values = {name: getattr(row, name) for name in LEADERBOARD_COLUMNS}
        return values | {"metrics": dict(row.more)}
    values = row.keys | {name: getattr(row, name) for name in _ABOUT}
    for metric in COMPARED:
        for part, value in zip(_OF_STAT, _parts(row.stats.get(metric)), strict=True):
            values[f"{metric}_{part}"] = value
    return values


def plain_further(group: Group, names: Sequence[str]) -> dict[str, float | None]:
    """Return mean, deviation and the 95 % interval over seeds of further metrics or columns."""
    found: dict[str, float | None] = {}
    for name in (each for each in names if each not in COMPARED):
        parts = _parts(stat_of(group, name))
        own = dict(zip(_OF_STAT, parts, strict=True))
        found |= {f"{name}_{part}": own[part] for part in _OF_STAT[:4]}
    return found


def effects_of(grid: Grid) -> Iterator[dict[str, Any]]:
    """Yield the main effects of a grid as plain rows, with shares in percent."""
    first = grid.groups[0]
    about = {name: getattr(first, name) for name in ("dataset", "protocol", "truth", "epochs")}
    for effect in grid.effects:
        values: dict[str, Any] = {**about, "key": effect.key, "levels": list(effect.levels)}
        for metric in EXPLAINED:
            values[f"{metric}_share"] = effect.share[metric]
            values[f"{metric}_means"] = list(effect.means.get(metric, ()))
        counts = {n: getattr(grid, n) for n in ("combinations", "measured", "balanced")}
        yield values | counts


def _parts(stat: Stat | None) -> tuple[float | None, ...]:
    """Return the values of `_OF_STAT`."""
    none = (None, None)
    if stat is None:
        return (None,) * len(_OF_STAT)
    own, found = (stat.mean, stat.std, *(stat.interval or none)), stat.to_baseline
    if found is None:
        return (*own, *none, *none, None)
    return (*own, found.mean, *(found.interval or none), found.p, found.corrected)
