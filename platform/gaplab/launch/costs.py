"""The cost of a sweep before it runs: from what similar trials have cost, or by arithmetic.

`estimate` uses the costs of finished attempts in the ledger. For trials without any precedent,
`compute_line` counts the operations of training and divides by the speed of known hardware.
`detector_costs` reports parameters and operations of each detector of a sweep.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from detectors.assigners.base import Branch
from detectors.cost import ModelCost, model_cost
from detectors.data.base import DataError, DataOptions, Expected
from detectors.models.base import DetectorOptions
from gaplab.formatting import duration, plural
from gaplab.ledger.views import CostKey, MeanCost
from gaplab.records import TrialRecord
from gaplab.spec.models import Experiment
from gaplab.spec.sweep import Outline, experiment_of


@dataclass(frozen=True)
class Estimate:
    """Expected cost of trials that are still to run.

    Attributes:
        trials: number of trials.
        unknown: number of trials without any precedent, which the sums leave out.
        at_once: number of trials that run side by side.
        wall_seconds: time until the last trial ends.
        cpu_seconds: CPU time over all trials and workers.
        gpu_seconds: time of GPUs held by all trials.
        basis: number of attempts that the estimate is based on.
    """

    trials: int
    unknown: int
    at_once: int
    wall_seconds: float
    cpu_seconds: float
    gpu_seconds: float
    basis: int


def estimate(
    trials: Sequence[TrialRecord], costs: Mapping[CostKey, MeanCost], at_once: int
) -> Estimate:
    """Estimate the cost of trials from the mean costs of similar ones.

    A trial costs as much as others with its data set, assignment and number of epochs, else as
    others on its data set, in proportion to the epochs.
    """
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
    """Return when the last job ends if each in turn takes the first free of `at_once` slots."""
    slots = [0.0] * max(1, at_once)
    for job in seconds:
        heapq.heapreplace(slots, slots[0] + job)
    return max(slots)


def _expected(trial: TrialRecord, costs: Mapping[CostKey, MeanCost]) -> MeanCost | None:
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
    return MeanCost(wall, cpu, gpu, sum(cost.attempts for _, cost in like))


PASSES = 3
"""Cost of a training step in forward passes; the backward pass costs two."""
V100 = 8e12
"""Effective operations per second of one V100 in fp32: OneNet reports 21 hours on eight of them for
36 epochs of FCOS on COCO, which this rate reproduces within 15 %."""
CORE = 28e9
"""The same for one CPU core on the drawn shapes, where 24e9 to 33e9 were measured."""


def training_operations(experiment: Experiment, data: Expected) -> float | None:
    """Return the number of multiplications and additions of all training steps on `data`.

    Only convolutions and matrix products count, with images of the data's full size and all
    branches. None if the number of images is unknown or the detector can't be built here.
    """
    if not data.images:
        return None
    size, branches = (data.height, data.width), tuple(experiment.assignment.branches())
    try:
        once = _model_cost(experiment.detector, data.classes, branches, size, True)
    except DataError:  # the library of a backbone is missing
        return None
    return 2.0 * once.multiply_adds * PASSES * data.images * experiment.training.epochs


def compute_line(trials: Sequence[TrialRecord]) -> str | None:
    """Return in one line what trials cost by arithmetic, on the hardware that they ask for.

    None if there are no trials.
    """
    total, unknown = {"V100": 0.0, "CPU core": 0.0}, 0
    known = cache(DataOptions.known)
    for alike in _alike(trials):
        experiment = experiment_of(alike[0])
        count = training_operations(experiment, known(experiment.data))
        if count is None:
            unknown += len(alike)
        else:
            device = "V100" if experiment.resources.gpus_per_worker else "CPU core"
            total[device] += count * len(alike)
    parts = [
        f"{total[what]:.1e} operations, {_rough(total[what] / rate)} on one {what}"
        for what, rate in (("V100", V100), ("CPU core", CORE))
        if total[what]
    ]
    if unknown:
        why = "data of unknown size, or a detector that can't be built here"
        parts.append(f"{plural(unknown, 'trial')} left out ({why})")
    return f"by arithmetic: {'; '.join(parts)}" if trials else None


def _alike(trials: Sequence[TrialRecord]) -> Iterable[list[TrialRecord]]:
    """Return trials in groups that differ at most in their seed.

    The trials of a spec have equal sections in common, so these are compared by identity, which is
    much faster; groups that could be one are harmless.
    """
    groups = dict[tuple[int, ...], list[TrialRecord]]()
    for trial in trials:
        key = tuple(map(id, {**trial.config, "seed": None}.values()))
        groups.setdefault(key, []).append(trial)
    return groups.values()


def _rough(seconds: float) -> str:
    return "under a minute" if seconds < 60 else f"about {duration(seconds)}"


Size = tuple[int, int]
"""Height and width of an image, in pixels."""


@dataclass(frozen=True)
class DetectorCost:
    """The cost of one detector of a sweep.

    Attributes:
        names: the rows that use it, or the assignments in a spec without rows.
        detector: name of the detector.
        size: size of the image.
        training: cost in training, with all branches; None if it can't be built here.
        inference: cost at inference, with the branch that is kept; None likewise.
        problem: why it can't be built here, else empty.
    """

    names: tuple[str, ...]
    detector: str
    size: Size
    training: ModelCost | None
    inference: ModelCost | None
    problem: str = ""

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain JSON."""
        return asdict(self)


_Key = tuple[DetectorOptions, int, tuple[Branch, ...], Size]
"""Everything that the cost of a detector depends on."""


def detector_costs(outline: Outline, size: Size | None) -> list[DetectorCost]:
    """Return the costs of the different detectors of a sweep.

    Args:
        outline: the sweep.
        size: size of the images; None for the full size of each data set.
    """
    found: dict[_Key, dict[str, None]] = {}
    known = cache(DataOptions.known)
    for name, trial in _named(outline):
        experiment = experiment_of(trial)
        data = known(experiment.data)
        key = (
            experiment.detector,
            data.classes,
            tuple(experiment.assignment.branches()),
            size or (data.height, data.width),
        )
        found.setdefault(key, {})[name] = None
    return [_detector_cost(tuple(names), key) for key, names in found.items()]


def _named(outline: Outline) -> Iterator[tuple[str, TrialRecord]]:
    rows: Mapping[str, tuple[TrialRecord, ...]] = outline.rows
    if not rows:
        yield from ((trial.assignment, trial) for trial in outline.sweep.trials)
    for row, trials in rows.items():
        yield from ((row, trial) for trial in trials)


def _detector_cost(names: tuple[str, ...], key: _Key) -> DetectorCost:
    detector, classes, branches, size = key
    name: str = detector.model_dump(include={"name"})["name"]
    try:
        training = _model_cost(detector, classes, branches, size, True)
        inference = _model_cost(detector, classes, branches[:1], size, False)
    except DataError as error:  # the library of a backbone is missing
        return DetectorCost(names, name, size, None, None, str(error))
    return DetectorCost(names, name, size, training, inference)


@cache
def _model_cost(
    detector: DetectorOptions, classes: int, branches: tuple[Branch, ...], size: Size, train: bool
) -> ModelCost:
    return model_cost(detector, classes, branches, size, training=train)
