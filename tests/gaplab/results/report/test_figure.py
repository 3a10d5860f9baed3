"""Figures: text that stays text, ids that differ, colours that differ without colour vision."""

from itertools import pairwise

import pytest

from gaplab.results.report.figure import COLORS, OTHER, Axes, color_map, figure, looks, sample
from tests.gaplab.results.report.making import Tree

NAMES = ("$x^2$ costs $5", "<b>&amp;", "漢字 \N{GRINNING FACE}", 'a"b', "")


def luminance(color: tuple[float, ...]) -> float:
    """Rec. 709, of linear light."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_text_is_the_text_that_was_given(name: str) -> None:
    def plot(axes: Axes) -> None:
        axes.set_yticks([0], [name])

    found = Tree(figure(name, plot, x=name))
    assert found.balanced
    assert found.text.count(name) >= 3 or not name
    assert found.all("aria-label") == [name]


def test_equal_figures_have_different_ids() -> None:
    def plot(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], marker="o")

    both = [Tree(figure("a", plot)) for _ in "ab"]
    first, second = (set(each.all("id")) for each in both)
    assert first
    assert first.isdisjoint(second)


def test_looks_differ_in_colour_dash_and_mark() -> None:
    found = list(looks([str(i) for i in range(len(COLORS))]).values())
    assert len({look.color for look in found}) == len({str(look.dash) for look in found}) == 7
    assert len({look.marker for look in [*found, OTHER]}) == 8
    assert "<svg" in sample(OTHER)


def test_the_colour_map_only_gets_lighter() -> None:
    values = [luminance(color_map()(part / 20)) for part in range(21)]
    assert all(a < b for a, b in pairwise(values))
