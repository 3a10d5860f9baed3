"""Batches with random assignments, and their loss in a loop over points and classes.

The loop uses Python floats.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor

from detectors.criterion import Criterion, Loss
from detectors.losses import ClsLoss, LossOptions
from detectors.structures import Assignment, Points, Predictions, Targets
from detectors.world import LocalWorld, World
from tests.detectors.batching import packed, together

CLASSES, POINTS = 3, 12
EXTENT = (48.0, 32.0)
SOFT = ("bce", "quality_focal", "matchability", "cross_entropy")
"""Losses with degrees between 0 and 1."""
KINDS: tuple[ClsLoss, ...] = get_args(ClsLoss)

Box = list[float]


@dataclass
class Rank:
    """One of several ranks, with given means. It records the values it was asked to reduce."""

    size: int = 1
    means: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    rank: int = 0

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        self.values.append(value.detach())
        return self.means[len(self.values) - 1] if self.means else value.detach()

    def gather(self, value: Any) -> list[Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Case:
    """A batch with its assignments."""

    points: Points
    predictions: Predictions
    assignments: list[Assignment]
    targets: list[Targets]
    kind: ClsLoss

    def loss(self, options: LossOptions, world: World | None = None) -> Loss:
        return Criterion(options, world or LocalWorld()).branch_loss(
            self.points,
            self.predictions,
            together(self.assignments),
            packed(*self.targets),
            self.kind,
        )

    def share(self, rank: int, size: int) -> "Case":
        """Return every `size`-th image."""
        p, mine = self.predictions, slice(rank, None, size)
        centerness = None if p.centerness is None else p.centerness[mine]
        encoded = None if p.encoded is None else p.encoded[mine]
        shared = Predictions(p.logits[mine], p.boxes[mine], None, centerness, encoded)
        return Case(self.points, shared, self.assignments[mine], self.targets[mine], self.kind)

    def on_ranks(self, options: LossOptions, size: int) -> list[Loss]:
        """Compute the loss of each of `size` ranks, which reduce their values to means."""
        shares = [self.share(rank, size) for rank in range(size)]
        worlds = [Rank(size) for _ in shares]
        for share, world in zip(shares, worlds, strict=True):
            share.loss(options, world)
        together = zip(*(world.values for world in worlds), strict=True)
        means = [torch.stack(values).mean(0) for values in together]
        return [share.loss(options, Rank(size, means)) for share in shares]


def boxes(count: int, rng: torch.Generator) -> Tensor:
    corner = 20 * torch.rand(count, 2, generator=rng, dtype=torch.float64)
    far = corner + 1 + 12 * torch.rand(count, 2, generator=rng, dtype=torch.float64)
    return torch.cat([corner, far], dim=1)


def case(counts: list[int], seed: int, kind: ClsLoss, centerness: bool = True) -> Case:
    """Build a batch in double precision with counts[i] objects in image i, assigned at random."""
    rng = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(len(counts), POINTS, *shape, generator=rng, dtype=torch.float64)

    xy = 32 * torch.rand(POINTS, 2, generator=rng, dtype=torch.float64)
    level = torch.zeros(POINTS, dtype=torch.int64)
    points = Points(xy, xy[:, 0], level, boxes(POINTS, rng), EXTENT, (POINTS,))
    predicted = boxes(len(counts) * POINTS, rng).reshape(len(counts), POINTS, 4)
    predictions = Predictions(
        (3 * drawn(CLASSES)).requires_grad_(),
        predicted.requires_grad_(),
        None,
        (2 * drawn()).requires_grad_() if centerness else None,
        (4 * drawn(4)).requires_grad_(),
    )
    extents = [None, (24.0, 30.0)]
    targets = [
        Targets(boxes(n, rng), torch.randint(CLASSES, (n,), generator=rng), extents[i % 2])
        for i, n in enumerate(counts)
    ]
    found = [assigned(n, rng, soft=kind in SOFT) for n in counts]
    return Case(points, predictions, found, targets, kind)


def assigned(count: int, rng: torch.Generator, *, soft: bool) -> Assignment:
    """Assign points at random, without weights or with weights per point or per class."""
    owner = torch.randint(-1, count, (POINTS,), generator=rng)
    degree = torch.rand(POINTS, generator=rng, dtype=torch.float64).clamp(min=0.1)
    degree = torch.where(degree < 0.4, 1.0, degree) if soft else torch.ones_like(degree)
    columns = (0, 1, CLASSES)[int(torch.randint(3, (1,), generator=rng))]
    weight = 2 * torch.rand(POINTS, columns, generator=rng, dtype=torch.float64)
    return Assignment(owner, torch.where(owner >= 0, degree, 0.0), weight if columns else None)


# --- the loss in loops ----------------------------------------------------------------------


def bce(logit: float, t: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


def classified(logit: float, t: float, kind: ClsLoss, options: LossOptions) -> float:
    if kind == "cross_entropy" or (kind == "bce" and t > 0):
        return bce(logit, t)
    p = 1 / (1 + math.exp(-logit))
    if kind == "quality_focal":
        return math.pow(abs(t - p), options.focal_gamma) * bce(logit, t)
    if kind == "matchability":
        background = -math.pow(p, options.focal_gamma) * math.log(1 - p)
        return bce(logit, t**options.focal_gamma) if t > 0 else background
    p_t, alpha_t = (p, options.focal_alpha) if t else (1 - p, 1 - options.focal_alpha)
    balance = 1.0 if kind == "gaussian" else alpha_t
    return -balance * math.pow(1 - p_t, options.focal_gamma) * math.log(p_t)


def overlap(a: Box, b: Box) -> tuple[float, float]:
    """Compute IoU and generalised IoU."""
    meet_x = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    meet_y = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - meet_x * meet_y
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = meet_x * meet_y / union
    return iou, iou - (hull - union) / hull


def center_form(box: Box) -> Box:
    return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]]


def delta(box: Box, anchor: Box) -> Box:
    (x, y, w, h), (ax, ay, aw, ah) = center_form(box), center_form(anchor)
    return [(x - ax) / aw, (y - ay) / ah, math.log(w / aw), math.log(h / ah)]


def sized(target: Box, point: list[float], stride: float) -> Box:
    """Encode a box as offset of its centre from the corner of the cell, and sides, in strides."""
    x, y, w, h = center_form(target)
    corner = [c - stride / 2 for c in point]
    return [(x - corner[0]) / stride, (y - corner[1]) / stride, w / stride, h / stride]


def boxed(of: Case, i: int, n: int, target: Box, options: LossOptions) -> float:
    """Compute the box loss of point `n` of image `i`."""
    kind, box = options.box, of.predictions.boxes[i, n].tolist()
    iou, giou = overlap(box, target)
    if kind == "giou":
        return 1 - giou
    if kind == "iou":
        return -math.log(max(iou, 1e-6))
    assert of.predictions.encoded is not None
    encoded, weights = of.predictions.encoded[i, n].tolist(), [1.0] * 4
    if kind == "deltas":
        wanted = delta(target, of.points.anchors[n].tolist())
    else:
        wanted = sized(target, of.points.xy[n].tolist(), of.points.stride[n].item())
        weights = [options.offset_weight] * 2 + [options.size_weight] * 2
    terms = [w * abs(a - b) for w, a, b in zip(weights, encoded, wanted, strict=True)]
    return float(sum(terms))


def in_shares(box: Box, target: Box, extent: tuple[float, float], of: str) -> float:
    """Compute the L1 distance of centre and sides, or of corners, in shares of the image."""
    both = (box, target) if of == "corners" else (center_form(box), center_form(target))
    pairs = zip(*both, extent * 2, strict=True)
    return sum(abs(a - b) / side for a, b, side in pairs)


def center_of(point: list[float], box: Box) -> float:
    left, top, right, bottom = (
        point[0] - box[0],
        point[1] - box[1],
        box[2] - point[0],
        box[3] - point[1],
    )
    if min(left, top, right, bottom) <= 0:
        return 0.0
    across, down = min(left, right) / max(left, right), min(top, bottom) / max(top, bottom)
    return math.sqrt(across * down)


def class_terms(of: Case, options: LossOptions) -> float:
    """Sum the weighted classification loss over images, points and classes."""
    total, kind = 0.0, of.kind if options.cls == "assignment" else options.cls
    for i, (found, targets) in enumerate(zip(of.assignments, of.targets, strict=True)):
        for n, c in itertools.product(range(POINTS), range(CLASSES)):
            g, factor = int(found.object[n]), 1.0
            if found.weight is not None:
                factor = float(found.weight[n, min(c, found.weight.shape[1] - 1)])
            own = g >= 0 and int(targets.labels[g]) == c
            t = float(found.degree[n]) if own else 0.0
            if own and options.cls_target == "iou":
                iou, _ = overlap(of.predictions.boxes[i, n].tolist(), targets.boxes[g].tolist())
                t = max(t * iou, 1e-37)
            logit = of.predictions.logits[i, n, c].item()
            total += factor * classified(logit, t, kind, options)
    return total


def looped(of: Case, options: LossOptions) -> dict[str, float]:
    """Compute every part of the loss, normalised and weighted."""
    box = l1 = centerness = degrees = weights = positives = 0.0
    for i, (found, targets) in enumerate(zip(of.assignments, of.targets, strict=True)):
        for n in (n for n in range(POINTS) if found.object[n] >= 0):
            g, degree = int(found.object[n]), float(found.degree[n])
            target, guess = targets.boxes[g].tolist(), of.predictions.boxes[i, n].tolist()
            center = center_of(of.points.xy[n].tolist(), target)
            weight = {"degree": degree, "centerness": center, "equal": 1.0}[options.box_by]
            box += weight * boxed(of, i, n, target, options)
            l1 += weight * in_shares(guess, target, targets.extent or EXTENT, options.l1_of)
            if of.predictions.centerness is not None:
                centerness += bce(of.predictions.centerness[i, n].item(), center)
            degrees, weights, positives = degrees + degree, weights + weight, positives + 1
    objects = float(sum(len(t) for t in of.targets))
    total = {"degrees": degrees, "positives": positives, "objects": objects}[options.normalizer]
    floor = options.centerness_floor if options.box_by == "centerness" else 1.0
    of_boxes = max(1.0, objects) if options.normalizer == "objects" else max(floor, weights)
    parts = {
        "cls": options.cls_weight * class_terms(of, options) / max(1.0, total),
        "box": options.box_weight * box / of_boxes,
    }
    if options.l1_weight:
        parts["l1"] = options.l1_weight * l1 / of_boxes
    if of.predictions.centerness is not None:
        parts["centerness"] = options.centerness_weight * centerness / max(1.0, positives)
    return parts


def values(loss: Loss) -> dict[str, float]:
    return {name: part.item() for name, part in loss.parts().items()}
