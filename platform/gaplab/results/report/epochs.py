"""NMS gap, AP, AP with NMS and every part of the loss over the epochs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from markupsafe import Markup

from gaplab.results.report.evidence import Evidence, Missing, Run
from gaplab.results.report.figure import Axes, Look, figure, line, whole_numbers
from gaplab.results.report.html import join, panels, paragraph
from gaplab.results.report.series import behind, legend_of, looks_of

Curve = Mapping[int, float]
"""A value by epoch."""
_METRICS = {"gap": "NMS gap", "ap": "AP without NMS", "ap_nms": "AP with NMS"}
_MOST_LOSSES = 9
"""Number of parts of losses that are drawn."""


def build(evidence: Evidence) -> Markup:
    """Return a figure per metric and per part of the loss."""
    at = sorted({each.epoch for run in evidence.runs for each in run.evaluations})
    shown = _METRICS if len(at) > 1 else {}  # one epoch is no curve
    measured = [figure_of(evidence, title, _metric(name)) for name, title in shown.items()]
    names = dict.fromkeys(n for r in evidence.runs for each in r.losses.values() for n in each)
    losses = [
        figure_of(evidence, f"loss {name}", _loss(name)) for name in list(names)[:_MOST_LOSSES]
    ]
    drawn = [each for each in measured + losses if each is not None]
    if not drawn and not at:
        raise Missing("No epoch of any trial is in the ledger.")
    notes = [] if losses else ["The ledger holds no losses of these trials."]
    if len(at) == 1:
        notes.append(f"Only epoch {at[0]} was evaluated: its AP and gap are those of the answer.")
    if not drawn:
        raise Missing(" ".join(notes))
    if len(names) > _MOST_LOSSES:
        notes.append(f"Not drawn: the losses {', '.join(list(names)[_MOST_LOSSES:])}.")
    notes.append("Thin lines are trials; the bold line is the mean where there are several seeds.")
    content = [legend_of(evidence, evidence.settings), panels(drawn)]
    return join([*content, *(paragraph(note, "note") for note in notes)])


def figure_of(evidence: Evidence, title: str, curve: Callable[[Run], Curve]) -> Markup | None:
    """Draw one curve per trial, and the mean of each setting; None without a value."""
    curves = {s.label: [each for run in s.runs if (each := curve(run))] for s in evidence.settings}
    if not any(curves.values()):
        return None
    styles = looks_of(evidence)
    order = [setting.label for setting in behind(evidence.settings, styles)]
    plot = partial(_plot, curves={label: curves[label] for label in order}, styles=styles)
    return figure(title, plot, x="epoch")


def _metric(name: str) -> Callable[[Run], Curve]:
    def curve(run: Run) -> Curve:
        values = ((each.epoch, each.metrics.get(name)) for each in run.evaluations)
        return {epoch: value for epoch, value in values if value is not None}

    return curve


def _loss(name: str) -> Callable[[Run], Curve]:
    def curve(run: Run) -> Curve:
        return {epoch: each[name] for epoch, each in run.losses.items() if name in each}

    return curve


def _plot(axes: Axes, curves: Mapping[str, Sequence[Curve]], styles: Mapping[str, Look]) -> None:
    for label, own in curves.items():
        look = line(styles[label])
        several = len(own) > 1
        for each in own:
            thin = {"alpha": 0.35, "linewidth": 0.8, "marker": ""} if several else {}
            _line(axes, each, **(look | thin))
        if several:
            _line(axes, mean_curve(own), **look)
    whole_numbers(axes)


def _line(axes: Axes, curve: Curve, **look: Any) -> None:
    epochs = sorted(curve)
    marked = max(1, len(epochs) // 6)
    axes.plot(epochs, [curve[e] for e in epochs], markevery=marked, **look)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean at the epochs that all curves have."""
    common = set(curves[0]).intersection(*curves)
    return {epoch: fmean(curve[epoch] for curve in curves) for epoch in common}
