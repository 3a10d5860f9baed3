"""Columns of a leaderboard that are computed for its rows: costs, and how fast a trial learns."""

from collections.abc import Sequence
from dataclasses import replace

from gaplab.ledger import Reader
from gaplab.ledger.conditions import COSTS
from gaplab.ledger.views import RowFilter
from gaplab.results.leaderboard import LeaderboardRow

EPOCHS_TO_90 = "epochs_to_90"
SCORE_GAP = "score_gap"
COMPUTED = (*COSTS, EPOCHS_TO_90, SCORE_GAP)
"""Names of columns that are no metric of an evaluation."""
_SHARE = 0.9


def with_columns(
    ledger: Reader, rows: Sequence[LeaderboardRow], names: Sequence[str], wanted: RowFilter
) -> list[LeaderboardRow]:
    """Return rows with these columns among their other metrics.

    - Costs such as `gpu_hours` are those of all attempts at the trial; `parameters` are
      those of the detector at inference.
    - `epochs_to_90` is the first evaluated epoch with 90 % of the AP of the last one.
    - `score_gap` is that of the positive points in the training of the epoch (000 Definition 3.3),
      in [0, 1].

    Args:
        ledger: an open ledger.
        rows: rows of a leaderboard.
        names: names of columns; others than `COMPUTED` are ignored.
        wanted: the filter that selected the rows.
    """
    trials = sorted({row.trial for row in rows})
    costs = ledger.trial_costs(trials) if set(names) & set(COSTS) else {}
    first = ledger.epochs_reaching(_SHARE, trials, wanted) if EPOCHS_TO_90 in names else {}
    found = []
    for row in rows:
        more: dict[str, float | None] = {
            name: costs.get(row.trial, {}).get(name) for name in names if name in COSTS
        }
        if EPOCHS_TO_90 in names:
            more[EPOCHS_TO_90] = first.get((row.trial, row.branch))
        if SCORE_GAP in names:
            positives = ledger.positives(row.trial).get(row.epoch, {})
            more[SCORE_GAP] = positives.get(f"{row.branch}.{SCORE_GAP}")
        found.append(replace(row, more=row.more | more))
    return found
