"""Rows and groups as plain JSON. Metrics are percent points, in full precision."""

from collections.abc import Iterable
from typing import Any

from gaplab.ledger.views import METRICS
from gaplab.results.compare import Group, Stat
from gaplab.results.intervals import METRICS as COMPARED
from gaplab.results.leaderboard import LeaderboardRow

LEADERBOARD_COLUMNS = (
    *("trial", "sweep", "sweep_name", "assignment", "family", "dataset", "seed", "state", "stale"),
    *("epoch", "epochs", "branch", "protocol", *METRICS, "results_version", "truth"),
)
"""Columns of a leaderboard, in this order. All other metrics follow: as one object `metrics` in
JSON, as one column per metric in CSV and Parquet."""
_ABOUT = (
    *("dataset", "protocol", "epochs", "epoch", "results_version", "stale"),
    *("n", "seeds", "unfinished", "over", "to_best_over", "pairs", "truth"),
)
_OF_STAT = (
    *("mean", "std", "low", "high"),
    *("to_best", "to_best_low", "to_best_high", "to_best_p"),
)
COMPARE_COLUMNS = (*_ABOUT, *(f"{metric}_{part}" for metric in COMPARED for part in _OF_STAT))
"""Columns of a comparison, after the keys compared by.

`low` and `high` are the limits of the 95 % interval, over what `over` and `to_best_over` name; `p`
is that of the paired t-test over seeds."""


def metric_names(rows: Iterable[LeaderboardRow]) -> set[str]:
    """Return the names of all metrics that rows may have a value for."""
    return {*METRICS, *(name for row in rows for name in row.more)}


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


def _parts(stat: Stat | None) -> tuple[float | None, ...]:
    """Return the values of `_OF_STAT`."""
    none = (None, None)
    if stat is None:
        return none * 4
    own, best = (stat.mean, stat.std, *(stat.interval or none)), stat.to_best
    return (*own, best.mean, *(best.interval or none), best.p) if best else (*own, *none, *none)
