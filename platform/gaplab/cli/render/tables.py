"""Rows and groups as terminal tables. No numbers are made here; metrics have one decimal."""

from collections.abc import Collection, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from detectors.evaluation.metrics import label
from gaplab.formatting import cell, points, signed
from gaplab.ledger.views import METRICS as NUMBERS
from gaplab.results.compare import Group, Stat
from gaplab.results.intervals import Interval, Metric
from gaplab.results.leaderboard import LeaderboardRow
from gaplab.states import TrialState

_LABELS = {
    name: label(name).replace(" ", "\n") for name in ("ap", "ap_nms", "gap", "ar", "mmr", "recall")
}
"""Metrics that a leaderboard shows where trials have them, with the headings of their columns."""
_NARROW = ("trial", "note", "over")
"""Columns of words that never wrap."""
_FOLDED = 12
"""Characters in a line of words that may be folded."""
_Columns = dict[str, list[Any]]


def leaderboard_table(rows: Sequence[LeaderboardRow], metrics: Sequence[str] = ()) -> Table:
    """One line for each trial, in the order given; `metrics` are shown as well.

    `note`: what is unfinished or stale.
    """
    columns: _Columns = {
        "trial": [row.trial[:8] for row in rows],
        "assignment": [row.assignment for row in rows],
        "dataset": [row.dataset for row in rows],
        "protocol": [row.protocol for row in rows],
        "seed": [row.seed for row in rows],
        "epoch": [f"{row.epoch}/{row.epochs}" for row in rows],
    }
    labels = _LABELS | {name: name for name in metrics if name not in _LABELS}
    columns |= {label: _numbers(rows, name) for name, label in labels.items()}
    columns["note"] = [_note(row) for row in rows]
    return _table(columns, "AP, AR, gap: percent points", {"seed", "epoch", *labels.values()})


def compare_table(groups: Sequence[Group], metric: Metric = "ap", width: int = 100) -> Table:
    """One line for each group, in the order given, with intervals of gaps and of `to best`.

    `to best` is the difference in `metric`, by which the best group was chosen. Where a line would
    be wider than `width`, spreads and intervals stand below their numbers.
    """
    keys = groups[0].keys if groups else {}
    columns: _Columns = {key: [cell(group.keys[key]) for group in groups] for key in keys}
    to_best = _LABELS[metric].replace("\n", " ") + "\nto best"
    numbers: _Columns = {
        "epoch": [_epoch(group) for group in groups],
        "n": [group.n for group in groups],
        "AP": [_spread(group.stats.get("ap")) for group in groups],
        "AP\nNMS": [_spread(group.stats.get("ap_nms")) for group in groups],
        "gap": [_gap(group.stats.get("gap")) for group in groups],
        "AR": _or_nothing([_spread(group.stats.get("ar")) for group in groups]),
        to_best: [_to_best(group.stats.get(metric)) for group in groups],
        "left\nout": [group.unfinished or "" for group in groups],
    }
    columns |= {
        "dataset": [group.dataset for group in groups],
        "protocol": [group.protocol for group in groups],
        **numbers,
        "over": [_over(group) for group in groups],
        "note": ["stale" if group.stale else "" for group in groups],
    }
    return _table(columns, _legend(groups), numbers, width)


def _legend(groups: Sequence[Group]) -> str:
    """What the cells of a comparison mean, as far as they are there."""
    parts = ["mean±standard deviation, percent points"]
    if any(_over(group) for group in groups):
        parts.append("[95 % interval], * if it excludes 0")
    if any(group.unfinished for group in groups):
        parts.append("left out: unfinished trials")
    return "; ".join(parts)


def _table(
    columns: _Columns, unit: str, numbers: Collection[str], width: int | None = None
) -> Table:
    """Numbers right, text left. What all lines share goes below, empty columns go away."""
    facts = [unit] if columns["dataset"] else ["nothing yet"]
    shared = {"over": "intervals over", "protocol": "protocol", "dataset": "data set"}
    for name, what in shared.items():
        if len(values := set(columns.get(name, ())) - {""}) == 1:
            facts.append(f"{what} {values.pop()}")
            columns = {other: cells for other, cells in columns.items() if other != name}
    shown = {n: cells for n, cells in columns.items() if not cells or any(c != "" for c in cells)}
    between = 1
    if width is not None:
        shown = _fitted(shown, numbers, width)
        between = int(_needed(shown, numbers) <= width)
    caption = Text("; ".join(facts))
    table = Table(
        box=SIMPLE_HEAD, padding=(0, between, 0, 0), caption=caption, caption_justify="left"
    )
    for name in shown:
        number = name in numbers
        table.add_column(
            Text(name.replace(".", ".\n")),
            justify="right" if number else "left",
            no_wrap=number or name in _NARROW,
            overflow="fold",
        )
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def _fitted(columns: _Columns, numbers: Collection[str], width: int) -> _Columns:
    """The columns with intervals, then also spreads, on lines of their own if need be."""
    for mark in (" [", "±"):
        if _needed(columns, numbers) > width:
            below = "\n" + mark.strip()
            stacked = {n: [str(c).replace(mark, below) for c in columns[n]] for n in columns}
            columns = {n: stacked[n] if n in numbers else columns[n] for n in columns}
    return columns


def _needed(columns: _Columns, numbers: Collection[str]) -> int:
    """How wide a table of these columns is if long words are folded."""
    total = 1
    for name, cells in columns.items():
        longest = max(len(line) for each in (name, *cells) for line in str(each).split("\n"))
        total += 2 + (longest if name in numbers else min(longest, _FOLDED))
    return total


def _epoch(group: Group) -> str:
    return "-" if group.epoch is None else f"{group.epoch}/{group.epochs}"


def _numbers(rows: Sequence[LeaderboardRow], metric: str) -> list[str]:
    """A column of one metric."""
    form = signed if metric.split("_")[-1] == "gap" else points
    values = [getattr(r, metric) if metric in NUMBERS else r.more.get(metric) for r in rows]
    return _or_nothing([form(value) for value in values])


def _or_nothing(cells: list[str]) -> list[str]:
    """The column; empty if it is nothing but dashes."""
    return cells if set(cells) != {"-"} else [""] * len(cells)


def _spread(stat: Stat | None) -> str:
    """Mean and standard deviation, or a dash."""
    if stat is None:
        return "-"
    return points(stat.mean) if stat.std is None else f"{stat.mean:.1f}±{stat.std:.1f}"


def _gap(stat: Stat | None) -> str:
    """Mean with its interval."""
    return "-" if stat is None else _difference(stat.mean, stat.interval)


def _to_best(stat: Stat | None) -> str:
    best = stat and stat.to_best
    return _difference(best.mean, best.interval) if best else "-"


def _difference(value: float, interval: Interval | None) -> str:
    """`-1.2 [-2.0, -0.4]*`, where the star says that it is real."""
    if interval is None:
        return signed(value)
    star = "*" if interval.excludes_zero else " "
    low, high = (_end(end, interval.excludes_zero) for end in interval)
    return f"{signed(value)} [{low}, {high}]{star}"


def _end(value: float, excludes_zero: bool) -> str:
    """An end of an interval; with more decimals where it would round to a zero that isn't in it."""
    return f"{value:+.1g}" if excludes_zero and abs(value) < 0.05 else signed(value)


def _over(group: Group) -> str:
    """What the intervals are over: of the gap, and of `to best` if that differs."""
    over = [each for each in (group.over, group.to_best_over) if each]
    return ", ".join(dict.fromkeys(over))


def _note(row: LeaderboardRow) -> str:
    marks = [row.state] if row.state != TrialState.SUCCEEDED else []
    return ", ".join([*marks, *(["stale"] if row.stale else [])])
