"""Rows and groups as JSON, CSV and terminal tables. No numbers are made here.

In JSON and CSV metrics are percent points rounded to 4 decimals; in tables to 1.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from gaplab.compare import METRICS, Group, Metric
from gaplab.leaderboard import LeaderboardRow
from gaplab.text import points, signed

_NUMBERS = ("ap", "ap_nms", "gap", "ap50", "ap50_nms", "ap75", "ap75_nms", "ar", "ar_nms", "ar_gap")
LEADERBOARD_COLUMNS = (
    *("trial", "sweep", "sweep_name", "assignment", "family", "dataset", "seed", "state", "stale"),
    *("epoch", "epochs", "branch", "protocol", *_NUMBERS, "results_version"),
)
"""Columns of a leaderboard in JSON and CSV, in this order."""
_ABOUT = (
    *("dataset", "protocol", "epochs", "epoch", "results_version", "stale"),
    *("n", "seeds", "unfinished"),
)
_RIGHT = {"seed", "epoch", "n", "AP", "AP\nNMS", "gap", "AR", "AP to\nbest", "left\nout"}
_Columns = dict[str, list[Any]]


def to_json(rows: Sequence[LeaderboardRow | Group]) -> str:
    """A JSON list with one object for each row or group."""
    return json.dumps([_plain(row) for row in rows], indent=2, ensure_ascii=False)


def to_csv(
    rows: Sequence[LeaderboardRow | Group], header: Sequence[str] = LEADERBOARD_COLUMNS
) -> str:
    """CSV with a header line; `header` is it when there are no rows. Nothing is an empty field."""
    plain = [_plain(row) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(plain[0]) if plain else header, lineterminator="\n")
    writer.writeheader()
    for row in plain:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return out.getvalue()


def leaderboard_table(rows: Sequence[LeaderboardRow]) -> Table:
    """One line for each trial, in the order given. `note`: what is unfinished or stale."""
    columns: _Columns = {
        "trial": [row.trial[:8] for row in rows],
        "assignment": [row.assignment for row in rows],
        "dataset": [row.dataset for row in rows],
        "protocol": [row.protocol for row in rows],
        "seed": [row.seed for row in rows],
        "epoch": [f"{row.epoch}/{row.epochs}" for row in rows],
        "AP": [points(row.ap) for row in rows],
        "AP\nNMS": [points(row.ap_nms) for row in rows],
        "gap": [signed(row.gap) for row in rows],
        "AR": [points(row.ar) for row in rows],
        "note": [_note(row) for row in rows],
    }
    return _table(columns, "AP, AR, gap: percent points")


def compare_table(groups: Sequence[Group]) -> Table:
    """One line for each group, in the order given; `to best` is the distance in mean AP."""
    keys = groups[0].keys if groups else {}
    columns: _Columns = {key: [_cell(group.keys[key]) for group in groups] for key in keys}
    columns |= {
        "dataset": [group.dataset for group in groups],
        "protocol": [group.protocol for group in groups],
        "epoch": [_epoch(group) for group in groups],
        "n": [group.n for group in groups],
        "AP": [_spread(group, "ap") for group in groups],
        "AP\nNMS": [_spread(group, "ap_nms") for group in groups],
        "gap": [_spread(group, "gap") for group in groups],
        "AR": [_spread(group, "ar") for group in groups],
        "AP to\nbest": [signed(g.stats["ap"].to_best if g.stats else None) for g in groups],
        "left\nout": [group.unfinished or "" for group in groups],
        "note": ["stale" if group.stale else "" for group in groups],
    }
    unit = "mean±standard deviation, percent points; left out: unfinished trials"
    return _table(columns, unit)


def _table(columns: _Columns, unit: str) -> Table:
    """Numbers right, text left. What all lines share goes below, empty columns go away."""
    facts = [unit] if columns["dataset"] else ["nothing yet"]
    for name, label in (("protocol", "protocol"), ("dataset", "data set")):
        if len(values := set(columns[name])) == 1:
            facts.append(f"{label} {values.pop()}")
            columns = {other: cells for other, cells in columns.items() if other != name}
    shown = {n: cells for n, cells in columns.items() if not cells or any(c != "" for c in cells)}
    caption = Text("; ".join(facts))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    for name in shown:
        number = name in _RIGHT
        table.add_column(
            Text(name.replace(".", ".\n")),
            justify="right" if number else "left",
            no_wrap=number or name in ("trial", "note"),
            overflow="fold",
        )
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def _epoch(group: Group) -> str:
    return "-" if group.epoch is None else f"{group.epoch}/{group.epochs}"


def _spread(group: Group, metric: Metric) -> str:
    """Mean and standard deviation, or a dash."""
    if metric not in group.stats:
        return "-"
    stat = group.stats[metric]
    mean = signed(stat.mean) if metric == "gap" else points(stat.mean)
    return mean if stat.std is None else f"{mean}±{stat.std:.1f}"


def _note(row: LeaderboardRow) -> str:
    marks = [row.state] if row.state != "succeeded" else []
    return ", ".join([*marks, *(["stale"] if row.stale else [])])


def _plain(row: LeaderboardRow | Group) -> dict[str, Any]:
    """Column names and values in their order."""
    if isinstance(row, LeaderboardRow):
        values = {name: getattr(row, name) for name in LEADERBOARD_COLUMNS}
        return values | {name: _rounded(values[name]) for name in _NUMBERS}
    about = {name: getattr(row, name) for name in _ABOUT}
    stats: dict[str, float | None] = {}
    for metric in METRICS:
        stat = row.stats.get(metric)
        for part in ("mean", "std", "to_best"):
            stats[f"{metric}_{part}"] = None if stat is None else _rounded(getattr(stat, part))
    return {**row.keys, **about, **stats}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4) + 0.0  # + 0.0 turns -0.0 into 0.0


def _cell(value: Any) -> Any:
    """A value as a CSV field: what isn't text or a number is JSON, None an empty field."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
