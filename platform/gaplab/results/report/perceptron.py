"""The page of the experiment with perceptrons (000 section 4)."""

from collections.abc import Callable, Mapping

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from detectors.perceptron import Course
from gaplab.formatting import plural, points
from gaplab.results.papers.perceptron import METRICS, Outcomes, mean_over_seeds
from gaplab.results.report.figure import OTHER, Axes, Look, figure, line, looks, sample
from gaplab.results.report.html import (
    Column,
    Part,
    document,
    join,
    legend,
    panels,
    paragraph,
    table,
    text,
)
from gaplab.spec.perceptron import PerceptronSpec

_NOTE = (
    "Means over images and seeds. A perceptron that has converged stays as it is. The axis is "
    "logarithmic: the state before the first update is at 1."
)


def perceptron_page(spec: PerceptronSpec, found: Outcomes) -> str:
    """Return figures and a table of what was measured, as one HTML page."""
    curves: dict[str, Callable[[Course], NDArray[np.generic]]] = {
        "Samples with a positive score": lambda course: course.positives,
        "Score gap": lambda course: course.score_gap,
        "Images that converged (%)": _converged,
    }
    styles = dict.fromkeys(found, OTHER) | looks(list(found))
    marks = legend((sample(look), row) for row, look in styles.items())
    figures = panels(_curves(title, values, found, styles) for title, values in curves.items())
    sections = [
        Part("course", "Over the updates", join([paragraph(_NOTE, "note"), marks, figures])),
        Part("table", "Quantities", _table(found)),
    ]
    outcomes = next(iter(found.values()))
    images = len(outcomes[0].course.updates)
    footer = f"Made by gaplab: {plural(len(outcomes), 'seed')}, {plural(images, 'image')} each."
    return document(f"Perceptrons: {spec.name}", spec.question, sections, footer)


def _converged(course: Course) -> NDArray[np.generic]:
    """Return 100 for images that have converged before an update, else 0: [T + 1, D]."""
    number = np.arange(len(course.margin))[:, None]
    return np.where(course.converged & (number >= course.updates), 100.0, 0.0)


def _curves(
    title: str,
    values: Callable[[Course], NDArray[np.generic]],
    found: Outcomes,
    styles: Mapping[str, Look],
) -> Markup:
    def plot(axes: Axes) -> None:
        for row, look in styles.items():
            courses = [each.course for each in found[row].values()]
            mean = np.mean([values(course).mean(1) for course in courses], axis=0)
            at = np.unique(np.geomspace(1, len(mean), 200).astype(int))
            axes.plot(at, mean[at - 1], **line(look), markevery=0.15)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")

    return figure(title, plot, x="update")


def _table(found: Outcomes) -> Markup:
    columns = [text("quantity"), *map(Column, found)]
    rows = [
        [meaning, *(points(mean_over_seeds(found, row, name)) for row in found)]
        for name, meaning in METRICS.items()
    ]
    return table(columns, rows)
