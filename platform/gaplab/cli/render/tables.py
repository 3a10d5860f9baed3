"""A leaderboard as a terminal table. Metrics have one decimal."""

from collections.abc import Sequence

from detectors.evaluation.metrics import label
from gaplab.cli.render.tabular import REMEDY_WITH_CSV, Column, PlainTable, number, text
from gaplab.formatting import points, signed
from gaplab.ledger.views import METRICS as STORED
from gaplab.results.leaderboard import LeaderboardRow
from gaplab.states import TrialState

LABELS = {
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
    labels = LABELS | {name: name for name in metrics if name not in LABELS}
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
    return captioned(columns, shared, "AP, AR, gap: percent points")


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


def _rank(metric: str, asked_for: Sequence[str]) -> int:
    return 0 if metric in _ESSENTIAL else 1 if metric in asked_for else 2


def _metric(rows: Sequence[LeaderboardRow], name: str) -> list[str]:
    """Return the cells of one metric."""
    form = signed if name.split("_")[-1] == "gap" else points
    values = [getattr(r, name) if name in STORED else r.more.get(name) for r in rows]
    return or_empty([form(value) for value in values])


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
