"""Groups of trials side by side: means, standard deviations and confidence intervals.

A group never mixes data sets, protocols, schedules or versions of the training code.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from statistics import fmean, stdev
from typing import Any, Literal

from gaplab.results.comparison.keys import (
    Condition,
    check_keys,
    default_keys,
    met,
    not_met,
    parse_conditions,
    values_of,
)
from gaplab.results.comparison.leaderboard import LeaderboardRow, listed
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
from gaplab.results.verdicts import holm
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
    to_baseline: Difference | None
    """Difference to the group's baseline: 0 for a baseline itself, None without one, or if the
    baseline lacks the metric."""


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
    baseline: Mapping[str, Any] | None = None
    """The keys of the group that this one is compared to: the best one, unless another one was
    chosen; its own keys if it is a baseline. None if there is none."""
    to_baseline_over: Over | None = None
    """What is resampled for intervals of differences to the baseline."""
    pairs: int = 0
    """Number of pairs, each of one trial of this group and one of the baseline, over which the
    differences are averaged; 0 for differences of the groups' means, and for a baseline."""

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
    by: str | Sequence[str] | None = None,
    metric: Metric = "ap",
    resampled: Resample = lambda row: None,
    to: str | Sequence[str] = (),
) -> list[Group]:
    """Group rows of a leaderboard by settings of their trials, best group first.

    The best group has the highest mean `metric` among those with the same data set, ground truth,
    protocol, results version, schedule and epoch (any schedule if `by` holds the number of epochs).
    It is the baseline of these groups, unless `to` chooses another one. The difference of a group
    to its baseline is the mean over the seeds that both have, with an interval over seeds if they
    share several, else over images. Two groups of one trial each are paired whatever their seeds.
    If they share no seed, or trials of one group differ in more than their seed, it is the
    difference of the means, without an interval. Nor is there an interval over seeds that give
    equal values, or over fewer than `intervals.MIN_IMAGES` images. p values are corrected for the
    number of differences by Holm's method, per metric.

    Args:
        rows: rows of `leaderboard`.
        by: one key or several, as in `where` of `leaderboard`. None: all keys of the spec in which
            the trials differ, without the seed.
        metric: the metric that decides which group is best.
        resampled: called, possibly more than once, with a row whose interval is over images;
            returns its AP on resamples of the images. Without it there are no such intervals.
        to: conditions on the baseline, `key=value`, the name of an assignment, or a value of any
            key; all must hold. A key may be shortened to its last part. If several groups match,
            each group is compared to the best one that is equal to it in all other keys that both
            have; a group without such a counterpart has no baseline.

    Raises:
        UserError: no row has one of the keys, or no group matches `to`.

    Examples:
        After `gaplab run experiments/quickstart.yaml`, or the example of `gaplab.run_sweep`:

        >>> import gaplab
        >>> with gaplab.Ledger.open(gaplab.open_home().ledger_url) as ledger:
        ...     groups = gaplab.compare(gaplab.leaderboard(ledger, sweep="quickstart"))
        >>> sorted(group.keys["assignment"] for group in groups)
        ['center', 'poto']
        >>> groups[0].stats["ap"].to_baseline.mean
        0.0
    """
    keys = default_keys(rows) if by is None else listed(by)
    check_keys(rows, keys)
    alike: dict[str, list[LeaderboardRow]] = defaultdict(list)
    for row in rows:
        alike[_key(row, keys)].append(row)
    groups = [group for members in alike.values() for group in _groups(members, keys)]
    any_schedule = any(key.split(".")[-1] == "epochs" for key in keys)
    values = [group.keys for group in groups]
    conditions = parse_conditions(listed(to), keys, values) if rows else []
    chosen = [
        pair
        for cell in _comparable(groups, metric, any_schedule)
        for pair in _with_baselines(cell, metric, conditions)
    ]
    if conditions and not any(baseline for _, baseline in chosen):
        raise not_met(listed(to), values)
    return _corrected([_with_statistics(*pair, resampled) for pair in chosen])


def _key(row: LeaderboardRow, by: Sequence[str]) -> str:
    """Return the key of a row's group, as JSON: 1 and true differ there, and lists are hashable."""
    own = [row.dataset, row.protocol, row.truth, row.epochs, row.results_version, row.chosen]
    return json.dumps([*own, *values_of(row, by).values()], sort_keys=True)


def _groups(rows: list[LeaderboardRow], by: Sequence[str]) -> list[Group]:
    """Make one group per evaluated epoch of finished trials; the last one counts the others."""
    finished: dict[_Epoch, list[LeaderboardRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.epoch):
        if row.state == TrialState.SUCCEEDED:
            finished["best" if row.chosen == "best" else row.epoch].append(row)
    first = rows[0]
    groups = [
        Group(
            keys=values_of(first, by),
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


def _comparable(groups: list[Group], metric: Metric, any_schedule: bool) -> list[list[Group]]:
    """Return lists of groups that may be compared, the best group first."""
    cells: dict[tuple[Any, ...], list[Group]] = defaultdict(list)
    for group in groups:
        schedule = () if any_schedule else (group.epochs, str(group.epoch))
        measured = (group.dataset, group.protocol, group.truth)
        cells[(*measured, -group.results_version, *schedule)].append(group)

    def rank(group: Group) -> float:
        values = _values(group.trials, metric)
        return -fmean(values) if values else inf

    return [sorted(members, key=rank) for _, members in sorted(cells.items())]


def _with_baselines(
    groups: list[Group], metric: Metric, conditions: Sequence[Condition]
) -> list[tuple[Group, Group | None]]:
    """Return comparable groups, best first, each with its baseline, if it has one."""
    measured = [group for group in groups if _values(group.trials, metric)]
    found = [(each, keys) for each in measured if (keys := met(conditions, each.keys)) is not None]
    if not conditions or len(found) == 1:
        only = found[0][0] if found else None
        return [(group, only if group in measured else None) for group in groups]
    return [(group, _counterpart(group, found)) for group in groups]


def _counterpart(group: Group, found: Sequence[tuple[Group, set[str]]]) -> Group | None:
    """Return the first baseline that equals the group in all keys that both have, but its own."""

    def equal(a: Any, b: Any) -> bool:
        return None in (a, b) or json.dumps(a) == json.dumps(b)

    return next(
        (
            each
            for each, own in found
            if all(equal(each.keys[k], v) for k, v in group.keys.items() if k not in own)
        ),
        None,
    )


def _with_statistics(group: Group, baseline: Group | None, resampled: Resample) -> Group:
    """Return the group with its statistics, intervals and differences to the baseline."""
    over, intervals = _intervals(group, resampled)
    pairs = _pairs(group, baseline)
    to_baseline_over, differences = _differences(pairs, resampled)
    stats = {}
    for metric in METRICS:
        if values := _values(group.trials, metric):
            std = stdev(values) if len(values) > 1 else None
            to_baseline = differences.get(metric) or _difference_of_means(values, baseline, metric)
            stats[metric] = Stat(fmean(values), std, intervals.get(metric), to_baseline)
    return replace(
        group,
        stats=stats,
        over=over,
        baseline=baseline.keys if baseline else None,
        to_baseline_over=to_baseline_over,
        pairs=len(pairs),
    )


def _corrected(groups: list[Group]) -> list[Group]:
    """Return the groups with p values corrected for the number of differences, per metric."""
    for metric in METRICS:
        tested = [(i, p) for i, group in enumerate(groups) if (p := _p(group, metric)) is not None]
        for (i, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
            stat = groups[i].stats[metric]
            assert stat.to_baseline is not None  # it has a p value
            new = replace(stat, to_baseline=replace(stat.to_baseline, corrected=p))
            groups[i] = replace(groups[i], stats={**groups[i].stats, metric: new})
    return groups


def _p(group: Group, metric: Metric) -> float | None:
    stat = group.stats.get(metric)
    return stat.to_baseline.p if stat and stat.to_baseline else None


def _values(trials: Sequence[LeaderboardRow], metric: Metric) -> list[float]:
    """Return the metric of every trial; an empty list if one of them lacks it."""
    values = [getattr(row, metric) for row in trials]
    return [] if None in values else values


def stat_of(group: Group, name: str) -> Stat | None:
    """Return the mean of a metric or a column over the trials that have it; None if none has.

    The interval is over seeds: there is none if a seed repeats.
    """
    values = [row.more[name] if name in row.more else getattr(row, name) for row in group.trials]
    known = [value for value in values if value is not None]
    if not known:
        return None
    interval = mean_interval(known) if _by_seed(group) else None
    return Stat(fmean(known), stdev(known) if len(known) > 1 else None, interval, None)


def _by_seed(group: Group) -> dict[int, LeaderboardRow]:
    """Return trials by seed; empty if a seed repeats, because then they differ in more than it."""
    return {row.seed: row for row in group.trials} if group.seeds == group.n else {}


def _pairs(group: Group, baseline: Group | None) -> _Pairs:
    """Pair each trial with the trial of the baseline that has the same seed."""
    if baseline is None or baseline is group:
        return []
    if group.n == baseline.n == 1:
        return [(group.trials[0], baseline.trials[0])]
    mine, theirs = _by_seed(group), _by_seed(baseline)
    return [(mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())]


def _intervals(
    group: Group, resampled: Resample
) -> tuple[Over | None, Mapping[Metric, Interval | None]]:
    """Return what is resampled for intervals of the means, and the intervals."""
    if group.n == 1 and (found := resampled(group.trials[0])):
        measured = {m: value for m in METRICS for value in _values(group.trials, m)}
        over_images = found.intervals(measured)
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
    means = {metric: x - y for metric, ((x,), (y,)) in columns.items()} if pairs else {}
    if pairs and (a := resampled(mine[0])) and (b := resampled(theirs[0])):
        intervals = a.intervals(means, less=b)
    found = {metric: Difference(mean, intervals.get(metric)) for metric, mean in means.items()}
    return ("images" if intervals else None), found


def _difference_of_means(
    values: list[float], baseline: Group | None, metric: Metric
) -> Difference | None:
    others = _values(baseline.trials, metric) if baseline else []
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
