"""Rows and groups as JSON and CSV. Metrics are percent points, rounded to 4 decimals."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from gaplab.formatting import cell, rounded
from gaplab.ledger.views import METRICS
from gaplab.results.compare import Group, Stat
from gaplab.results.intervals import METRICS as COMPARED
from gaplab.results.leaderboard import LeaderboardRow

LEADERBOARD_COLUMNS = (
    *("trial", "sweep", "sweep_name", "assignment", "family", "dataset", "seed", "state", "stale"),
    *("epoch", "epochs", "branch", "protocol", *METRICS, "results_version", "truth"),
)
"""Columns of a leaderboard in JSON and CSV, in this order. All other metrics follow: as one object
`metrics` in JSON, as one column per metric in CSV."""
_ABOUT = (
    *("dataset", "protocol", "epochs", "epoch", "results_version", "stale"),
    *("n", "seeds", "unfinished", "over", "to_best_over", "pairs", "truth"),
)
_OF_STAT = (
    *("mean", "std", "low", "high"),
    *("to_best", "to_best_low", "to_best_high", "to_best_p"),
)
COMPARE_COLUMNS = (*_ABOUT, *(f"{metric}_{part}" for metric in COMPARED for part in _OF_STAT))
"""Columns of a comparison in JSON and CSV, after the keys compared by.

`low` and `high` are the limits of the 95 % interval, over what `over` and `to_best_over` name; `p`
is that of the paired t-test over seeds."""


def to_json(rows: Sequence[LeaderboardRow | Group]) -> str:
    """Return a JSON list with one object per row or group."""
    return json.dumps([_plain(row) for row in rows], indent=2, ensure_ascii=False)


def to_csv(
    rows: Sequence[LeaderboardRow | Group], header: Sequence[str] = LEADERBOARD_COLUMNS
) -> str:
    """Return CSV with a header line. None is an empty field.

    Args:
        rows: Rows or groups.
        header: Names of the columns if there are no rows.
    """
    return csv_text([_flat(row) for row in rows], header)


def csv_text(rows: Sequence[dict[str, Any]], header: Sequence[str]) -> str:
    """Return CSV of plain rows.

    There is one column per name that occurs in any row; without rows, one per name in `header`.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(names) or header, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: cell(value) for key, value in row.items()})
    return out.getvalue()


def metric_names(rows: Iterable[LeaderboardRow]) -> set[str]:
    """Return the names of all metrics that rows may have a value for."""
    return {*METRICS, *(name for row in rows for name in row.more)}


def _plain(row: LeaderboardRow | Group) -> dict[str, Any]:
    """Return column names and values, in order."""
    if isinstance(row, LeaderboardRow):
        values = {name: getattr(row, name) for name in LEADERBOARD_COLUMNS}
        values |= {name: rounded(values[name]) for name in METRICS}
        return values | {"metrics": {name: rounded(value) for name, value in row.more.items()}}
    values = row.keys | {name: getattr(row, name) for name in _ABOUT}
    for metric in COMPARED:
        for part, value in zip(_OF_STAT, _parts(row.stats.get(metric)), strict=True):
            values[f"{metric}_{part}"] = rounded(value)
    return values


def _parts(stat: Stat | None) -> tuple[float | None, ...]:
    """Return the values of `_OF_STAT`."""
    none = (None, None)
    if stat is None:
        return none * 4
    own, best = (stat.mean, stat.std, *(stat.interval or none)), stat.to_best
    return (*own, best.mean, *(best.interval or none), best.p) if best else (*own, *none, *none)


def _flat(row: LeaderboardRow | Group) -> dict[str, Any]:
    """Return the same without nesting: all metrics side by side."""
    plain = _plain(row)
    more = plain.pop("metrics") if isinstance(row, LeaderboardRow) else {}
    return plain | more
