"""Maps of scores and of labels, from the weights of a trial: which points a detector is trained on.

The detector predicts one validation image with its averaged weights, and the trial's assignment
labels the points of that image as it does in the last epoch of the training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup
from torch import Tensor

from detectors.assigners.base import Branch
from detectors.models.output import Output
from detectors.structures import Assignment, Points, Progress, Sample
from gaplab.errors import UserError
from gaplab.formatting import one_line, plural
from gaplab.results.report.figure import COLORS, color_map, ramp
from gaplab.results.report.html import captioned, join, legend, missing, panels, paragraph
from gaplab.results.report.photographs import data_uri, images_of, photo
from gaplab.results.report.stored import Archive, Shown
from gaplab.results.use.trained import StoredTrial
from gaplab.spec.models import Experiment
from gaplab.spec.sweep import experiment_of

_SETTINGS = 5
_MOST_POINTS = 2000
"""Number of points in one picture."""
_RADIUS = 0.3
"""Radius of a mark, as a part of the stride."""
_PHOTO = "points-photo"
"""The id of the image under the marks."""
_NOTE = (
    "Of one validation image, the one with the most objects: predictions with the averaged weights "
    "of a trial, and the labels that its assignment gives these."
)


@dataclass(frozen=True)
class Predicted:
    """What the trained detector of one setting predicts for one image.

    Attributes:
        label: the setting.
        experiment: the trial's experiment.
        sample: the image.
        output: raw predictions of every branch.
    """

    label: str
    experiment: Experiment
    sample: Sample
    output: Output

    def assignments(self, progress: Progress) -> dict[Branch, Assignment]:
        """Return how each branch labels the points of the image at one moment of the training."""
        return {
            name: supervision.assigner.assign(
                self.output.points[name],
                self.output.branches[name][0].image(0),
                self.sample.targets,
                progress,
            )
            for name, supervision in self.experiment.assignment.branches().items()
        }

    def moments(self) -> dict[Branch, dict[str, Assignment]]:
        """Return the assignments of the first and the last epoch, by branch."""
        first, last = self.assignments(self.at(0)), self.assignments(self.at(-1))
        return {b: {"first epoch": first[b], "last epoch": last[b]} for b in first}

    def at(self, epoch: int) -> Progress:
        """Return an epoch of the training; -1 is the last one."""
        epochs = self.experiment.training.epochs
        return Progress(step=epoch % epochs, steps=epochs, epoch=epoch % epochs, epochs=epochs)

    def head(self, branch: str) -> str:
        """Return the setting, with the branch if there are several."""
        several = len(self.experiment.assignment.branches()) > 1
        return f"{self.label}, {branch}" if several else self.label


def build(archive: Archive) -> Markup:
    """Return positive points, score maps and label maps of one image for some settings."""
    found, problems = predicted(archive)
    if not found:
        return missing(problems)
    parts = (
        ("Positive points", positives(found)),
        ("Scores", scores(found)),
        ("Soft labels", labels(found)),
    )
    sections = (Markup("<h3>{}</h3>\n{}").format(*part) for part in parts)
    return join([paragraph(_NOTE, "note"), missing(problems), *sections])


def positives(found: Sequence[Predicted]) -> Markup:
    """Return the positive points, one picture per setting and branch."""
    drawn = [
        captioned(_points(each, branch, own), _count(each, branch, own))
        for each in found
        for branch, own in each.assignments(each.at(-1)).items()
    ]
    note = (
        "The points that the assignment makes responsible for an object in the last epoch. A mark "
        "grows with the stride of its level; a paler one has a smaller degree. Boxes are objects."
    )
    return join([photo(found[0].sample, _PHOTO), panels(drawn, "small"), paragraph(note, "note")])


def scores(found: Sequence[Predicted]) -> Markup:
    """Return the highest score at each point, one picture per branch and level."""
    drawn = [
        _maps(each, branch, heads[0].scores()[0].amax(dim=1), "score")
        for each in found
        for branch, heads in each.output.branches.items()
    ]
    note = (
        "The highest score of any class at each point, per level, finest first. A detector that "
        "needs no NMS has one peak per object."
    )
    return join([_scale("score"), *drawn, paragraph(note, "note")])


def labels(found: Sequence[Predicted]) -> Markup:
    """Return the degrees in the first and the last epoch of the settings with soft labels."""
    drawn = [
        _maps(each, branch, own.degree, moment)
        for each in found
        for branch, moments in each.moments().items()
        if any(is_soft(own) for own in moments.values())
        for moment, own in moments.items()
    ]
    if not drawn:
        return paragraph("None of these settings uses soft labels.", "missing")
    note = (
        "The degree of each point as a positive of its object: 1 for a certain point, less for an "
        "ambiguous one. Both epochs have the predictions of the trained detector, so they differ "
        "only by the schedule of the assignment."
    )
    return join([_scale("degree"), *drawn, paragraph(note, "note")])


def is_soft(own: Assignment) -> bool:
    """Return whether a point has a degree between 0 and 1."""
    return bool(((own.degree > 0) & (own.degree < 1)).any())


def predicted(archive: Archive) -> tuple[list[Predicted], list[str]]:
    """Return predictions of some settings for one image, and a sentence for each without."""
    shown, problems = archive.alike(_SETTINGS)
    found = list[Predicted]()
    for each in shown:
        try:
            found.append(_predict(archive, each))
        except UserError as error:
            problems.append(f"{each.setting.label}: {one_line(error.problems[0])}")
    return found, problems


@torch.no_grad()
def _predict(archive: Archive, shown: Shown) -> Predicted:
    """Return the predictions for the image with the most objects. Raises UserError."""
    trial = shown.run.trial
    detector = StoredTrial(trial, archive.evidence.home).detector()
    [index] = images_of(shown.stored.truth, 1)
    sample, experiment = archive.dataset(shown.run)[index], experiment_of(trial)
    if not experiment.detector.located:
        raise UserError("its queries have no positions that could be drawn")
    output = detector(sample.image[None], tuple(experiment.assignment.branches()))
    return Predicted(shown.setting.label, experiment, sample, output)


def _count(each: Predicted, branch: str, own: Assignment) -> str:
    count, objects = int((own.object >= 0).sum()), len(each.sample.targets)
    return f"{each.head(branch)}: {plural(count, 'point')} for {plural(objects, 'object')}"


def _points(each: Predicted, branch: str, own: Assignment) -> Markup:
    """Return a picture with a circle for each positive point."""
    sample, points = each.sample, each.output.points[branch]
    height, width = sample.image.shape[1:]
    boxes = join(_object(*box) for box in sample.targets.boxes.tolist())
    circle = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" fill-opacity="{:.2f}"/>')
    positive = torch.nonzero(own.object >= 0)[:_MOST_POINTS, 0]
    circles = join(
        circle.format(*points.xy[i].tolist(), _RADIUS * float(points.stride[i]), float(degree))
        for i, degree in zip(positive, own.degree[positive], strict=True)
    )
    return Markup(
        '<svg class="picture points" viewBox="0 0 {} {}" role="img" aria-label="positive points">'
        '<use href="#{}"/>{}{}</svg>'
    ).format(width, height, _PHOTO, boxes, circles)


def _object(x1: float, y1: float, x2: float, y2: float) -> Markup:
    box = '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" stroke="{}"/>'
    return Markup(box).format(x1, y1, x2 - x1, y2 - y1, COLORS[0])


def _maps(each: Predicted, branch: str, values: Tensor, what: str) -> Markup:
    """Return one picture per level of a value in [0, 1] of every point."""
    drawn = (
        captioned(_image(cells), f"stride {stride:g}")
        for stride, cells in level_maps(each.output.points[branch], values)
    )
    return captioned(panels(drawn, "maps"), f"{each.head(branch)}: {what}")


def level_maps(points: Points, values: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Yield stride and map [rows, columns] of each level; the highest value of a cell's anchors.

    Args:
        points: N points.
        values: [N], at least 0.
    """
    for level in torch.unique(points.level).tolist():
        own = points.level == level
        stride = float(points.stride[own][0])
        column, row = (points.xy[own] / stride).long().unbind(1)
        rows, columns = int(row.max()) + 1, int(column.max()) + 1
        cells = values.new_zeros(rows * columns)
        cells.scatter_reduce_(0, row * columns + column, values[own], "amax")
        yield stride, cells.view(rows, columns)


def _image(values: Tensor) -> Markup:
    """Return a map [rows, columns] of values in [0, 1] in colours."""
    colors = torch.from_numpy(color_map()(values.clamp(0, 1).numpy(), bytes=True))
    uri = data_uri(colors[..., :3].permute(2, 0, 1), "png")
    about = f"{values.shape[1]} x {values.shape[0]} cells, highest value {float(values.max()):.2f}"
    return Markup('<img src="{}" alt="{}">').format(uri, about)


def _scale(name: str) -> Markup:
    """Return the legend of the colours."""
    return legend([(ramp(), f"{name} from 0 to 1")])
