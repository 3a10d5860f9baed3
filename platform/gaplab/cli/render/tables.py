"""A leaderboard and a comparison as terminal tables. Metrics have one decimal."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from detectors.evaluation.metrics import label
from gaplab.cli.render.tabular import REMEDY_WITH_CSV, Column, PlainTable, number, text
from gaplab.formatting import cell, points, signed
from gaplab.ledger.views import METRICS as STORED
from gaplab.results.compare import Group, Stat
from gaplab.results.intervals import Interval, Metric
from gaplab.results.leaderboard import LeaderboardRow
from gaplab.states import TrialState

_LABELS = {
    name: label(name).replace(" ", "\n") for name in ("ap", "ap_nms", "gap", "ar", "mmr", "recall")
}
"""Metrics that a leaderboard shows if trials have them, with the headings of their columns."""
_ESSENTIAL = ("ap", "ap_nms", "gap")
"""Metrics that a narrow leaderboard leaves out last."""


def leaderboard_table(rows: Sequence[LeaderboardRow], metrics: Sequence[str] = ()) -> PlainTable:
    """Return a table with one line per trial or measurement, in the order given.

    Args:
        rows: The rows.
        metrics: Names of further metrics to show.
    """
    labels = _LABELS | {name: name for name in metrics if name not in _LABELS}
    columns = [
        text("trial", [row.trial[:8] for row in rows], wrap=False),
        text("assignment", [row.assignment for row in rows], rank=0),
        text("dataset", [row.dataset for row in rows]),
        text("protocol", [row.protocol for row in rows]),
        text("truth", [row.truth for row in rows]),
        number("seed", [str(row.seed) if row.epochs else "" for row in rows], rank=2),
        number(
            "epoch", [f"{row.epoch}/{row.epochs}" if row.epochs else "" for row in rows], rank=2
        ),
        *(
            number(heading, _metric(rows, name), rank=_rank(name, metrics))
            for name, heading in labels.items()
        ),
        text("note", [_note(row) for row in rows], rank=0),
    ]
    shared = {"protocol": "protocol", "truth": "ground truth", "dataset": "data set"}
    return _captioned(columns, shared, "AP, AR, gap: percent points")


def compare_table(groups: Sequence[Group], metric: Metric = "ap") -> PlainTable:
    """Return a table with one line per group, in the order given.

    Args:
        groups: The groups, compared by the same keys.
        metric: The metric by which the best group was chosen; `to best` is the difference in it.
    """
    keys = list(groups[0].keys) if groups else []
    to_best = _LABELS[metric].replace("\n", " ") + "\nto best"
    columns = [
        *(_key(key, [group.keys[key] for group in groups]) for key in keys),
        text("dataset", [group.dataset for group in groups]),
        text("protocol", [group.protocol for group in groups]),
        text("truth", [group.truth for group in groups]),
        number("epoch", [_epoch(group) for group in groups], rank=2),
        number("n", [str(group.n) for group in groups]),
        _stackable("AP", [_spread(group.stats.get("ap")) for group in groups]),
        _stackable("AP\nNMS", [_spread(group.stats.get("ap_nms")) for group in groups]),
        _stackable("gap", [_mean(group.stats.get("gap")) for group in groups]),
        _stackable("AR", _or_empty([_spread(group.stats.get("ar")) for group in groups]), rank=2),
        _stackable(to_best, [_to_best(group.stats.get(metric)) for group in groups]),
        number("left\nout", [str(group.unfinished or "") for group in groups]),
        text("over", [_over(group) for group in groups]),
        text("note", ["stale" if group.stale else "" for group in groups], rank=0),
    ]
    once = {column.heading: column for column in columns}  # compared by data set: one column of it
    shared = {"over": "intervals over", "protocol": "protocol", "truth": "ground truth"}
    shared["dataset"] = "data set"
    return _captioned(list(once.values()), shared, _legend(groups))


def _legend(groups: Sequence[Group]) -> str:
    """Explain the cells of a comparison, as far as it has them."""
    parts = ["mean±standard deviation, percent points"]
    if any(_over(group) for group in groups):
        parts.append("[95 % interval], * if it excludes 0")
    if any(group.unfinished for group in groups):
        parts.append("left out: unfinished trials")
    return "; ".join(parts)


def _captioned(columns: Sequence[Column], shared: dict[str, str], legend: str) -> PlainTable:
    """Return the table of `columns`, without empty ones.

    A column named in `shared` whose cells are all the same is left out, too: its value is written
    into the caption instead, after the words that `shared` has for it.
    """
    facts = [legend if columns[0].cells else "nothing yet"]
    for heading, words in shared.items():
        column = next(each for each in columns if each.heading == heading)
        mixed = heading == "truth" and "" in column.cells  # trials beside measurements
        if len(values := set(column.cells) - {""}) == 1 and not mixed:
            facts.append(f"{words} {values.pop()}")
            columns = [each for each in columns if each is not column]
    shown = [each for each in columns if not each.cells or any(each.cells)]
    return PlainTable(shown, caption="; ".join(facts), remedy=REMEDY_WITH_CSV)


def _key(key: str, values: Sequence[Any]) -> Column:
    """Return the column of a key compared by."""
    numeric = all(type(each) in (int, float) for each in values)
    return replace(text(key, [str(cell(each)) for each in values], rank=0), wrap=not numeric)


def _stackable(heading: str, cells: Sequence[str], rank: int = 0) -> Column:
    """Return a column of numbers whose intervals, or else spreads, may be written below them."""
    return replace(number(heading, cells, rank=rank), marks=(" [", "±"))


def _rank(metric: str, asked_for: Sequence[str]) -> int:
    return 0 if metric in _ESSENTIAL else 1 if metric in asked_for else 2


def _epoch(group: Group) -> str:
    if not group.epochs:  # measurements
        return ""
    return "-" if group.epoch is None else f"{group.epoch}/{group.epochs}"


def _metric(rows: Sequence[LeaderboardRow], name: str) -> list[str]:
    """Return the cells of one metric."""
    form = signed if name.split("_")[-1] == "gap" else points
    values = [getattr(r, name) if name in STORED else r.more.get(name) for r in rows]
    return _or_empty([form(value) for value in values])


def _or_empty(cells: list[str]) -> list[str]:
    """Return the cells; empty ones if all of them are dashes."""
    return cells if set(cells) != {"-"} else [""] * len(cells)


def _spread(stat: Stat | None) -> str:
    """Format mean and standard deviation."""
    if stat is None:
        return "-"
    return points(stat.mean) if stat.std is None else f"{stat.mean:.1f}±{stat.std:.1f}"


def _mean(stat: Stat | None) -> str:
    """Format a mean with its interval."""
    return "-" if stat is None else _difference(stat.mean, stat.interval)


def _to_best(stat: Stat | None) -> str:
    best = stat and stat.to_best
    return _difference(best.mean, best.interval) if best else "-"


def _difference(value: float, interval: Interval | None) -> str:
    """Format a difference: `-1.2 [-2.0, -0.4]*`, with a star if the interval excludes 0."""
    if interval is None:
        return signed(value)
    star = "*" if interval.excludes_zero else " "
    low, high = (_limit(limit, interval.excludes_zero) for limit in interval)
    return f"{signed(value)} [{low}, {high}]{star}"


def _limit(value: float, excludes_zero: bool) -> str:
    """Format a limit of an interval; with more decimals if it would round to an excluded zero."""
    return f"{value:+.1g}" if excludes_zero and abs(value) < 0.05 else signed(value)


def _over(group: Group) -> str:
    """Return what the intervals are over: of the gap, and of `to best` if that differs."""
    over = [each for each in (group.over, group.to_best_over) if each]
    return ", ".join(dict.fromkeys(over))


def _note(row: LeaderboardRow) -> str:
    """Return what a row is other than a finished trial, and whether it is stale."""
    marks: list[str] = [row.state] if row.state != TrialState.SUCCEEDED else []
    if not row.epochs:
        suppressed = row.config.get("findings", {}).get("suppressed") is not None
        marks = ["measured, suppressed" if suppressed else "measured"]
    return ", ".join([*marks, *(["stale"] if row.stale else [])])
