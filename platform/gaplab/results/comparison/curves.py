"""Groups of trials at every evaluated epoch."""

from collections.abc import Sequence
from dataclasses import replace

from gaplab.ledger import Reader
from gaplab.ledger.views import RowFilter
from gaplab.results.comparison.compare import Group, compare
from gaplab.results.comparison.leaderboard import LeaderboardRow
from gaplab.results.intervals import Metric


def over_epochs(
    ledger: Reader,
    rows: Sequence[LeaderboardRow],
    by: Sequence[str],
    metric: Metric = "ap",
    branch: str | None = None,
) -> list[Group]:
    """Return the groups of `compare` at each epoch at which any of their trials was evaluated.

    Args:
        ledger: an open ledger.
        rows: the trials, as rows of `leaderboard` of one protocol. Measurements are left out, and
            so are unfinished trials.
        by: the keys to group by.
        metric: the metric by which groups of one epoch are sorted.
        branch: the branch of the rows; None: the one kept at inference.
    """
    trials = {row.trial: row for row in rows if row.epochs}
    if not trials:
        return []
    first, groups = rows[0], list[Group]()
    for epoch in range(1, max(row.epoch for row in trials.values()) + 1):
        query = RowFilter(
            protocol=first.protocol,
            branch=branch,
            epoch=epoch,
            trials=tuple(trials),
            truth=first.truth,
        )
        found = ledger.rows(query)
        now = [replace(trials[each.trial], **vars(each), chosen="given") for each in found]
        groups += [group for group in compare(now, by, metric) if group.n]
    return groups
