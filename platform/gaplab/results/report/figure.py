"""Figures of a report as SVG inside of HTML. The only module that imports matplotlib.

Text stays text, so that a browser finds it. Every figure is small, so that it is readable on a
phone; wide screens show several side by side.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes as Axes
from matplotlib.colors import Colormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of Okabe and Ito that differ for every kind of colour vision, yellow left out: it can't
be read on white."""
GREY = "#9a9a9a"
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_MARKERS = "osD^vPX"
MAP = "cividis"
"""A colour map that differs in lightness, for every kind of colour vision and in print."""
WIDTH, HEIGHT = 3.5, 2.6
"""Inches of a figure."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_numbers = count(1)


@dataclass(frozen=True)
class Look:
    """How one series is drawn: differs by colour, dash and mark."""

    color: str
    dash: Any
    marker: str


OTHER = Look(GREY, "-", ".")
"""The look of series without a colour of their own."""


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Return the look of each of at most as many series as there are colours."""
    found = zip(labels, COLORS, _DASHES, _MARKERS, strict=False)
    return {label: Look(*look) for label, *look in found}


def figure(
    title: str,
    plot: Callable[[Axes], None],
    *,
    x: str = "",
    y: str = "",
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> Markup:
    """Draw one figure.

    Args:
        title: heading of the figure.
        plot: draws into the axes.
        x: label of the x axis.
        y: label of the y axis.
        size: width and height in inches.
    """
    # A glyph that the font lacks is only measured wrongly: the browser draws the text.
    with mpl.rc_context(_STYLE), warnings.catch_warnings(action="ignore"):
        drawn = Figure(figsize=size)
        axes = drawn.add_subplot()
        axes.set(title=title, xlabel=x, ylabel=y)
        plot(axes)
        return Markup("<figure>{}</figure>\n").format(_svg(drawn, title))


def sample(look: Look) -> Markup:
    """Return a small picture of a series for a legend."""
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(0.5, 0.16))
        drawn.set_layout_engine("none")
        axes = drawn.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.set(xlim=(-1, 1), ylim=(-1, 1))
        axes.plot([-1, 0, 1], [0, 0, 0], **line(look), markevery=[1])
        return _svg(drawn, "", "key")


def line(look: Look) -> dict[str, Any]:
    """Return the arguments with which matplotlib draws a line of this look."""
    return {"color": look.color, "linestyle": look.dash, "marker": look.marker}


def whole_numbers(axes: Axes) -> None:
    """Label the x axis at whole numbers only."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def color_map() -> Colormap:
    """Return the colour map of maps and grids."""
    return mpl.colormaps[MAP]


def heat_map(
    axes: Axes, values: Sequence[Sequence[float | None]], show: Callable[[float], str]
) -> None:
    """Draw numbers in coloured cells; None is an empty cell."""
    known = [value for row in values for value in row if value is not None]
    low, high = min(known), max(known)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value is not None:
                part = 0.5 if high == low else (value - low) / (high - low)
                color = color_map()(part)
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=color))
                axes.text(x, y, show(value), ha="center", va="center", color=_ink(part))
    axes.set(xlim=(-0.5, len(values[0]) - 0.5), ylim=(len(values) - 0.5, -0.5))
    axes.grid(visible=False)
    axes.tick_params(length=0)


def ramp() -> Markup:
    """Return a small picture of the colour map, from its lowest value to its highest."""
    colors = [to_hex(color_map()(part / 11)) for part in range(12)]
    bar = Markup('<rect x="{}" width="4" height="12" fill="{}"/>')
    bars = Markup("").join(bar.format(3 * i, color) for i, color in enumerate(colors))
    return Markup('<svg class="key" viewBox="0 0 36 12" aria-hidden="true">{}</svg>').format(bars)


def _ink(part: float) -> str:
    """Return the colour of text on the colour map: its dark half is below 0.5."""
    return "white" if part < 0.5 else "black"


def _svg(drawn: Figure, title: str, kind: str = "") -> Markup:
    """Return the figure as an `<svg>` element whose ids are its own in the whole page."""
    buffer, number = io.StringIO(), next(_numbers)
    drawn.savefig(buffer, format="svg", metadata=_NO_METADATA)
    content = buffer.getvalue()
    content = content[content.index("<svg") :]
    content = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", content, flags=re.DOTALL)
    content = re.sub(r"<[^>]+>", lambda tag: _own_ids(tag[0], number), content)
    head = Markup('<svg role="img" aria-label="{}" class="{}"').format(title, kind)
    return Markup(content.replace("<svg", head, 1))


def _own_ids(tag: str, number: int) -> str:
    """Return a tag with ids that begin with the number of the figure."""
    tag = re.sub(r' id="(?:figure|axes|patch|line2d|text|matplotlib|xtick|ytick)[^"]*"', "", tag)
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>f{number}-", tag)
