"""A dot plot per varied key: what AP and the gap are at each of its values."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean

from markupsafe import Markup

from gaplab.results.report.evidence import Evidence, Missing, Setting, ordered, short
from gaplab.results.report.figure import COLORS, WIDTH, Axes, figure
from gaplab.results.report.html import join, panels, paragraph

_METRICS = {"ap": "AP without NMS", "gap": "NMS gap"}
_MOST_VALUES, _MOST_KEYS = 40, 8
"""Number of values of a key, and of keys, that are drawn."""
_REACH = 1.0
"""How far the axis goes beyond all trials, as a part of their range: longer intervals are cut."""


def build(evidence: Evidence) -> Markup:
    """Return two figures per varied key, with the settings as dots."""
    drawn, left_out = list[Markup](), list[str]()
    for name, by_value in factors_of(evidence).items():
        if len(by_value) > _MOST_VALUES or len(drawn) >= 2 * _MOST_KEYS:
            left_out.append(name)
            continue
        drawn += [_figure(name, by_value, metric) for metric in _METRICS]
    if not drawn and not left_out:
        raise Missing("No key has two values among the finished trials.")
    content = [panels(drawn), paragraph(_caption(evidence), "note")] if drawn else []
    if left_out:
        content.append(paragraph(f"Not drawn (too many values): {', '.join(left_out)}.", "note"))
    return join(content)


def factors_of(evidence: Evidence) -> dict[str, dict[str, list[Setting]]]:
    """Return the settings by value of each varied key with several values.

    Keys that divide the settings in the same way, such as two that always have the same value, are
    one entry.
    """
    alike: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for position in range(len(evidence.keys)):
        held = values_of(evidence, (position,)).values()
        alike.setdefault(tuple(sorted(tuple(s.label for s in own) for own in held)), []).append(
            position
        )
    names = list(evidence.keys.values())
    return {
        ", ".join(names[position] for position in positions): values_of(evidence, positions)
        for groups, positions in alike.items()
        if len(groups) > 1
    }


def values_of(evidence: Evidence, positions: Sequence[int]) -> dict[str, list[Setting]]:
    """Return the settings that have the varied keys at `positions`, by their different values."""
    found: dict[str, list[Setting]] = {}
    for setting in evidence.ranked:
        if all(values := [setting.cells[position] for position in positions]):
            found.setdefault(", ".join(dict.fromkeys(values)), []).append(setting)
    return {value: found[value] for value in ordered(found)}


def _caption(evidence: Evidence) -> str:
    intervals = any(setting.interval("ap") for setting in evidence.ranked)
    bars = (
        "; bars are 95 % intervals over seeds, cut where they leave the figure" if intervals else ""
    )
    several = any(
        len(settings) > 1
        for by_value in factors_of(evidence).values()
        for settings in by_value.values()
    )
    found = f"A dot is a setting, the mean over its seeds{bars}."
    if not several:
        return found
    return (
        f"{found} The black line is the mean of all settings with this value, whatever their other "
        "keys are."
    )


def _figure(name: str, by_value: dict[str, list[Setting]], metric: str) -> Markup:
    plot = partial(_plot, by_value=by_value, metric=metric)
    size = (WIDTH, 1.0 + 0.32 * len(by_value))
    return figure(f"{_METRICS[metric]} by {short(name)}", plot, size=size)


def _plot(axes: Axes, by_value: dict[str, list[Setting]], metric: str) -> None:
    rows = list(by_value.items())[::-1]
    for row, (_, settings) in enumerate(rows):
        _row(axes, row, settings, metric)
    axes.set_yticks(range(len(rows)), [short(value) for value, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(visible=False, axis="y")
    values = [v for _, settings in rows for s in settings for v in s.values(metric)]
    margin = max(_REACH * (max(values) - min(values)), 0.5)
    lowest, highest = axes.get_xlim()
    axes.set_xlim(max(lowest, min(values) - margin), min(highest, max(values) + margin))


def _row(axes: Axes, row: int, settings: Sequence[Setting], metric: str) -> None:
    """Draw the settings with one value of a key, a little apart from each other."""
    means = [setting.mean(metric) or 0.0 for setting in settings]
    step = min(0.12, 0.6 / len(settings))
    for place, (setting, mean) in enumerate(zip(settings, means, strict=True)):
        y = row + step * (place - (len(settings) - 1) / 2)
        if interval := setting.interval(metric):
            axes.plot([interval.low, interval.high], [y, y], color=COLORS[0], linewidth=1)
        axes.plot([mean], [y], color=COLORS[0], marker="o", linestyle="")
    if len(settings) > 1:
        axes.plot([fmean(means)] * 2, [row - 0.4, row + 0.4], color="black", linewidth=1.5)
