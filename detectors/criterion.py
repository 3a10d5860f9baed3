"""Compute the training loss of one branch from its predictions and assignments."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from detectors.boxes import paired_giou, paired_iou
from detectors.losses import ClsLoss, LossOptions, centerness, classification, l1_of_image, soft_bce
from detectors.models.decode import ENCODERS
from detectors.structures import Assignment, Points, Predictions, TargetBatch
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
    mask: Tensor | None = None

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
        object: [K] int64, index of the object in its image.
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
    def of(cls, assignment: Assignment, targets: TargetBatch) -> "Positives":
        """Collect the positive points of an assignment; see `Assignment.positives`."""
        index = assignment.positives()
        image, _ = index
        chosen = assignment.object[index]
        return cls(
            *index,
            chosen,
            targets.labels[image, chosen],
            assignment.degree[index],
            targets.boxes[image, chosen],
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
        assignment: Assignment,
        targets: TargetBatch,
        kind: ClsLoss,
    ) -> Loss:
        """Compute all parts of the loss for a batch of B images; see `LossOptions`.

        If any logit is not finite, `cls` is NaN, and if any box is not finite, `box` is NaN, even
        without positive points.
        """
        found = Positives.of(assignment, targets)
        boxes = predictions.boxes[found.image, found.point]
        kind = kind if self.options.cls == "assignment" else self.options.cls
        wanted = found.degree
        if self.options.cls_target == "iou":
            iou = paired_iou(boxes.detach(), found.box)
            wanted = (wanted * iou).clamp(min=torch.finfo(iou.dtype).tiny)
        cls = self.classification(predictions.logits, found, assignment, targets, kind, wanted)
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
            self._l1(boxes, found, weight, targets.extents(points)[found.image], total),
            self._centerness(predictions, found, target),
        )

    def classification(
        self,
        logits: Tensor,
        found: Positives,
        assignment: Assignment,
        targets: TargetBatch,
        kind: ClsLoss,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Compute the weighted, normalised classification loss of logits [B, N, C].

        The targets of the K positive points are `wanted` [K] in [0, 1]; None: their degrees.
        """
        degree_BNC = found.degree.new_zeros(logits.shape)
        degree_BNC[found.image, found.point, found.label] = (
            found.degree if wanted is None else wanted
        )
        loss_BNC = classification(logits, degree_BNC, kind, self.options)
        if assignment.weight is not None:
            loss_BNC = loss_BNC * assignment.weight
        totals = {"degrees": found.degree.sum(), "positives": (found.degree > 0).sum().float()}
        by = self.options.normalizer
        total = self._count(targets) if by == "objects" else self._total(totals[by])
        return self.options.cls_weight * (loss_BNC.sum() / total)

    def mean(self, of_rank: Tensor) -> Tensor:
        """Return the mean of terms [K] over all ranks, which have different numbers of them."""
        return of_rank.sum() / self._total(_scalar(len(of_rank), of_rank.device))

    def _total(self, of_rank: Tensor, floor: float = 1.0) -> Tensor:
        """Return the mean over ranks of a number, whose sum over all ranks is at least `floor`."""
        return self.world.all_reduce_mean(of_rank).clamp(min=floor / self.world.size)

    def _count(self, targets: TargetBatch) -> Tensor:
        """Return the mean over ranks of the number of objects, at least 1 in total."""
        return self._total(_scalar(len(targets.image), targets.boxes.device))

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
        loss = self.mean(soft_bce(logits, target)) + 0 * predictions.centerness.sum()
        return self.options.centerness_weight * loss


def _scalar(value: float, device: torch.device) -> Tensor:
    """Return a number as a float tensor, made on the device without a copy from the host."""
    return torch.full((), float(value), device=device)


def of_one_class(targets: TargetBatch) -> TargetBatch:
    """Return the same objects with label 0."""
    images = tuple(replace(each, labels=torch.zeros_like(each.labels)) for each in targets.images)
    return replace(targets, labels=torch.zeros_like(targets.labels), images=images)


def count_positives(assignment: Assignment, targets: TargetBatch) -> Tensor:
    """Count over a batch: positive points, objects without any, all objects. [3] float64.

    Certain and ambiguous points both count as positive.
    """
    owner_BN, (size, most) = assignment.object, targets.labels.shape
    positives = (owner_BN >= 0).sum().double()
    has_BG = torch.zeros(size, most + 1, dtype=torch.float64, device=owner_BN.device)
    assigned = has_BG.scatter(1, owner_BN + 1, 1.0)[:, 1:].sum()
    objects = torch.full_like(assigned, len(targets.image))
    return torch.stack([positives, objects - assigned, objects])
