"""Histograms of the score gap: the best minus the second-best score of each object (000 Fig. 4)."""

from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from gaplab.results.report.evidence import SHOWN
from gaplab.results.report.figure import Axes, Look, figure
from gaplab.results.report.html import captioned, join, missing, panels, paragraph
from gaplab.results.report.series import looks_of
from gaplab.results.report.stored import Archive, Stored

_BINS = np.linspace(0, 1, 21)
_SIZE = (2.6, 1.7)


def build(archive: Archive) -> Markup:
    """Return one histogram per setting."""
    styles = looks_of(archive.evidence)
    shown, problems = archive.shown(SHOWN)
    found = [(each.setting, score_gaps(each.stored)) for each in shown]
    highest = max(percentages(gaps).max() for _, gaps in found)
    drawn = [
        captioned(_figure(gaps, styles[setting.label], highest), _caption(setting.label, gaps))
        for setting, gaps in found
    ]
    note = (
        "Score gap of an object: the highest minus the second-highest score of the candidates that "
        "overlap it most with an IoU of at least 0.5, in percent of the objects that have one. "
        "With a gap near 0, a second candidate is as good as the best, and only NMS removes it. "
        "One trial per setting."
    )
    return join([missing(problems), panels(drawn, "small"), paragraph(note, "note")])


def score_gaps(stored: Stored) -> NDArray[np.float64]:
    """Return the score gap of each object that a candidate claims."""
    tops = stored.tops
    claimed = (tops.count > 0) & ~stored.truth.crowd.numpy()
    return np.asarray((tops.best - tops.second)[claimed])


def percentages(gaps: NDArray[np.float64]) -> NDArray[Any]:
    """Return the percentage of the objects in each bin; zeros without objects."""
    counts = np.histogram(gaps, bins=_BINS)[0]
    return np.asarray(100 * counts / max(len(gaps), 1))


def _caption(label: str, gaps: NDArray[np.float64]) -> str:
    mean = f"mean {gaps.mean():.3f}" if len(gaps) else "no object has a candidate"
    return f"{label}: {mean}"


def _figure(gaps: NDArray[np.float64], look: Look, highest: float) -> Markup:
    return figure(
        "",
        partial(_plot, gaps=gaps, look=look, highest=highest),
        size=_SIZE,
        x="score gap",
        y="% of objects",
    )


def _plot(axes: Axes, gaps: NDArray[np.float64], look: Look, highest: float) -> None:
    axes.bar(_BINS[:-1], percentages(gaps), width=np.diff(_BINS), align="edge", color=look.color)
    axes.set(xlim=(0, 1), ylim=(0, 1.05 * highest or 1))
