"""Groups of trials side by side: means and spreads over seeds, never over unlike measurements."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Literal

from gaplab.leaderboard import LeaderboardRow, settings, unknown_keys

Metric = Literal["ap", "ap_nms", "gap", "ar"]
METRICS: tuple[Metric, ...] = ("ap", "ap_nms", "gap", "ar")


@dataclass(frozen=True)
class Stat:
    """One metric over a group's trials, percent points.

    std: sample standard deviation, None for a single trial. to_best: mean less the mean of the best
    group measured alike, 0 for that group itself.
    """

    mean: float
    std: float | None
    to_best: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Finished trials that are alike in `keys`, data set, protocol, schedule and epoch."""

    keys: dict[str, Any]
    """Values of the keys compared by; None where the trials have no such key."""
    dataset: str
    protocol: str
    epochs: int
    """Epochs a trial of this group trains."""
    epoch: int | Literal["best"] | None
    """Epoch measured; `best` where each trial stands at its own; None if no trial is finished."""
    results_version: int
    stale: bool
    n: int
    """Finished trials."""
    seeds: int
    """Distinct seeds among them."""
    unfinished: int
    """Trials left out because they have not succeeded (yet)."""
    stats: dict[Metric, Stat]
    """Empty if no trial is finished."""


def compare(
    rows: Sequence[LeaderboardRow], by: Sequence[str], metric: Metric = "ap"
) -> list[Group]:
    """Group `rows` by the keys `by`: those of `LeaderboardQuery.where`. The best group is first.

    The best is the group of the highest mean `metric` among those of the same data set, protocol,
    results version, schedule and epoch (of any schedule where `by` holds the number of epochs).
    Raises UserError for a key that no row has.
    """
    known = {key for row in rows for key in settings(row)}
    if rows and (error := unknown_keys(by, known)):
        raise error
    alike: dict[str, list[LeaderboardRow]] = defaultdict(list)
    for row in rows:
        alike[_key(row, by)].append(row)
    groups = [group for members in alike.values() for group in _groups(members, by)]
    return _ranked(groups, metric, any(key.split(".")[-1] == "epochs" for key in by))


def _key(row: LeaderboardRow, by: Sequence[str]) -> str:
    """What rows of one group have in common; as JSON, where 1 and true differ and lists hash."""
    values = settings(row)
    own = [row.dataset, row.protocol, row.epochs, row.results_version, row.chosen]
    return json.dumps([*own, *(values.get(key) for key in by)], sort_keys=True)


def _groups(rows: list[LeaderboardRow], by: Sequence[str]) -> list[Group]:
    """One group for each epoch at which finished trials stand; the last one counts the others."""
    finished: dict[int | Literal["best"] | None, list[LeaderboardRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.epoch):
        if row.state == "succeeded":
            finished["best" if row.chosen == "best" else row.epoch].append(row)
    unfinished = sum(row.state != "succeeded" for row in rows)
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
            n=len(members),
            seeds=len({row.seed for row in members}),
            unfinished=0,
            stats={metric: _stat(members, metric) for metric in METRICS if members},
        )
        for epoch, members in (finished or {None: []}).items()
    ]
    return [*groups[:-1], replace(groups[-1], unfinished=unfinished)]


def _stat(rows: list[LeaderboardRow], metric: Metric) -> Stat:
    values = [getattr(row, metric) for row in rows]
    return Stat(fmean(values), stdev(values) if len(values) > 1 else None, 0.0)


def _ranked(groups: list[Group], metric: Metric, any_schedule: bool) -> list[Group]:
    """The groups with their distances to the best one measured alike; best first."""
    cells: dict[tuple[Any, ...], list[Group]] = defaultdict(list)
    for group in groups:
        schedule = () if any_schedule else (group.epochs, str(group.epoch))
        cells[(group.dataset, group.protocol, -group.results_version, *schedule)].append(group)
    ranked = []
    for _, members in sorted(cells.items()):
        finished = [group for group in members if group.stats]
        finished.sort(key=lambda group: -group.stats[metric].mean)
        ranked += [_against(group, finished[0]) for group in finished]
        ranked += [group for group in members if not group.stats]
    return ranked


def _against(group: Group, best: Group) -> Group:
    stats = {
        metric: replace(stat, to_best=stat.mean - best.stats[metric].mean)
        for metric, stat in group.stats.items()
    }
    return replace(group, stats=stats)
