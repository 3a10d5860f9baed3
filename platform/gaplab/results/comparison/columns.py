"""Columns of a leaderboard that are computed for its rows: costs, and how fast a trial learns."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from json import dumps, loads
from typing import TYPE_CHECKING, Any, cast

from detectors.evaluation.metrics import DUPLICATES
from gaplab.formatting import plural
from gaplab.ledger import Reader
from gaplab.ledger.conditions import COMPUTED as IN_SQL
from gaplab.ledger.conditions import COSTS, EPOCHS_TO_90, GFLOPS, MORE, SCORE_GAP, SHARE
from gaplab.ledger.views import METRICS, RowFilter
from gaplab.results.comparison.leaderboard import LeaderboardRow, unknown_keys

if TYPE_CHECKING:
    from detectors.assigners.base import Branch

COMPUTED = (*COSTS, *IN_SQL, GFLOPS)
"""Names of columns that are no metric of an evaluation."""


def with_columns(
    ledger: Reader, rows: Sequence[LeaderboardRow], names: Sequence[str], wanted: RowFilter
) -> list[LeaderboardRow]:
    """Return rows with these columns among their other metrics.

    - Costs such as `gpu_hours` are those of all attempts at the trial; `parameters` are
      those of the detector at inference.
    - `epochs_to_90` is the first evaluated epoch with 90 % of the AP of the last one.
    - `score_gap` is that of the positive points in the training of the epoch (000 Definition 3.3),
      in [0, 1].
    - `gflops` is what papers on detectors call FLOPs, in 10^9: multiply-adds of convolutions and
      matrix products for one image of the data's size at inference, with the row's branch only.

    A value that is unknown is None.

    Args:
        ledger: an open ledger.
        rows: rows of a leaderboard.
        names: names of columns or metrics.
        wanted: the filter that selected the rows.

    Raises:
        UserError: there are rows, and a name is none of a column or a metric.
    """
    known = {*METRICS, *MORE, *COMPUTED, *(name for row in rows for name in row.more)}
    if rows and (error := unknown_keys(names, known)):
        raise error
    trials = sorted({row.trial for row in rows})
    costs = ledger.trial_costs(trials) if set(names) & set(COSTS) else {}
    first = ledger.epochs_reaching(SHARE, trials, wanted) if EPOCHS_TO_90 in names else {}
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
        if GFLOPS in names:
            more[GFLOPS] = _gflops(row)
        unknown = dict.fromkeys(name for name in names if name not in METRICS)
        found.append(replace(row, more=unknown | row.more | more))
    return found


def unmeasured(rows: Sequence[LeaderboardRow], names: Sequence[str]) -> list[str]:
    """Return a line about each metric that an earlier release did not measure for some rows."""
    lines = []
    for name in (each for each in names if each in DUPLICATES):
        without = [row for row in rows if name not in row.more]
        if without:
            sources = sorted({row.sweep_name or row.assignment for row in without})
            lines.append(
                f"{name}: an earlier release did not measure it for {plural(len(without), 'row')}; "
                "where candidates are stored, add it with: gaplab reevaluate "
                f"{shlex.join([*sources, *_protocol_option(without[0].protocol)])}"
            )
    return lines


def _protocol_option(protocol: str) -> list[str]:
    """Return the option that chooses a protocol; none for a trial's own, which has no name."""
    return [] if protocol.startswith("custom-") else ["--protocol", protocol]


def _gflops(row: LeaderboardRow) -> float | None:
    """Return the cost of a row's detector; None for measurements."""
    if not row.epochs:
        return None
    sections = {name: row.config.get(name) for name in ("data", "detector")}
    return _gflops_of(dumps(sections, sort_keys=True), row.branch)


@cache
def _gflops_of(sections: str, branch: str) -> float | None:
    """Return the cost of a detector, from the JSON of its sections; None if it can't be built."""
    # Imported here: other columns need no PyTorch, and counting imports its compiler, too.
    from detectors.cost import model_cost
    from detectors.data.base import DataError
    from gaplab.spec.sections import Sections

    given: Mapping[str, Any] = loads(sections)
    parts = [Sections(given, ()).read(name, ()) for name in ("data", "detector")]
    if any(part.problems for part in parts):  # settings of another release
        return None
    data, detector = (part.value for part in parts)
    branches = [cast("Branch", branch)]
    expected = data.expected()
    size = (expected.height, expected.width)
    try:
        return model_cost(detector, expected.classes, branches, size).multiply_adds / 1e9
    except DataError:  # the library of a backbone is missing
        return None
