"""Heat maps of two keys that were varied against each other, such as alpha and the prior."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import combinations
from statistics import fmean

from markupsafe import Markup

from gaplab.formatting import points, signed
from gaplab.results.report.evidence import Evidence, Missing, ordered, short
from gaplab.results.report.figure import WIDTH, Axes, figure, heat_map
from gaplab.results.report.html import join, panels, paragraph

Cells = Mapping[tuple[str, str], float]
"""The mean of a metric by a value of each of two keys."""
_METRICS = {"ap": "AP without NMS", "gap": "NMS gap"}
_MOST_GRIDS, _MOST_VALUES = 6, 12
_FILLED = 0.6
"""Smallest part of all combinations that has finished trials."""


def build(evidence: Evidence) -> Markup:
    """Return two heat maps per pair of keys."""
    pairs = list(pairs_of(evidence))
    if not pairs:
        raise Missing("No two keys were varied against each other in finished trials.")
    drawn = [_figure(evidence, pair, metric) for pair in pairs[:_MOST_GRIDS] for metric in _METRICS]
    note = "A cell is the mean over all finished trials with these two values. Empty: none."
    if (more := len(pairs) - _MOST_GRIDS) > 0:
        note += f" {more} more pairs of keys are not drawn."
    return join([panels(drawn), paragraph(note, "note")])


def pairs_of(evidence: Evidence) -> Iterator[tuple[int, int]]:
    """Yield the positions of two keys, most of whose combinations have finished trials."""
    for pair in combinations(range(len(evidence.keys)), 2):
        cells = cells_of(evidence, pair, "ap")
        rows, columns = ({key[axis] for key in cells} for axis in (0, 1))
        sizes = len(rows), len(columns)
        enough = len(cells) >= _FILLED * sizes[0] * sizes[1]
        if min(sizes) >= 2 and max(sizes) <= _MOST_VALUES and enough:
            yield pair


def cells_of(evidence: Evidence, pair: tuple[int, int], metric: str) -> Cells:
    """Return the mean of a metric by the values of two varied keys."""
    found: dict[tuple[str, str], list[float]] = {}
    for setting in evidence.ranked:
        first, second = (setting.cells[position] for position in pair)
        if first and second:
            found.setdefault((first, second), []).extend(setting.values(metric))
    return {key: fmean(values) for key, values in found.items()}


def _figure(evidence: Evidence, pair: tuple[int, int], metric: str) -> Markup:
    cells = cells_of(evidence, pair, metric)
    rows, columns = (ordered(key[axis] for key in cells) for axis in (0, 1))
    names = list(evidence.keys.values())
    plot = partial(_plot, cells=cells, rows=rows, columns=columns, metric=metric)
    size = (WIDTH, 1.1 + 0.3 * len(rows))
    labels = {"x": short(names[pair[1]]), "y": short(names[pair[0]])}
    return figure(_METRICS[metric], plot, size=size, **labels)


def _plot(axes: Axes, cells: Cells, rows: list[str], columns: list[str], metric: str) -> None:
    values = [[cells.get((row, column)) for column in columns] for row in rows]
    show = signed if metric == "gap" else points
    heat_map(axes, values, show)
    axes.set_xticks(range(len(columns)), [short(each, 10) for each in columns])
    axes.set_yticks(range(len(rows)), [short(each) for each in rows])
