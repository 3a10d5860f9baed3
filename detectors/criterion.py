"""From predictions and assignments to the training loss of one branch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.boxes import paired_giou
from detectors.losses import classification
from detectors.structures import Assignment, Predictions, Targets
from detectors.training import Training
from detectors.world import World


@dataclass(frozen=True)
class Loss:
    """The parts of one branch's loss: scalars, already normalised, not yet weighted."""

    cls: Tensor
    box: Tensor


def branch_loss(
    predictions: Predictions,
    assignments: Sequence[Assignment],
    targets: Sequence[Targets],
    *,
    soft: bool,
    training: Training,
    world: World,
) -> Loss:
    """Classification over all points and 1 - GIoU over positive ones, for a batch of B images.

    Both are divided by the sum of degrees over the true global batch (at least 1), which is the
    number of positives where assignment is hard. A box counts by its point's degree. The mean over
    ranks of this loss is the loss of the global batch, as DDP's gradient averaging expects.
    Non-finite logits make `cls` NaN, non-finite boxes `box`, whatever was assigned.
    """
    found = _positives(assignments, targets)
    total = world.all_reduce_mean(found.degree.sum()).clamp(min=1 / world.size)
    degree_BNC = found.degree.new_zeros(predictions.logits.shape)
    degree_BNC[found.image, found.point, found.label] = found.degree
    cls = classification(
        predictions.logits,
        degree_BNC,
        soft=soft,
        alpha=training.focal_alpha,
        gamma=training.focal_gamma,
    ).sum()
    giou = paired_giou(predictions.boxes[found.image, found.point], found.box)
    box = (found.degree * (1 - giou)).sum()
    poison_cls, poison_box = 0 * predictions.logits.sum(), 0 * predictions.boxes.sum()
    return Loss(cls / total + poison_cls, box / total + poison_box)


def supply(assignments: Sequence[Assignment], targets: Sequence[Targets]) -> Tensor:
    """How much an assignment teaches, as counts over a batch: [3] float64.

    Positive points (certain or ambiguous), objects that have none, objects.
    """
    found = [a.object[a.object >= 0] for a in assignments]
    positives = sum(len(each) for each in found)
    taught = sum(len(torch.unique(each)) for each in found)
    objects = sum(len(t) for t in targets)
    return torch.tensor([positives, objects - taught, objects], dtype=torch.float64)


@dataclass(frozen=True)
class _Positives:
    """K positive points of a batch: image, point, label [K] int64; degree [K]; box [K, 4]."""

    image: Tensor
    point: Tensor
    label: Tensor
    degree: Tensor
    box: Tensor


def _positives(assignments: Sequence[Assignment], targets: Sequence[Targets]) -> _Positives:
    object_BN = torch.stack([a.object for a in assignments])
    degree_BN = torch.stack([a.degree for a in assignments])
    image, point = (object_BN >= 0).nonzero(as_tuple=True)
    before = torch.tensor([0, *(len(t) for t in targets)][:-1], device=image.device).cumsum(0)
    chosen = object_BN[image, point] + before[image]
    return _Positives(
        image,
        point,
        torch.cat([t.labels for t in targets])[chosen],
        degree_BN[image, point],
        torch.cat([t.boxes for t in targets])[chosen],
    )
