"""Compute the training loss of one branch from its predictions and assignments."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from detectors.boxes import paired_giou, paired_iou
from detectors.losses import ClsLoss, LossOptions, centerness, classification, l1_of_image, soft_bce
from detectors.models.decode import ENCODERS
from detectors.structures import Assignment, Points, Predictions, Targets
from detectors.world import World


@dataclass(frozen=True)
class Loss:
    """The parts of a branch's loss: normalised and weighted scalars; None: the part is not used."""

    cls: Tensor | None = None
    box: Tensor | None = None
    l1: Tensor | None = None
    centerness: Tensor | None = None
    aux: Tensor | None = None
    """Classification loss of a second, auxiliary assignment."""

    def parts(self) -> dict[str, Tensor]:
        """Return the parts that are used, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def total(self) -> Tensor:
        """Return the sum of all parts."""
        first, *others = self.parts().values()
        return sum(others, start=first)


@dataclass(frozen=True)
class Positives:
    """The K positive points of a batch.

    Attributes:
        image: [K] int64, index of the image in the batch.
        point: [K] int64, index of the point.
        object: [K] int64, index of the object, counted through the batch.
        label: [K] int64, label of the point's object.
        degree: [K] float, degree of the assignment.
        box: [K, 4] float xyxy, box of the point's object.
    """

    image: Tensor
    point: Tensor
    object: Tensor
    label: Tensor
    degree: Tensor
    box: Tensor

    @classmethod
    def of(cls, assignments: Sequence[Assignment], targets: Sequence[Targets]) -> "Positives":
        """Collect the positive points of B images, each with its assignment and its objects."""
        object_BN = torch.stack([a.object for a in assignments])
        degree_BN = torch.stack([a.degree for a in assignments])
        image, point = (object_BN >= 0).nonzero(as_tuple=True)
        before = torch.tensor([0, *(len(t) for t in targets)][:-1], device=image.device).cumsum(0)
        chosen = object_BN[image, point] + before[image]
        return cls(
            image,
            point,
            chosen,
            torch.cat([t.labels for t in targets])[chosen],
            degree_BN[image, point],
            torch.cat([t.boxes for t in targets])[chosen],
        )


@dataclass(frozen=True)
class Criterion:
    """Computes losses on one rank.

    They are scaled so that their mean over all ranks is the loss of the global batch: DDP averages
    gradients over ranks.
    """

    options: LossOptions
    world: World

    def branch_loss(
        self,
        points: Points,
        predictions: Predictions,
        assignments: Sequence[Assignment],
        targets: Sequence[Targets],
        kind: ClsLoss,
    ) -> Loss:
        """Compute all parts of the loss for a batch of B images; see `LossOptions`.

        If any logit is not finite, `cls` is NaN, and if any box is not finite, `box` is NaN, even
        without positive points.
        """
        found = Positives.of(assignments, targets)
        cls = self.classification(predictions.logits, found, assignments, targets, kind)
        boxes = predictions.boxes[found.image, found.point]
        target = centerness(points.xy[found.point], found.box)
        weights = {"degree": found.degree, "centerness": target, "equal": torch.ones_like(target)}
        weight = weights[self.options.box_by]
        by_objects = self.options.normalizer == "objects"
        floor = self.options.centerness_floor if self.options.box_by == "centerness" else 1.0
        total = self._count(targets) if by_objects else self._total(weight.sum(), floor)
        each = self._box(predictions, boxes, found, points)
        box = self.options.box_weight * ((weight * each).sum() / total)
        return Loss(
            cls + 0 * predictions.logits.sum(),
            box + 0 * predictions.boxes.sum(),
            self._l1(boxes, found, weight, _extents(targets, points)[found.image], total),
            self._centerness(predictions, found, target),
        )

    def classification(
        self,
        logits: Tensor,
        found: Positives,
        assignments: Sequence[Assignment],
        targets: Sequence[Targets],
        kind: ClsLoss,
    ) -> Tensor:
        """Compute the weighted, normalised classification loss of logits [B, N, C]."""
        degree_BNC = found.degree.new_zeros(logits.shape)
        degree_BNC[found.image, found.point, found.label] = found.degree
        loss_BNC = classification(logits, degree_BNC, kind, self.options)
        if any(a.weight is not None for a in assignments):
            one = loss_BNC.new_ones(1, 1)
            weights = [one if a.weight is None else a.weight for a in assignments]
            loss_BNC = torch.stack([loss_BNC[i] * w for i, w in enumerate(weights)])
        totals = {"degrees": found.degree.sum(), "positives": (found.degree > 0).sum().float()}
        by = self.options.normalizer
        total = self._count(targets) if by == "objects" else self._total(totals[by])
        return self.options.cls_weight * (loss_BNC.sum() / total)

    def _total(self, of_rank: Tensor, floor: float = 1.0) -> Tensor:
        """Return the mean over ranks of a number, whose sum over all ranks is at least `floor`."""
        return self.world.all_reduce_mean(of_rank).clamp(min=floor / self.world.size)

    def _count(self, targets: Sequence[Targets]) -> Tensor:
        """Return the mean over ranks of the number of objects, at least 1 in total."""
        count = sum(len(t) for t in targets)
        return self._total(torch.tensor(float(count), device=targets[0].boxes.device))

    def _box(
        self, predictions: Predictions, boxes: Tensor, found: Positives, points: Points
    ) -> Tensor:
        """Compute the box loss of each of K positive points with predicted boxes [K, 4]: [K]."""
        if self.options.box == "giou":
            return 1 - paired_giou(boxes, found.box)
        if self.options.box == "iou":
            return -paired_iou(boxes, found.box).clamp(min=1e-6).log()
        if predictions.encoded is None:
            raise ValueError(f"the box loss {self.options.box} needs encoded predictions")
        encoded = predictions.encoded[found.image, found.point]
        wanted = ENCODERS[self.options.box](found.box, points.take(found.point))
        first, last = (encoded - wanted).abs().view(-1, 2, 2).sum(2).unbind(1)
        if self.options.box == "size_offset":
            return self.options.offset_weight * first + self.options.size_weight * last
        return first + last

    def _l1(
        self,
        boxes: Tensor,
        found: Positives,
        weight: Tensor,
        extent: Tensor,
        total: Tensor,
    ) -> Tensor | None:
        if not self.options.l1_weight:
            return None
        loss = (weight * l1_of_image(boxes, found.box, extent, self.options.l1_of)).sum() / total
        return self.options.l1_weight * loss

    def _centerness(
        self, predictions: Predictions, found: Positives, target: Tensor
    ) -> Tensor | None:
        if predictions.centerness is None:
            return None
        logits = predictions.centerness[found.image, found.point]
        total = self._total(torch.tensor(float(len(logits)), device=logits.device))
        loss = soft_bce(logits, target).sum() / total + 0 * predictions.centerness.sum()
        return self.options.centerness_weight * loss


def _extents(targets: Sequence[Targets], points: Points) -> Tensor:
    """Return width and height of every image without its padding: [B, 2]."""
    return points.xy.new_tensor([t.extent or points.extent for t in targets])


def count_positives(assignments: Sequence[Assignment], targets: Sequence[Targets]) -> Tensor:
    """Count over a batch: positive points, objects without any, all objects. [3] float64.

    Certain and ambiguous points both count as positive.
    """
    found = [a.object[a.object >= 0] for a in assignments]
    positives = sum(len(each) for each in found)
    assigned = sum(len(torch.unique(each)) for each in found)
    objects = sum(len(t) for t in targets)
    return torch.tensor([positives, objects - assigned, objects], dtype=torch.float64)
