"""What a sweep would cost, from what its like has cost before."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from detectors.assigners.base import Branch
from detectors.cost import ModelCost, model_cost
from detectors.data.base import DataError
from detectors.models.base import DetectorOptions
from gaplab.ledger.views import Cost, CostKey
from gaplab.records import TrialRecord
from gaplab.spec.models import Experiment
from gaplab.spec.sweep import Outline, experiment_of


@dataclass(frozen=True)
class Estimate:
    """Expected cost of the trials that are still to run.

    wall_seconds: with `at_once` of them side by side. unknown: trials without any precedent in the
    ledger; the sums leave them out. basis: attempts that the estimate rests on.
    """

    trials: int
    unknown: int
    at_once: int
    wall_seconds: float
    cpu_seconds: float
    gpu_seconds: float
    basis: int


def estimate(
    trials: Sequence[TrialRecord], costs: Mapping[CostKey, Cost], at_once: int
) -> Estimate:
    """Cost of `trials`: each like the mean of its own kind, else like its data set by epochs."""
    known = [cost for trial in trials if (cost := _expected(trial, costs)) is not None]
    return Estimate(
        trials=len(trials),
        unknown=len(trials) - len(known),
        at_once=at_once,
        wall_seconds=makespan([cost.wall_seconds for cost in known], at_once),
        cpu_seconds=sum(cost.cpu_seconds for cost in known),
        gpu_seconds=sum(cost.gpu_seconds for cost in known),
        basis=sum(cost.attempts for cost in costs.values()),
    )


def makespan(seconds: Sequence[float], at_once: int) -> float:
    """When the last of these jobs ends if each in turn takes the first free of `at_once` places."""
    places = [0.0] * max(1, at_once)
    for duration in seconds:
        heapq.heapreplace(places, places[0] + duration)
    return max(places)


def _expected(trial: TrialRecord, costs: Mapping[CostKey, Cost]) -> Cost | None:
    own = costs.get(CostKey(trial.dataset, trial.assignment, trial.epochs))
    if own is not None:
        return own
    like = [(key, cost) for key, cost in costs.items() if key.dataset == trial.dataset]
    if not like:
        return None
    per_epoch = [[seconds / key.epochs for seconds in cost[:3]] for key, cost in like]
    wall, cpu, gpu = (
        sum(column) / len(like) * trial.epochs for column in zip(*per_epoch, strict=True)
    )
    return Cost(wall, cpu, gpu, sum(cost.attempts for _, cost in like))


PASSES = 3
"""A training step costs a forward pass and a backward pass twice as dear."""
V100 = 8e12
"""Operations a second of one V100 in fp32, all losses included: OneNet reports 21 hours on eight
for 36 epochs of FCOS on COCO, which is this within 15 %."""
CORE = 28e9
"""The same of one CPU core on the drawn shapes, measured: 24 to 33e9."""


def training_operations(experiment: Experiment) -> float | None:
    """Multiplications and additions of all training steps; None where the images are not counted
    or the detector can't be built here.

    Of convolutions alone, at the data's full size, all branches included.
    """
    images = experiment.data.expected().images
    if not images:
        return None
    try:
        once = training_cost(experiment)
    except DataError:  # a trunk whose library is missing
        return None
    return 2.0 * once.multiply_adds * PASSES * images * experiment.training.epochs


def compute_line(trials: Sequence[TrialRecord]) -> str | None:
    """Cost of `trials` in one line, in hours of the hardware they ask for; None for none."""
    experiments = [experiment_of(trial) for trial in trials]
    counts = [(each, training_operations(each)) for each in experiments]
    on_gpu = [n for each, n in counts if n is not None and each.resources.gpus_per_worker]
    on_cpu = [n for each, n in counts if n is not None and not each.resources.gpus_per_worker]
    parts = [
        f"{sum(found):.1e} operations, about {sum(found) / rate / 3600:,.1f} hours of one {what}"
        for found, rate, what in ((on_gpu, V100, "V100"), (on_cpu, CORE, "CPU core"))
        if found
    ]
    unknown = len(trials) - len(on_gpu) - len(on_cpu)
    if unknown:
        why = "data of unknown size, or a detector that can't be built here"
        parts.append(f"{unknown} trials left out ({why})")
    return f"by arithmetic: {'; '.join(parts)}" if trials else None


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
