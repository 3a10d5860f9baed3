"""Assignment of points that are divided into groups, see `Points.groups`."""

from dataclasses import replace

import torch
from torch import Tensor

from detectors.assigners.base import Assigner
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch


def assign_groups(
    assigner: Assigner,
    points: Points,
    predictions: Predictions,
    targets: TargetBatch,
    progress: Progress,
) -> Assignment:
    """Assign the points of every group as `assigner` would if there were no others.

    All groups are assigned together, as images of a larger batch. See `Assigner.assign_batch`.
    There may be no points: no cell of the encoder may be left for additional queries.
    """
    groups = points.groups
    if not len(points):
        return _nothing(predictions)
    if groups == 1:
        return assigner.assign_batch(points, predictions, targets, progress)
    size = len(points) // groups
    logits, boxes = (
        torch.cat(torch.split(each, size, 1)) for each in (predictions.logits, predictions.boxes)
    )
    of_group = points.take(torch.arange(size, device=points.xy.device))
    found = assigner.assign_batch(
        replace(of_group, sizes=(size,)),
        Predictions(logits, boxes),
        targets.repeated(groups),
        progress,
    )
    return _joined(found.located(), groups)


def _nothing(predictions: Predictions) -> Assignment:
    """Return the assignment of a batch without positive points."""
    degree = torch.zeros(predictions.logits.shape[:2], device=predictions.logits.device)
    return Assignment(degree.long() - 1, degree)


def _joined(found: Assignment, groups: int) -> Assignment:
    """Return the assignment [B, groups * N] of groups [groups * B, N] that has its `index`."""
    size, count = len(found.object) // groups, found.object.shape[1]

    def side_by_side(value: Tensor) -> Tensor:
        return torch.cat(torch.split(value, size), 1)

    row, point = found.positives()
    image, point = row % size, point + torch.div(row, size, rounding_mode="floor") * count
    order = (image * (groups * count) + point).argsort()
    return Assignment(
        side_by_side(found.object),
        side_by_side(found.degree),
        None if found.weight is None else side_by_side(found.weight),
        (image[order], point[order]),
        tuple(sum(found.counts[i::size]) for i in range(size)),
    )
