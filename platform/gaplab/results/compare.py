"""Groups of trials side by side: means, standard deviations and confidence intervals.

A group never mixes data sets, protocols, schedules or versions of the training code.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any, Literal

from gaplab.results.intervals import (
    METRICS,
    Difference,
    Interval,
    Metric,
    Over,
    Resampled,
    mean_interval,
    paired,
)
from gaplab.results.leaderboard import LeaderboardRow, listed, settings, unknown_keys
from gaplab.states import TrialState

Resample = Callable[[LeaderboardRow], Resampled | None]
"""Returns AP of a trial's evaluation on resamples of its images, or None if it is not known."""
_Epoch = int | Literal["best"] | None
_Pairs = list[tuple[LeaderboardRow, LeaderboardRow]]


@dataclass(frozen=True)
class Stat:
    """One metric over the trials of a group, in percent points."""

    mean: float
    std: float | None
    """Sample standard deviation; None for a single trial."""
    interval: Interval | None
    """Of the mean."""
    to_best: Difference | None
    """Difference to the best comparable group: 0 for that group itself, None if no comparable group
    has this metric."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Finished trials with the same `keys`, data, ground truth, protocol, schedule and epoch."""

    keys: dict[str, Any]
    """Values of the keys that trials are grouped by; None where they have no such key."""
    dataset: str
    protocol: str
    epochs: int
    """Number of epochs that a trial of this group trains."""
    epoch: _Epoch
    """Evaluated epoch; `best` if each trial has its own; None if no trial is finished."""
    results_version: int
    stale: bool
    truth: str = ""
    """Digest of other ground truth; empty for that of the trials' own data."""
    trials: tuple[LeaderboardRow, ...] = field(repr=False)
    """The finished trials."""
    unfinished: int = 0
    """Number of trials left out because they have not succeeded."""
    stats: dict[Metric, Stat] = field(default_factory=dict)
    """Statistics of the metrics that all trials have; empty if no trial is finished."""
    over: Over | None = None
    """What is resampled for intervals of means: seeds, or images for a single trial."""
    to_best_over: Over | None = None
    """What is resampled for intervals of differences to the best group."""
    pairs: int = 0
    """Number of pairs, each of one trial of this group and one of the best group, over which the
    differences are averaged; 0 for differences of the groups' means, and for the best group."""

    @property
    def n(self) -> int:
        """Number of finished trials."""
        return len(self.trials)

    @property
    def seeds(self) -> int:
        """Number of distinct seeds among them."""
        return len({row.seed for row in self.trials})


def compare(
    rows: Sequence[LeaderboardRow],
    by: str | Sequence[str] = "assignment",
    metric: Metric = "ap",
    resampled: Resample = lambda row: None,
) -> list[Group]:
    """Group rows of a leaderboard by settings of their trials, best group first.

    The best group has the highest mean `metric` among those with the same data set, ground truth,
    protocol, results version, schedule and epoch (any schedule if `by` holds the number of epochs).
    The difference of a group to it is the mean over the seeds that both have, with an interval over
    seeds if they share several, else over images. Two groups of one trial each are paired whatever
    their seeds. If they share no seed, or trials of one group differ in more than their seed, it is
    the difference of the means, without an interval. Nor is there an interval over seeds that give
    equal values, or over fewer than `intervals.MIN_IMAGES` images.

    Args:
        rows: rows of `leaderboard`.
        by: one key or several, as in `where` of `leaderboard`.
        metric: the metric that decides which group is best.
        resampled: called, possibly more than once, with a row whose interval is over images;
            returns its AP on resamples of the images. Without it there are no such intervals.

    Raises:
        UserError: no row has one of the keys.

    Examples:
        After `gaplab run experiments/quickstart.yaml`, or the example of `gaplab.run_sweep`:

        >>> import gaplab
        >>> with gaplab.Ledger.open(gaplab.open_home().ledger_url) as ledger:
        ...     groups = gaplab.compare(gaplab.leaderboard(ledger, sweep="quickstart"))
        >>> sorted(group.keys["assignment"] for group in groups)
        ['center', 'poto']
        >>> groups[0].stats["ap"].to_best.mean
        0.0
    """
    keys, known = listed(by), {key for row in rows for key in settings(row)}
    if rows and (error := unknown_keys(keys, known)):
        raise error
    alike: dict[str, list[LeaderboardRow]] = defaultdict(list)
    for row in rows:
        alike[_key(row, keys)].append(row)
    groups = [group for members in alike.values() for group in _groups(members, keys)]
    any_schedule = any(key.split(".")[-1] == "epochs" for key in keys)
    ranked = _ranked(groups, metric, any_schedule)
    return [_with_statistics(group, best, resampled) for group, best in ranked]


def _key(row: LeaderboardRow, by: Sequence[str]) -> str:
    """Return the key of a row's group, as JSON: 1 and true differ there, and lists are hashable."""
    values = settings(row)
    own = [row.dataset, row.protocol, row.truth, row.epochs, row.results_version, row.chosen]
    return json.dumps([*own, *(values.get(key) for key in by)], sort_keys=True)


def _groups(rows: list[LeaderboardRow], by: Sequence[str]) -> list[Group]:
    """Make one group per evaluated epoch of finished trials; the last one counts the others."""
    finished: dict[_Epoch, list[LeaderboardRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.epoch):
        if row.state == TrialState.SUCCEEDED:
            finished["best" if row.chosen == "best" else row.epoch].append(row)
    first, values = rows[0], settings(rows[0])
    groups = [
        Group(
            keys={key: values.get(key) for key in by},
            dataset=first.dataset,
            protocol=first.protocol,
            epochs=first.epochs,
            epoch=epoch,
            results_version=first.results_version,
            stale=first.stale,
            truth=first.truth,
            trials=tuple(members),
        )
        for epoch, members in (finished or {None: []}).items()
    ]
    unfinished = sum(row.state != TrialState.SUCCEEDED for row in rows)
    return [*groups[:-1], replace(groups[-1], unfinished=unfinished)]


def _ranked(
    groups: list[Group], metric: Metric, any_schedule: bool
) -> list[tuple[Group, Group | None]]:
    """Return the groups, best first, each with the best comparable group, if there is one."""
    cells: dict[tuple[Any, ...], list[Group]] = defaultdict(list)
    for group in groups:
        schedule = () if any_schedule else (group.epochs, str(group.epoch))
        measured = (group.dataset, group.protocol, group.truth)
        cells[(*measured, -group.results_version, *schedule)].append(group)
    ranked: list[tuple[Group, Group | None]] = []
    for _, members in sorted(cells.items()):
        known = [group for group in members if _values(group.trials, metric)]
        known.sort(key=lambda group: -fmean(_values(group.trials, metric)))
        ranked += [(group, known[0]) for group in known]
        ranked += [(group, None) for group in members if not _values(group.trials, metric)]
    return ranked


def _with_statistics(group: Group, best: Group | None, resampled: Resample) -> Group:
    """Return the group with its statistics, intervals and differences to `best`."""
    over, intervals = _intervals(group, resampled)
    pairs = _pairs(group, best)
    to_best_over, differences = _differences(pairs, resampled)
    stats = {}
    for metric in METRICS:
        if values := _values(group.trials, metric):
            std = stdev(values) if len(values) > 1 else None
            to_best = differences.get(metric) or _difference_of_means(values, best, metric)
            stats[metric] = Stat(fmean(values), std, intervals.get(metric), to_best)
    return replace(group, stats=stats, over=over, to_best_over=to_best_over, pairs=len(pairs))


def _values(trials: Sequence[LeaderboardRow], metric: Metric) -> list[float]:
    """Return the metric of every trial; an empty list if one of them lacks it."""
    values = [getattr(row, metric) for row in trials]
    return [] if None in values else values


def _by_seed(group: Group) -> dict[int, LeaderboardRow]:
    """Return trials by seed; empty if a seed repeats, because then they differ in more than it."""
    return {row.seed: row for row in group.trials} if group.seeds == group.n else {}


def _pairs(group: Group, best: Group | None) -> _Pairs:
    """Pair each trial with the trial of the best group that has the same seed."""
    if best is None or best is group:
        return []
    if group.n == best.n == 1:
        return [(group.trials[0], best.trials[0])]
    mine, theirs = _by_seed(group), _by_seed(best)
    return [(mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())]


def _intervals(
    group: Group, resampled: Resample
) -> tuple[Over | None, Mapping[Metric, Interval | None]]:
    """Return what is resampled for intervals of the means, and the intervals."""
    if group.n == 1 and (found := resampled(group.trials[0])):
        over_images = found.intervals()
        return ("images" if over_images else None), over_images
    if group.n > 1 and _by_seed(group):
        over_seeds = {m: mean_interval(_values(group.trials, m)) for m in METRICS}
        return ("seeds" if any(over_seeds.values()) else None), over_seeds
    return None, {}


def _differences(
    pairs: _Pairs, resampled: Resample
) -> tuple[Over | None, dict[Metric, Difference]]:
    """Return what is resampled, and mean differences of the metrics that all pairs have."""
    mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    columns = {metric: (_values(mine, metric), _values(theirs, metric)) for metric in METRICS}
    columns = {metric: both for metric, both in columns.items() if all(both)}
    if len(pairs) > 1:
        found = {metric: paired(*both) for metric, both in columns.items()}
        return ("seeds" if any(each.interval for each in found.values()) else None), found
    intervals: dict[Metric, Interval] = {}
    if pairs and (a := resampled(mine[0])) and (b := resampled(theirs[0])):
        intervals = a.intervals(less=b)
    return ("images" if intervals else None), {
        metric: Difference(x - y, intervals.get(metric)) for metric, ((x,), (y,)) in columns.items()
    }


def _difference_of_means(
    values: list[float], best: Group | None, metric: Metric
) -> Difference | None:
    others = _values(best.trials, metric) if best else []
    return Difference(fmean(values) - fmean(others)) if others else None


def mixed_instructions(groups: Sequence[Group]) -> list[str]:
    """Return a line per group whose trials were measured with different vector instructions.

    Sums are rounded in another order then, so equal trials differ as with other seeds.
    """
    lines = []
    for group in groups:
        found = sorted({row.instructions for row in group.trials} - {""})
        if len(found) > 1:
            name = ", ".join(str(value) for value in group.keys.values())
            lines.append(
                f"{name}: its trials were measured on processors with different vector "
                f"instructions ({' and '.join(found)}), whose digits differ as those of other seeds"
            )
    return lines
