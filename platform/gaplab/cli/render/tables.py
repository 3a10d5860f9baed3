"""A leaderboard as a terminal table. Metrics have one decimal."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from detectors.evaluation.metrics import DUPLICATES, DUPLICATES_SCORE, label
from gaplab.cli.render.tabular import REMEDY_WITH_CSV, Column, PlainTable, number, text
from gaplab.formatting import cell, points, signed
from gaplab.ledger.grouping import GROUPED
from gaplab.ledger.views import METRICS as STORED
from gaplab.ledger.views import GroupView
from gaplab.results.comparison.columns import COMPUTED
from gaplab.results.comparison.leaderboard import LeaderboardRow
from gaplab.spec.varied import short_names, varied_values
from gaplab.states import TrialState

LABELS = {
    name: label(name).replace(" ", "\n") for name in ("ap", "ap_nms", "gap", "ar", "mmr", "recall")
}
"""Metrics that a leaderboard shows if trials have them, with the headings of their columns."""
_SHOWN = frozenset({"assignment.name", "data.name", "training.epochs"})
"""Keys of the spec that have a column anyway."""
_TAKEN = ("trial", "assignment", "dataset", "protocol", "truth", "seed", "epoch", "note")
_ESSENTIAL = ("ap", "ap_nms", "gap")
"""Metrics that a narrow leaderboard leaves out last."""


def leaderboard_table(
    rows: Sequence[LeaderboardRow],
    metrics: Sequence[str] = (),
    varied: Sequence[str] = (),
    total: int = 0,
) -> PlainTable:
    """Return a table with one line per trial or measurement, in the order given.

    Args:
        rows: The rows.
        metrics: Names of further metrics to show.
        varied: Keys of the spec to show.
        total: Number of rows there are, if that is more than are shown.
    """
    labels = LABELS | {name: name for name in metrics if name not in LABELS}
    columns = [
        text("trial", [row.trial[:8] for row in rows], wrap=False),
        text("assignment", [row.assignment for row in rows], rank=0),
        *_varied(rows, varied),
        text("dataset", [row.dataset for row in rows]),
        text("protocol", [row.protocol for row in rows]),
        text("truth", [row.truth for row in rows]),
        number("seed", [str(row.seed) if row.epochs else "" for row in rows], rank=2),
        number(
            "epoch", [f"{row.epoch}/{row.epochs}" if row.epochs else "" for row in rows], rank=2
        ),
        *(
            number(heading, _metric(rows, name, metrics), rank=_rank(name, metrics))
            for name, heading in labels.items()
        ),
        text("note", [_note(row) for row in rows], rank=0),
    ]
    shared = {"protocol": "protocol", "truth": "ground truth", "dataset": "data set"}
    legend = "AP, AR, gap: percent points"
    if total > len(rows):
        legend = f"{len(rows)} of {total} rows, {total - len(rows)} more with --top 0; {legend}"
    return captioned(columns, shared, legend + legend_of(metrics))


def group_table(groups: Sequence[GroupView], keys: Sequence[str], protocol: str) -> PlainTable:
    """Return a table with one line per group of trials, in the order given."""
    names = short_names(keys)
    columns = [
        *(key_column(names[key], [group.keys[key] for group in groups]) for key in keys),
        text("dataset", [group.keys["dataset"] for group in groups]),
        text("protocol", [protocol for _ in groups]),
        text("truth", ["" for _ in groups]),
        number("epochs", [str(group.keys["epochs"]) for group in groups], rank=2),
        number("n", [str(group.trials) for group in groups]),
        *(
            stackable(LABELS[name], or_empty([_mean_and_std(each, name) for each in groups]))
            for name in GROUPED
        ),
        number("not\nfinished", [str(group.unfinished or "") for group in groups]),
    ]
    shared = {"protocol": "protocol", "dataset": "data set"}
    legend = "mean±standard deviation over trials, percent points"
    return captioned(list({column.heading: column for column in columns}.values()), shared, legend)


def _mean_and_std(group: GroupView, metric: str) -> str:
    mean, std = group.stats.get(metric, (None, None))
    form = signed if metric == "gap" else points
    return form(mean) if std is None else f"{form(mean)}±{std:.1f}"


def _varied(rows: Sequence[LeaderboardRow], keys: Sequence[str]) -> list[Column]:
    """Return the columns of keys of the spec, with short names."""
    names = short_names(keys, taken=_TAKEN)
    found = []
    for key in keys:
        if key not in _SHOWN:
            values = [varied_values(row.config, [key]).get(key, "") for row in rows]
            found.append(key_column(names[key], values))
    return found


def captioned(columns: Sequence[Column], shared: dict[str, str], legend: str) -> PlainTable:
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


def key_column(heading: str, values: Sequence[Any]) -> Column:
    """Return the column of a key of the spec; numbers are aligned to the right if all are."""
    numeric = all(type(each) in (int, float) for each in values if each != "")
    column = number if numeric else text
    return column(heading, [str(cell(each)) for each in values], rank=0)


def stackable(heading: str, cells: Sequence[str], rank: int = 0) -> Column:
    """Return a column of numbers whose intervals, or else spreads, may be written below them."""
    return replace(number(heading, cells, rank=rank), marks=(" [", "±"))


def _rank(metric: str, asked_for: Sequence[str]) -> int:
    return 0 if metric in _ESSENTIAL else 1 if metric in asked_for else 2


def _metric(rows: Sequence[LeaderboardRow], name: str, asked_for: Sequence[str]) -> list[str]:
    """Return the cells of one metric; empty ones if no row has it and nobody asked for it."""
    values = [getattr(r, name) if name in STORED else r.more.get(name) for r in rows]
    cells = [metric_cell(name, value) for value in values]
    return cells if name in asked_for else or_empty(cells)


def metric_cell(name: str, value: float | None) -> str:
    """Format a metric or a computed column; a dash if it is unknown."""
    if name in COMPUTED:
        return _digits(value)
    if name in DUPLICATES:
        return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # no -0.00
    return (signed if name.split("_")[-1] == "gap" else points)(value)


def legend_of(names: Sequence[str]) -> str:
    """Return what a caption says about further columns that are no percent points; often empty."""
    if not set(names) & set(DUPLICATES):
        return ""
    return f"; duplicates: per object found, at score {DUPLICATES_SCORE:g}, IoU 0.5"


def _digits(value: float | None) -> str:
    """Format a cost, a count or a fraction with three digits."""
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def or_empty(cells: list[str]) -> list[str]:
    """Return the cells; empty ones if all of them are dashes."""
    return cells if set(cells) != {"-"} else [""] * len(cells)


def _note(row: LeaderboardRow) -> str:
    """Return what a row is other than a finished trial, and whether it is stale."""
    marks: list[str] = [row.state] if row.state != TrialState.SUCCEEDED else []
    if not row.epochs:
        suppressed = row.config.get("findings", {}).get("suppressed") is not None
        marks = ["measured, suppressed" if suppressed else "measured"]
    return ", ".join([*marks, *(["stale"] if row.stale else [])])
