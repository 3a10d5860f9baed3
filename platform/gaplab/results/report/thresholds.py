"""Precision against recall, and duplicates against the score threshold, without NMS and with it."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from detectors.evaluation.operating import Judged, operating_points
from gaplab.results.report.evidence import SHOWN
from gaplab.results.report.figure import Axes, Look, figure
from gaplab.results.report.html import captioned, join, missing, panels, paragraph
from gaplab.results.report.series import looks_of
from gaplab.results.report.stored import Archive

Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]
"""Values on the x axis and on the y axis."""
_RECALLS = np.linspace(0, 1, 101)
_THRESHOLDS = np.linspace(0.02, 0.98, 49)
_SIZE = (2.6, 1.9)


def precision_recall(archive: Archive) -> Markup:
    """Return one figure per setting with precision against recall."""
    note = (
        "All classes together, a detection is right from an IoU of 0.5 on, as COCO matches. Solid: "
        "without NMS; dashed: with NMS. Where the solid line is lower, duplicates cost precision. "
        "One trial per setting."
    )
    plot = partial(_plot, curve=precision_curve, x=(0, 1), y=(0, 1.02))
    return _section(archive, plot, ("recall", "precision"), note)


def duplicates(archive: Archive) -> Markup:
    """Return one figure per setting with duplicates against the score threshold."""
    note = (
        "Duplicates per found object: detections that overlap the same object with an IoU of at "
        "least 0.5, minus one. Solid: without NMS; dashed: with NMS. One trial per setting."
    )
    pairs = [each.stored.judged for each in archive.shown(SHOWN)[0]]
    highest = max(duplicates_curve(each)[1].max(initial=0) for p in pairs for each in p)
    plot = partial(_plot, curve=duplicates_curve, x=(0, 1), y=(0, 1.05 * max(highest, 0.1)))
    return _section(archive, plot, ("score threshold", "duplicates"), note)


def precision_curve(judged: Judged) -> Curve:
    """Return recall and the highest precision at that recall or a higher one, in [0, 1]."""
    true = np.cumsum(judged.matched >= 0)
    counted = np.cumsum(judged.counted)
    reached = true / max(int(judged.objects.sum()), 1)
    precision = true / np.maximum(counted, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(reached, _RECALLS)
    known = first < len(best)
    return _RECALLS[known], best[first[known]]


def duplicates_curve(judged: Judged) -> Curve:
    """Return score thresholds and duplicates per object; thresholds without any are left out."""
    found = operating_points(judged, _THRESHOLDS.tolist())
    pairs = [(each.threshold, each.duplicates) for each in found if each.duplicates is not None]
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return x, y


def _section(
    archive: Archive,
    plot: Callable[..., None],
    labels: tuple[str, str],
    note: str,
) -> Markup:
    """Return one figure per setting, each with both sets of detections."""
    styles, drawn, images = looks_of(archive.evidence), list[Markup](), set[int]()
    shown, problems = archive.shown(SHOWN)
    for each in shown:
        images.add(each.stored.images)
        label = each.setting.label
        own = partial(plot, judged=each.stored.judged, look=styles[label])
        shape = figure("", own, size=_SIZE, x=labels[0], y=labels[1])
        drawn.append(captioned(shape, label))
    counted = f"Measured on {_numbers(sorted(images))} validation images."
    content = [missing(problems), panels(drawn, "small"), paragraph(f"{note} {counted}", "note")]
    return join(content)


def _numbers(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _plot(
    axes: Axes,
    judged: tuple[Judged, Judged],
    look: Look,
    curve: Callable[[Judged], Curve],
    x: tuple[float, float],
    y: tuple[float, float],
) -> None:
    for each, dash in zip(judged, ("-", (0, (3, 2))), strict=True):
        axes.plot(*curve(each), color=look.color, linestyle=dash)
    axes.set(xlim=x, ylim=y)
