"""Comparisons, main effects and curves as terminal tables. Metrics have one decimal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from detectors.evaluation.metrics import label
from gaplab.cli.render.tables import (
    LABELS,
    captioned,
    key_column,
    legend_of,
    metric_cell,
    or_empty,
    stackable,
)
from gaplab.cli.render.tabular import REMEDY_WITH_CSV, Column, PlainTable, number, text
from gaplab.formatting import cell, points, signed
from gaplab.results.comparison.compare import Group, Stat, stat_of
from gaplab.results.comparison.effects import (
    EXPLAINED,
    Effect,
    Grid,
    explanation,
    in_words,
    is_real,
)
from gaplab.results.intervals import Interval, Metric
from gaplab.spec.varied import short_names

_EPOCHS = 12
"""Epochs that curves show in a terminal."""
_KEYS = 4
"""Keys that have a column of their own; more of them share one."""
_BREAKS = (" by", " difference", " shown")
"""Where a difference in words continues on another line of a narrow table."""
_TAKEN = ("dataset", "protocol", "truth", "epoch", "n", "p", "gap", "AP", "AR", "effect", "note")
"""Names of other columns."""


def compare_table(
    groups: Sequence[Group], metric: Metric = "ap", to: str = "best", further: Sequence[str] = ()
) -> PlainTable:
    """Return a table with one line per group, in the order given.

    Args:
        groups: The groups, compared by the same keys.
        metric: The metric of the differences.
        to: What the groups are compared to.
        further: Names of metrics and columns of which the means are shown, too.
    """
    heading = LABELS[metric].replace("\n", " ") + f"\nto {to}"
    columns = [
        *_keys(groups),
        text("dataset", [group.dataset for group in groups]),
        text("protocol", [group.protocol for group in groups]),
        text("truth", [group.truth for group in groups]),
        number("epoch", [_epoch(group) for group in groups], rank=2),
        number("n", [str(group.n) for group in groups]),
        stackable("AP", [_spread(group.stats.get("ap")) for group in groups]),
        stackable("AP\nNMS", [_spread(group.stats.get("ap_nms")) for group in groups]),
        stackable("gap", [_gap(group) for group in groups]),
        stackable("AR", or_empty([_spread(group.stats.get("ar")) for group in groups]), rank=2),
        *(stackable(n, [_further(n, stat_of(g, n)) for g in groups]) for n in further),
        stackable(heading, [_to_baseline(group, metric) for group in groups]),
        number("p", [_p(group.stats.get(metric)) for group in groups]),
        replace(text("effect", _effects(groups, metric), wrap=False), marks=_BREAKS),
        number("left\nout", [str(group.unfinished or "") for group in groups]),
        text("over", [_over(group) for group in groups]),
        text("note", ["stale" if group.stale else "" for group in groups], rank=0),
    ]
    once = {column.heading: column for column in columns}  # compared by data set: one column of it
    shared = {"over": "intervals over", "protocol": "protocol", "truth": "ground truth"}
    shared["dataset"] = "data set"
    return captioned(list(once.values()), shared, _legend(groups, metric) + legend_of(further))


def effects_table(grid: Grid) -> PlainTable:
    """Return a table of the keys: their shares of the spread, and a line per value with its means.

    The shares stand in the first line of a key.
    """
    names = short_names(each.key for each in grid.effects if each.levels)
    keys, values, shares, means = [], [], [], []
    for effect in grid.effects:
        for i, value in enumerate(effect.levels or ("",)):
            keys.append(names.get(effect.key, effect.key))
            values.append("none" if value is None else str(cell(value)))
            shares.append(["" if i else points(effect.share[m]) for m in EXPLAINED])
            means.append([_level_mean(effect, m, i) for m in EXPLAINED])
    columns = [text("key", keys, rank=0)]
    columns += [
        number(f"{label(m)}\n%", [each[i] for each in shares], rank=0)
        for i, m in enumerate(EXPLAINED)
    ]
    columns.append(text("value", values, wrap=False))
    columns += [number(label(m), [each[i] for each in means]) for i, m in enumerate(EXPLAINED)]
    first = grid.groups[0]
    facts = [explanation(grid), "%: share of the sum of squares of all trials"]
    facts += [f"data set {first.dataset}", f"protocol {first.protocol}"]
    return PlainTable(columns, caption="; ".join(filter(None, facts)), remedy=REMEDY_WITH_CSV)


def _level_mean(effect: Effect, metric: Metric, index: int) -> str:
    form = signed if metric == "gap" else points
    return form(effect.means[metric][index]) if effect.levels else ""


def curves_table(groups: Sequence[Group], metric: Metric) -> PlainTable:
    """Return a table with one line per group and one column per epoch.

    Args:
        groups: The groups, each at several epochs.
        metric: The metric to show.
    """
    lines: dict[str, list[Group]] = {}
    for group in groups:
        about = (group.dataset, group.protocol, group.truth, group.epochs, group.results_version)
        lines.setdefault(repr((group.keys, about)), []).append(group)
    last = [max(each, key=lambda group: int(group.epoch or 0)) for each in lines.values()]
    epochs = sorted({int(group.epoch or 0) for group in groups})
    shown = _spaced(epochs, _EPOCHS)
    columns = [
        *_keys(last),
        text("dataset", [group.dataset for group in last]),
        text("protocol", [group.protocol for group in last]),
        text("truth", [group.truth for group in last]),
        number("n", [str(group.n) for group in last]),
    ]
    for epoch in shown:
        values = [_at(each, epoch, metric) for each in lines.values()]
        columns.append(number(str(epoch), values))
    some = f", {len(shown)} of {len(epochs)} epochs" if len(shown) < len(epochs) else ""
    legend = f"{label(metric)} by epoch{some}: means over seeds, percent points"
    shared = {"protocol": "protocol", "truth": "ground truth", "dataset": "data set"}
    return captioned(columns, shared, legend)


def _spaced(epochs: Sequence[int], count: int) -> list[int]:
    """Return at most `count` epochs, evenly spaced, with the first and the last one."""
    if len(epochs) <= count:
        return list(epochs)
    return [epochs[round(i * (len(epochs) - 1) / (count - 1))] for i in range(count)]


def _at(groups: Sequence[Group], epoch: int, metric: Metric) -> str:
    found = next((group for group in groups if group.epoch == epoch), None)
    stat = found and found.stats.get(metric)
    return (signed if metric == "gap" else points)(stat.mean) if stat else "-"


def _legend(groups: Sequence[Group], metric: Metric) -> str:
    """Explain the cells of a comparison, as far as it has them."""
    parts = ["mean±standard deviation, percent points"]
    over = {each for group in groups for each in (group.over, group.to_baseline_over) if each}
    if "seeds" in over:
        parts.append("[95 % interval], * gap: if it excludes 0, difference: if p <= 0.05")
    elif over:
        parts.append("[95 % interval]")
    if "images" in over:
        parts.append("over images: of these trained detectors, other seeds may differ")
    if tests := sum(_p(group.stats.get(metric)) != "" for group in groups):
        many = f", corrected for {tests} differences by Holm's method" if tests > 1 else ""
        parts.append(f"p: paired t-test over seeds{many}")
    if any(group.unfinished for group in groups):
        parts.append("left out: unfinished trials")
    names = short_names(groups[0].keys, _TAKEN) if groups else {}
    if common := _common(groups, names):
        usual = ", ".join(f"{names[key]}={value}" for key, value in common.items())
        parts.append(f"unless named: {usual}")
    return "; ".join(parts)


def _keys(groups: Sequence[Group]) -> list[Column]:
    """Return the columns of the keys compared by, under their short names; one column for many."""
    names = short_names(groups[0].keys, _TAKEN) if groups else {}
    if len(names) > _KEYS:
        return [text("group", _labels(groups, names), rank=0)]
    return [key_column(name, [group.keys[key] for group in groups]) for key, name in names.items()]


def _labels(groups: Sequence[Group], names: Mapping[str, str]) -> list[str]:
    """Return the keys in which a group differs from the most common values: `poto alpha=0.5`."""
    common = _common(groups, names)
    labels = []
    for group in groups:
        held = {key: str(cell(value)) for key, value in group.keys.items() if value is not None}
        own = [f"{names[key]}={v}" for key, v in held.items() if v != common.get(key, v)]
        named = [held[key] for key in ("assignment",) if key in held]
        labels.append(" ".join([*named, *own]) or "as usual")
    return labels


def _common(groups: Sequence[Group], names: Mapping[str, str]) -> dict[str, str]:
    """Return the most common value of each key that shares a column with others."""
    if len(names) <= _KEYS:
        return {}
    found = {}
    for key in names:
        values = Counter(str(cell(g.keys[key])) for g in groups if g.keys[key] is not None)
        if key != "assignment" and values:
            found[key] = values.most_common(1)[0][0]
    return found


def _epoch(group: Group) -> str:
    if not group.epochs:  # measurements
        return ""
    return "-" if group.epoch is None else f"{group.epoch}/{group.epochs}"


def _effects(groups: Sequence[Group], metric: Metric) -> list[str]:
    """Return the differences in words; nothing for a group alone."""
    words = [in_words(group, metric) for group in groups]
    return words if set(words) - {"baseline", ""} else [""] * len(words)


def _spread(stat: Stat | None) -> str:
    """Format mean and standard deviation."""
    if stat is None:
        return "-"
    return points(stat.mean) if stat.std is None else f"{stat.mean:.1f}±{stat.std:.1f}"


def _further(name: str, stat: Stat | None) -> str:
    """Format the mean of a further metric or column with its interval."""
    if stat is None:
        return metric_cell(name, None)
    if stat.interval is None:
        return metric_cell(name, stat.mean)
    low, high = (metric_cell(name, limit) for limit in stat.interval)
    return f"{metric_cell(name, stat.mean)} [{low}, {high}]"


def _gap(group: Group) -> str:
    """Format the mean gap with its interval; a star needs several seeds."""
    stat = group.stats.get("gap")
    if stat is None:
        return "-"
    real = group.over == "seeds" and stat.interval is not None and stat.interval.excludes_zero
    return _difference(stat.mean, stat.interval, real)


def _to_baseline(group: Group, metric: Metric) -> str:
    stat = group.stats.get(metric)
    found = stat and stat.to_baseline
    return _difference(found.mean, found.interval, is_real(group, metric)) if found else "-"


def _p(stat: Stat | None) -> str:
    """Format the corrected p value."""
    p = stat.to_baseline.corrected if stat and stat.to_baseline else None
    return "" if p is None else "<0.001" if p < 0.0005 else f"{p:.3f}"


def _difference(value: float, interval: Interval | None, real: bool) -> str:
    """Format a difference: `-1.2 [-2.0, -0.4]*`, with a star if it is real."""
    if interval is None:
        return signed(value)
    low, high = (_limit(limit, interval.excludes_zero) for limit in interval)
    return f"{signed(value)} [{low}, {high}]{'*' if real else ' '}"


def _limit(value: float, excludes_zero: bool) -> str:
    """Format a limit of an interval; with more decimals if it would round to an excluded zero."""
    return f"{value:+.1g}" if excludes_zero and abs(value) < 0.05 else signed(value)


def _over(group: Group) -> str:
    """Return what the intervals are over: of the gap, and of the difference if that differs."""
    over = [each for each in (group.over, group.to_baseline_over) if each]
    return ", ".join(dict.fromkeys(over))
