"""Groups of trials side by side: means, spreads and intervals, never over unlike measurements."""

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
from gaplab.results.leaderboard import LeaderboardRow, settings, unknown_keys
from gaplab.states import TrialState

Resample = Callable[[LeaderboardRow], Resampled | None]
"""AP of a trial's evaluation on resamples of its images; None where that isn't known."""
_Epoch = int | Literal["best"] | None
_Pairs = list[tuple[LeaderboardRow, LeaderboardRow]]


@dataclass(frozen=True)
class Stat:
    """One metric over a group's trials, percent points.

    std: sample standard deviation, None for a single trial. interval: of the mean. to_best: the
    difference to the best group measured alike, 0 for that group itself, None if there is none that
    has this metric.
    """

    mean: float
    std: float | None
    interval: Interval | None
    to_best: Difference | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Finished trials that are alike in `keys`, data set, protocol, schedule and epoch."""

    keys: dict[str, Any]
    """Values of the keys compared by; None where the trials have no such key."""
    dataset: str
    protocol: str
    epochs: int
    """Epochs a trial of this group trains."""
    epoch: _Epoch
    """Epoch measured; `best` where each trial stands at its own; None if no trial is finished."""
    results_version: int
    stale: bool
    trials: tuple[LeaderboardRow, ...] = field(repr=False)
    """The finished trials."""
    unfinished: int = 0
    """Trials left out because they have not succeeded (yet)."""
    stats: dict[Metric, Stat] = field(default_factory=dict)
    """Of the metrics that all trials have; empty if no trial is finished."""
    over: Over | None = None
    """What intervals of means are over; images for a single trial."""
    to_best_over: Over | None = None
    """What intervals of differences to the best group are over."""
    pairs: int = 0
    """Pairs of trials, one of the best group each, that differences to it are means of; 0 where
    they are differences of the groups' means, and for the best group."""

    @property
    def n(self) -> int:
        """Finished trials."""
        return len(self.trials)

    @property
    def seeds(self) -> int:
        """Distinct seeds among them."""
        return len({row.seed for row in self.trials})


def compare(
    rows: Sequence[LeaderboardRow],
    by: Sequence[str],
    metric: Metric = "ap",
    resampled: Resample = lambda row: None,
) -> list[Group]:
    """Group `rows` by the keys `by`: those of `LeaderboardQuery.where`. The best group is first.

    The best is the group of the highest mean `metric` among those of the same data set, protocol,
    results version, schedule and epoch (of any schedule where `by` holds the number of epochs).
    The difference to it is the mean over the seeds that both have, with an interval over them if
    they are several, else over images; two groups of one trial each are paired whatever their
    seeds. Where no seed is shared, or trials of one group differ in more than their seed, it is the
    difference of the means, without an interval. `resampled` is asked, perhaps repeatedly, about
    trials whose interval is over images. Raises UserError for a key that no row has.
    """
    known = {key for row in rows for key in settings(row)}
    if rows and (error := unknown_keys(by, known)):
        raise error
    alike: dict[str, list[LeaderboardRow]] = defaultdict(list)
    for row in rows:
        alike[_key(row, by)].append(row)
    groups = [group for members in alike.values() for group in _groups(members, by)]
    by_epochs = any(key.split(".")[-1] == "epochs" for key in by)
    return [_measured(group, best, resampled) for group, best in _ranked(groups, metric, by_epochs)]


def _key(row: LeaderboardRow, by: Sequence[str]) -> str:
    """What rows of one group have in common; as JSON, where 1 and true differ and lists hash."""
    values = settings(row)
    own = [row.dataset, row.protocol, row.epochs, row.results_version, row.chosen]
    return json.dumps([*own, *(values.get(key) for key in by)], sort_keys=True)


def _groups(rows: list[LeaderboardRow], by: Sequence[str]) -> list[Group]:
    """One group for each epoch at which finished trials stand; the last one counts the others."""
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
            trials=tuple(members),
        )
        for epoch, members in (finished or {None: []}).items()
    ]
    unfinished = sum(row.state != TrialState.SUCCEEDED for row in rows)
    return [*groups[:-1], replace(groups[-1], unfinished=unfinished)]


def _ranked(
    groups: list[Group], metric: Metric, any_schedule: bool
) -> list[tuple[Group, Group | None]]:
    """The groups, best first, and with each the best one measured alike, if there is one."""
    cells: dict[tuple[Any, ...], list[Group]] = defaultdict(list)
    for group in groups:
        schedule = () if any_schedule else (group.epochs, str(group.epoch))
        cells[(group.dataset, group.protocol, -group.results_version, *schedule)].append(group)
    ranked: list[tuple[Group, Group | None]] = []
    for _, members in sorted(cells.items()):
        known = [group for group in members if _values(group.trials, metric)]
        known.sort(key=lambda group: -fmean(_values(group.trials, metric)))
        ranked += [(group, known[0]) for group in known]
        ranked += [(group, None) for group in members if not _values(group.trials, metric)]
    return ranked


def _measured(group: Group, best: Group | None, resampled: Resample) -> Group:
    """The group with its statistics, intervals and differences to `best`."""
    over, intervals = _intervals(group, resampled)
    pairs = _pairs(group, best)
    to_best_over, differences = _differences(pairs, resampled)
    stats = {}
    for metric in METRICS:
        if values := _values(group.trials, metric):
            std = stdev(values) if len(values) > 1 else None
            to_best = differences.get(metric) or _of_means(values, best, metric)
            stats[metric] = Stat(fmean(values), std, intervals.get(metric), to_best)
    return replace(group, stats=stats, over=over, to_best_over=to_best_over, pairs=len(pairs))


def _values(trials: Sequence[LeaderboardRow], metric: Metric) -> list[float]:
    """The metric of every trial; empty where one hasn't got it."""
    values = [getattr(row, metric) for row in trials]
    return [] if None in values else values


def _by_seed(group: Group) -> dict[int, LeaderboardRow]:
    """Its trials by seed; empty if a seed repeats, for then they differ in something else too."""
    return {row.seed: row for row in group.trials} if group.seeds == group.n else {}


def _pairs(group: Group, best: Group | None) -> _Pairs:
    """Each trial with its like in the best group."""
    if best is None or best is group:
        return []
    if group.n == best.n == 1:
        return [(group.trials[0], best.trials[0])]
    mine, theirs = _by_seed(group), _by_seed(best)
    return [(mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())]


def _intervals(
    group: Group, resampled: Resample
) -> tuple[Over | None, Mapping[Metric, Interval | None]]:
    """Intervals of the means, and what they are over."""
    if group.n == 1 and (found := resampled(group.trials[0])):
        return "images", found.intervals()
    if group.n > 1 and _by_seed(group):
        return "seeds", {m: mean_interval(_values(group.trials, m)) for m in METRICS}
    return None, {}


def _differences(
    pairs: _Pairs, resampled: Resample
) -> tuple[Over | None, dict[Metric, Difference]]:
    """Mean differences of the metrics that all of `pairs` have, and what intervals are over."""
    mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    columns = {metric: (_values(mine, metric), _values(theirs, metric)) for metric in METRICS}
    columns = {metric: both for metric, both in columns.items() if all(both)}
    if len(pairs) > 1:
        return "seeds", {metric: paired(*both) for metric, both in columns.items()}
    intervals: dict[Metric, Interval] = {}
    if pairs and (a := resampled(mine[0])) and (b := resampled(theirs[0])):
        intervals = a.intervals(less=b)
    return ("images" if intervals else None), {
        metric: Difference(x - y, intervals.get(metric)) for metric, ((x,), (y,)) in columns.items()
    }


def _of_means(values: list[float], best: Group | None, metric: Metric) -> Difference | None:
    others = _values(best.trials, metric) if best else []
    return Difference(fmean(values) - fmean(others)) if others else None
