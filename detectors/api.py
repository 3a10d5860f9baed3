"""Build, train and measure a detector in one process, without the platform.

A trial of gaplab runs the same code on several processes, with checkpoints and a ledger.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from detectors.assigners.base import Branch, Strategy
from detectors.assigners.positions import need_positions
from detectors.data.base import Dataset
from detectors.data.loader import Shares
from detectors.data.mask_views import ground_truth
from detectors.engine import Learner, train_epoch
from detectors.evaluation.gap import Gap, gap_between
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.evaluation.selection import Selected
from detectors.inference import CandidateRequest, MaskRequest, predict_batches
from detectors.models.base import DetectorOptions
from detectors.models.dense import DenseDetector
from detectors.models.queries import QueryDetector
from detectors.structures import Progress
from detectors.training import Training
from detectors.world import LocalWorld, seed_torch


def build_detector(
    options: DetectorOptions, assignment: Strategy, num_classes: int, seed: int = 0
) -> nn.Module:
    """Build a detector with random weights and one predictor per branch of the assignment.

    Args:
        options: options of an entry of `DETECTORS`.
        assignment: options of an entry of `ASSIGNERS`.
        num_classes: number of classes of the data set.
        seed: seeds PyTorch's generator, from which the weights are drawn.

    Raises:
        ValueError: options of the detector can't be combined with the assignment.

    Examples:
        >>> import detectors
        >>> options = detectors.DETECTORS["fcos"](channels=16, tower_convs=1)
        >>> assignment = detectors.ASSIGNERS["dual"]()
        >>> detector = detectors.build_detector(options, assignment, num_classes=4)
        >>> list(detector.branches)
        ['o2o', 'o2m']
    """
    if problems := options.unfit(assignment):
        raise ValueError("; ".join(problems))
    torch.manual_seed(seed)
    return options.build(num_classes, tuple(assignment.branches()))


def train(
    detector: nn.Module,
    assignment: Strategy,
    dataset: Dataset,
    training: Training,
    seed: int = 0,
    after_epoch: Callable[[int, Mapping[str, float]], None] = lambda epoch, losses: None,
) -> Learner:
    """Train a detector for `training.epochs` epochs.

    Args:
        detector: the module to train, in place; see `build_detector`.
        assignment: the assignment that the detector was built for.
        dataset: the training split.
        training: schedule, augmentation and losses.
        seed: determines the order of the images, their augmentation and random layers.
        after_epoch: called with the number of epochs done and the mean losses of the last one.

    Returns:
        The learner. `learner.averaged.module` has the averaged weights, which are the ones to
        evaluate.

    Raises:
        DataError: the data set has fewer images than one batch, or no masks for a detector that
            predicts them.
        ValueError: a box loss does not fit the boxes that the detector predicts, or the assignment
            needs positions, which the queries of the detector do not have.
        NonFiniteLossError: a loss is NaN or infinite.

    Examples:
        >>> import detectors
        >>> data = detectors.DATASETS["shapes"](size=64, train_images=8, max_side=40.0)
        >>> assignment = detectors.ASSIGNERS["poto"](alpha=0.5)
        >>> options = detectors.DETECTORS["fcos"](channels=16, tower_convs=1)
        >>> detector = detectors.build_detector(options, assignment, num_classes=4)
        >>> training = detectors.Training(epochs=2, batch=4)
        >>> learner = detectors.train(
        ...     detector,
        ...     assignment,
        ...     data.load("train"),
        ...     training,
        ...     after_epoch=lambda epoch, losses: print(epoch, sorted(losses)),
        ... )
        1 ['o2o.box', 'o2o.cls']
        2 ['o2o.box', 'o2o.cls']
        >>> learner.step
        4
    """
    if isinstance(detector, DenseDetector):
        codes = {name: shape.box for name, shape in detector.branches.items()}
        problems = training.unfit_losses(codes)
        if isinstance(detector, QueryDetector):
            problems += need_positions(assignment) + training.unfit_queries(assignment)
        if problems:
            raise ValueError("; ".join(problems))
    masks = isinstance(detector, DenseDetector) and detector.mask_branch is not None
    world = LocalWorld()
    shares = Shares(dataset, training, seed, world.rank, world.size, masks=masks)
    learner = Learner.create(detector, assignment, training, world)
    steps = len(dataset) // training.batch * training.epochs
    for epoch in range(training.epochs):
        seed_torch(seed, epoch, world.rank)
        batches = shares.epoch(epoch)
        progress = Progress(learner.step, steps, epoch, training.epochs)
        after_epoch(epoch + 1, train_epoch(learner, batches, progress))
    return learner


def evaluate(
    detector: nn.Module,
    assignment: Strategy,
    dataset: Dataset,
    protocol: Protocol = PROTOCOLS["default"],
) -> dict[Branch, Gap]:
    """Measure AP and AR without NMS, with NMS, and their gap.

    Args:
        detector: the module to evaluate.
        assignment: the assignment that the detector was built for.
        dataset: the validation split.
        protocol: how the gap is measured.

    Returns:
        The gap of each branch; the first one is the branch kept at inference.

    Raises:
        NonFinitePredictionsError: predictions are NaN or infinite.
        ValueError: the data set has no images, or no object; or the protocol measures masks, which
            the detector does not predict.
        DataError: the protocol measures masks, which the data set does not have.

    Examples:
        >>> import detectors
        >>> data = detectors.DATASETS["shapes"](size=64, val_images=4, max_side=40.0)
        >>> assignment = detectors.ASSIGNERS["poto"]()
        >>> options = detectors.DETECTORS["fcos"](channels=16, tower_convs=1)
        >>> detector = detectors.build_detector(options, assignment, num_classes=4)
        >>> gaps = detectors.evaluate(detector, assignment, data.load("val"))
        >>> metrics = gaps["o2o"].metrics
        >>> abs(metrics["ap"] - metrics["ap_nms"] - metrics["gap"]) < 1e-9
        True
    """
    branches = tuple(assignment.branches())
    masks = protocol.masks
    truth = ground_truth(dataset, masks=masks)
    request = CandidateRequest(
        branches, protocol.pre_nms_topk, masks=MaskRequest(protocol, truth.sizes) if masks else None
    )
    found: dict[str, Selected] = {branch: Selected(protocol, truth.sizes) for branch in branches}
    predict_batches(
        detector, dataset, request, LocalWorld(), lambda branch, some: found[branch].add(some)
    )
    return {branch: gap_between(found[branch].columns(), truth, protocol) for branch in branches}
