"""Batches from the assignments and the objects of single images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detectors.postprocess import Frame, best_pairs
from detectors.structures import Assignment, Candidates, Points, Predictions, TargetBatch, Targets

CPU = torch.device("cpu")


def packed(*images: Targets) -> TargetBatch:
    return TargetBatch.of(images, CPU)


def batched(predictions: Predictions) -> Predictions:
    """Make a batch of the predictions for one image."""
    return Predictions(predictions.logits[None], predictions.boxes[None])


def selected(
    scores_NC: Tensor, boxes_N4: Tensor, points: Points, topk: int, frame: Frame
) -> Candidates:
    """Select the candidates of one image."""
    best = best_pairs(scores_NC[None], boxes_N4[None], points.sizes, topk)
    return best.candidates(points, [frame])[0]


def counted(*counts: int, rows: int) -> TargetBatch:
    """Build a batch padded to `rows` with counts[i] objects in image i; all are of class 0."""
    images = [Targets(torch.zeros(n, 4), torch.zeros(n).long()) for n in (*counts, rows)]
    of = packed(*images)
    own = of.image < len(counts)
    boxes, labels, real, extent = (x[:-1] for x in (of.boxes, of.labels, of.real, of.extent))
    image, number = of.image[own], of.number[own]
    return TargetBatch(boxes, labels, real, extent, image, number, of.images[:-1])


def together(assignments: Sequence[Assignment]) -> Assignment:
    """Stack assignments. Points that an image lacks are negative, weights that it lacks are 1."""
    owners = pad_sequence([a.object for a in assignments], True, -1)
    degrees = pad_sequence([a.degree for a in assignments], True)
    if all(a.weight is None for a in assignments):
        return Assignment(owners, degrees)
    columns = max(a.weight.shape[1] for a in assignments if a.weight is not None)
    shape = (owners.shape[1], columns)
    return Assignment(owners, degrees, torch.stack([_weights(a, shape) for a in assignments]))


def _weights(of: Assignment, shape: tuple[int, int]) -> Tensor:
    one = torch.ones((), dtype=of.degree.dtype)
    return (one if of.weight is None else of.weight).expand(shape)
