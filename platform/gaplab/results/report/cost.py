"""AP without NMS against the processor time of training."""

from functools import partial

from markupsafe import Markup

from gaplab.results.report.evidence import Evidence, Missing, Run
from gaplab.results.report.figure import Axes, figure
from gaplab.results.report.html import join, panels, paragraph
from gaplab.results.report.series import behind, legend_of, looks_of

_SCALES = ((3600 * 1.5, 3600.0, "hours"), (90.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From how many seconds a unit is used, its seconds, and its name."""


def build(evidence: Evidence) -> Markup:
    """Return AP without NMS and the gap against GPU time, or CPU time where no GPU was used."""
    runs = [run for run in evidence.runs if run.finished]
    if not any(run.cpu_seconds or run.gpu_seconds for run in runs):
        raise Missing("The ledger holds no processor time of finished trials.")
    on_gpu = all(run.gpu_seconds for run in runs)
    kind = "GPU" if on_gpu else "CPU"
    drawn = [
        _figure(evidence, title, metric, on_gpu)
        for title, metric in (("AP without NMS", "ap"), ("NMS gap", "gap"))
    ]
    note = (
        f"Each mark is a trial. {kind} time is that of all its attempts, training and evaluation. "
        "The grey line joins the trials that no cheaper one surpasses."
    )
    if not on_gpu and any(run.gpu_seconds for run in runs):
        note += " Only some trials ran on a GPU, so times of trials may not be comparable."
    return join([legend_of(evidence, evidence.ranked), panels(drawn), paragraph(note, "note")])


def _figure(evidence: Evidence, title: str, metric: str, on_gpu: bool) -> Markup:
    runs = [run for run in evidence.runs if run.finished]
    longest = max(seconds_of(run, on_gpu) for run in runs)
    unit, name = next((unit, name) for least, unit, name in _SCALES if longest >= least)
    plot = partial(_plot, evidence=evidence, metric=metric, unit=unit, on_gpu=on_gpu)
    return figure(title, plot, x=f"{'GPU' if on_gpu else 'CPU'} {name}")


def seconds_of(run: Run, on_gpu: bool) -> float:
    """Return the GPU or CPU seconds of a trial."""
    return run.gpu_seconds if on_gpu else run.cpu_seconds


def _plot(axes: Axes, evidence: Evidence, metric: str, unit: float, on_gpu: bool) -> None:
    styles = looks_of(evidence)
    every = list[tuple[float, float]]()
    for setting in behind(evidence.ranked, styles):
        found = [(seconds_of(r, on_gpu) / unit, r.value(metric) or 0.0) for r in setting.finished]
        look = styles[setting.label]
        axes.plot(*zip(*found, strict=True), color=look.color, marker=look.marker, linestyle="")
        every += found
    front = pareto(every)
    axes.plot(*zip(*front, strict=True), color="#b0b0b0", linewidth=1, zorder=0)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, value) that no cheaper or equally cheap point surpasses, by cost."""
    front = list[tuple[float, float]]()
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front
