"""Print the score gap of objects, for `gaplab explain` and `gaplab measure`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.formatting import plural

if TYPE_CHECKING:
    from detectors.evaluation.score_gap import ScoreGap

_BAR = 40
"""Characters of the longest bar of a histogram."""
_BESIDE = 26
"""Columns of the terminal that the rest of its line takes, unless there are 10^7 objects."""


def print_score_gap(gap: "ScoreGap", console: Console) -> None:
    """Print the score gap with its histogram."""
    console.print(
        f"{plural(gap.objects, 'object')}: {100 * gap.unclaimed:.1f} % have no candidate; the "
        f"others have {gap.claimants or 0:.1f} on average"
    )
    if gap.mean is None:
        return
    console.print(f"score gap (best minus second-best score per object): mean {gap.mean:.3f}")
    console.print(_histogram(gap.histogram, min(_BAR, max(1, console.width - _BESIDE))))


def _histogram(counts: Sequence[int], longest: int) -> PlainTable:
    """Return the number of objects per tenth of the score gap, with bars of at most `longest`."""
    columns = [
        text("score gap", wrap=False),
        number("objects"),
        replace(text("", wrap=False, rank=2), name="histogram"),
    ]
    rows = (
        [
            f"{bin_ / 10:.1f} to {(bin_ + 1) / 10:.1f}",
            str(count),
            "█" * round(longest * count / max(counts)),
        ]
        for bin_, count in enumerate(counts)
    )
    return plain_table(columns, rows)
