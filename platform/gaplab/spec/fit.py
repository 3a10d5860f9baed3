"""Check that the sections of an experiment fit each other. Each problem begins with its key."""

from typing import Protocol as Structure

from detectors.assigners.base import Strategy
from detectors.assigners.positions import need_positions
from detectors.data.base import NO_MASKS, DataError, DataOptions
from detectors.evaluation.protocol import Protocol
from detectors.models.base import DetectorOptions
from detectors.models.parts import check_freeze
from detectors.options import Options
from detectors.training import Training

_NO_MASK_DETECTOR = (
    "evaluation.protocol: measures masks, which the detector does not predict; choose another "
    "protocol, or detector fcos or retinanet with detector.masks: {name: condinst}"
)


class Sections(Structure):
    """The sections that define what is trained; an `Experiment` has them."""

    @property
    def data(self) -> DataOptions:
        """The data set."""
        ...

    @property
    def detector(self) -> DetectorOptions:
        """The detector."""
        ...

    @property
    def assignment(self) -> Strategy:
        """The label assignment."""
        ...

    @property
    def training(self) -> Training:
        """The schedule and the losses."""
        ...


def unfit(experiment: Sections, protocol: Protocol, workers: int, *, gpus: bool) -> list[str]:
    """Return why the sections of an experiment can't be combined; empty if they can.

    Args:
        experiment: the sections that define what is trained.
        protocol: how it is measured.
        workers: number of processes that train it.
        gpus: whether they have GPUs.
    """
    detector, assignment = experiment.detector, experiment.assignment
    codes: dict[str, str] = {name: detector.branch(name).box for name in assignment.branches()}
    return [
        *experiment.training.unfit_losses(codes),
        *detector.unfit(assignment),
        *_unfit_anchors(experiment),
        *_unfit_queries(experiment, protocol),
        *_unfit_masks(experiment, masks=protocol.masks),
        *_unfit_devices(experiment.training, workers, gpus=gpus),
        *_unknown_parts(experiment),
    ]


def _unfit_anchors(experiment: Sections) -> list[str]:
    """Return which assigners need one point per cell where the detector has several anchors."""
    detector, assignment = experiment.detector, experiment.assignment
    branches = [*assignment.branches().items(), *assignment.auxiliary().items()]
    counts = {
        (_name(each.assigner), len(detector.branch(branch).anchors))
        for branch, each in branches
        if each.assigner.one_per_cell
    }
    return [
        f"assignment: {name} needs one point per cell, but {_name(detector)} has {count}; choose "
        "another assignment, or a detector with one point per cell (fcos, onenet)"
        for name, count in sorted(counts)
        if count > 1
    ]


def _unfit_queries(experiment: Sections, protocol: Protocol) -> list[str]:
    """Return why the detector can't be trained or measured if its points are queries."""
    assignment = experiment.assignment
    if experiment.detector.located:
        return []
    problems = need_positions(assignment) + experiment.training.unfit_queries(assignment)
    if protocol.level_range is not None or protocol.spatial_range is not None:
        problems.append(
            "evaluation.protocol: level_range and spatial_range need the positions of points, "
            "which queries do not have; choose another protocol"
        )
    return problems


def _unfit_masks(experiment: Sections, *, masks: bool) -> list[str]:
    """Return why masks can't be trained or measured."""
    if not experiment.detector.segments:
        return [_NO_MASK_DETECTOR] if masks else []
    problems = experiment.training.unfit_masks()
    if not experiment.data.segmented:
        problems.append(
            f"detector.masks: objects of data {experiment.data.label} have no masks; {NO_MASKS}, "
            "or train without masks (detector.masks: null)"
        )
    return problems


def _unfit_devices(training: Training, workers: int, *, gpus: bool) -> list[str]:
    """Return why the training can't run on its workers; empty if it can."""
    problems = []
    if training.batch < workers:
        problems.append(
            f"training.batch: must be at least resources.workers ({workers}), got {training.batch}"
        )
    share = training.batch // workers
    if training.accumulate > max(1, share):
        problems.append(
            f"training.accumulate: must be at most the images of a worker per step ({share}), "
            f"got {training.accumulate}"
        )
    if training.sync_batch_norm and not gpus:
        problems.append(
            "training.sync_batch_norm: needs GPUs; set resources.gpus_per_worker, or "
            "sync_batch_norm: false"
        )
    return problems


def _unknown_parts(experiment: Sections) -> list[str]:
    """Return why `training.freeze` doesn't fit the detector; empty if it does."""
    branches, freeze = tuple(experiment.assignment.branches()), experiment.training.freeze
    try:
        if freeze:
            check_freeze(experiment.detector, branches, freeze)
    except DataError:  # timm may be installed where the trial runs, and only there
        return []
    except ValueError as error:
        return [f"training.freeze: {error}"]
    return []


def _name(options: Options) -> str:
    return str(options.model_dump()["name"])
