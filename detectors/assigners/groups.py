"""Assignment of points that are divided into groups, see `Points.groups`."""

from collections.abc import Sequence
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
    of_group = points.take(torch.arange(size, device=points.xy.device))
    found = assigner.assign_batch(
        replace(of_group, sizes=(size,)),
        joined(_groups(predictions, size)),
        targets.repeated(groups),
        progress,
    )
    return _side_by_side(found.located(), groups)


def _nothing(predictions: Predictions) -> Assignment:
    """Return the assignment of a batch without positive points."""
    degree = torch.zeros(predictions.logits.shape[:2], device=predictions.logits.device)
    return Assignment(degree.long() - 1, degree)


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return what assignment uses of several predictions as that of one larger batch."""
    given = [each.references for each in parts if each.references is not None]
    return Predictions(
        torch.cat([each.logits for each in parts]),
        torch.cat([each.boxes for each in parts]),
        references=torch.cat(given) if given else None,
    )


def _groups(predictions: Predictions, size: int) -> list[Predictions]:
    """Return what assignment uses of every group of `size` points."""
    first, parts = predictions.references, len(predictions.boxes[0]) // size
    logits, boxes = (torch.split(x, size, 1) for x in (predictions.logits, predictions.boxes))
    starts = [None] * parts if first is None else torch.split(first, size, 1)
    columns = zip(logits, boxes, starts, strict=True)
    return [Predictions(own, box, references=start) for own, box, start in columns]


def _side_by_side(found: Assignment, groups: int) -> Assignment:
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
