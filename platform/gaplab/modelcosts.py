"""What the detectors of a sweep weigh, and what one image costs them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from detectors.assigners.base import Branch
from detectors.cost import ModelCost, model_cost
from detectors.data.base import DataError
from detectors.models.base import DetectorOptions
from gaplab.records import TrialRecord
from gaplab.spec import Experiment
from gaplab.sweep import Outline, experiment_of

Size = tuple[int, int]
"""Height and width of an image, in pixels."""


@dataclass(frozen=True)
class ModelLine:
    """One detector of a sweep: with all branches in training, with the one kept at inference.

    names: the rows that have it, or the assignments in a spec without rows. problem: why it can't
    be built here, else empty; then there are no costs.
    """

    names: tuple[str, ...]
    detector: str
    size: Size
    training: ModelCost | None
    inference: ModelCost | None
    problem: str = ""

    def plain(self) -> dict[str, Any]:
        """The line as plain JSON."""
        return asdict(self)


def model_lines(outline: Outline, size: Size | None) -> list[ModelLine]:
    """The different detectors of a sweep, on images of `size` or of the data's full size."""
    found: dict[_Key, dict[str, None]] = {}
    for name, trial in _named(outline):
        experiment = experiment_of(trial)
        data = experiment.data.expected()
        key = (
            experiment.detector,
            data.classes,
            tuple(experiment.assignment.branches()),
            size or (data.height, data.width),
        )
        found.setdefault(key, {})[name] = None
    return [_line(tuple(names), key) for key, names in found.items()]


def training_cost(experiment: Experiment) -> ModelCost:
    """One image of the data's full size, all branches. Raises DataError: it can't be built here."""
    data, branches = experiment.data.expected(), tuple(experiment.assignment.branches())
    return _cost(experiment.detector, data.classes, branches, (data.height, data.width), True)


_Key = tuple[DetectorOptions, int, tuple[Branch, ...], Size]


def _named(outline: Outline) -> Iterator[tuple[str, TrialRecord]]:
    rows: Mapping[str, tuple[TrialRecord, ...]] = outline.rows
    if not rows:
        yield from ((trial.assignment, trial) for trial in outline.sweep.trials)
    for row, trials in rows.items():
        yield from ((row, trial) for trial in trials)


def _line(names: tuple[str, ...], key: _Key) -> ModelLine:
    detector, classes, branches, size = key
    name: str = detector.model_dump(include={"name"})["name"]
    try:
        training = _cost(detector, classes, branches, size, True)
        inference = _cost(detector, classes, branches[:1], size, False)
    except DataError as error:  # a trunk whose library is missing
        return ModelLine(names, name, size, None, None, str(error))
    return ModelLine(names, name, size, training, inference)


@cache
def _cost(
    detector: DetectorOptions, classes: int, branches: tuple[Branch, ...], size: Size, train: bool
) -> ModelCost:
    return model_cost(detector, classes, branches, size, training=train)
