"""Scores and ranks of positive points at assignment time (000 section 3.4, Fig. 4 and 5).

`measure` sums over a batch; `means` returns the means, given sums over batches and ranks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from detectors.boxes import paired_iou
from detectors.criterion import Positives
from detectors.evaluation.metrics import POSITIVES
from detectors.structures import Assignment, Points, Predictions, Targets

EVERY = 4
"""One of so many batches is measured: measuring takes 1 to 3 % of a step of a small detector."""
_ELEMENTS = 2**23
"""Maximum number of pairs of an object and a point that are tested at once."""


def measure(
    points: Points,
    predictions: Predictions,
    assignments: Sequence[Assignment],
    targets: Sequence[Targets],
) -> Tensor:
    """Measure the positive points of a batch of at least one image.

    The score of a point for an object is p = sigmoid(logit of the object's class), gate included:
    the one that the assignment and the classification loss use, before the step. Positive points
    are those with a degree above 0. The candidates of an object are its positive points, and the
    points in its box (borders included) that are positive for no object. For an object with
    positive points, with s the highest score of these and a >= b >= ... >= z the scores of all its
    candidates,

    - rank = 1 + the number of candidates with a score above s;
    - first = 1 if the rank is 1, otherwise 0;
    - relative = (s - z) / (a - z), the scores "normalized to [0, 1]" of Fig. 5; 1 if a = z;
    - score_gap = a - b (Definition 3.3, Eq. 6); b is 0 if there is one candidate.

    Deviation: the figures of 000 count all points as samples, also those far from the object. Here
    they are left out, because points of other objects have high scores of their own.

    Args:
        points: the N points.
        predictions: logits [B, N, C] and boxes [B, N, 4], xyxy in pixels.
        assignments: one per image.
        targets: one per image.

    Returns:
        [2 + len(POSITIVES)] float64: the numbers of positive points and of objects with any, then
        a sum for each of `POSITIVES`. `score` and `iou` (of the predicted box and the object's)
        are summed over positive points, the others over objects with positive points.
    """
    found = Positives.of(assignments, targets)
    logits = predictions.logits.detach()[found.image, found.point, found.label].float()
    ious = paired_iou(predictions.boxes.detach()[found.image, found.point].float(), found.box)
    of_points = torch.stack([torch.ones_like(ious), logits.sigmoid(), ious]).double().sum(1)
    free, of_free = _negatives(points, predictions, assignments, targets)
    count = sum(len(each) for each in targets)
    compared = _compare(logits, found.object, free, of_free, count)
    return torch.cat([of_points[:1], compared[:1], of_points[1:], compared[1:]])


def means(sums: Tensor) -> dict[str, float]:
    """Return the means of `POSITIVES` by name, given sums of `measure`; empty without positives."""
    positives, objects, *values = sums.tolist()
    if not positives:
        return {}
    count = {"score": positives, "iou": positives}
    return {n: v / count.get(n, objects) for n, v in zip(POSITIVES, values, strict=True)}


def _negatives(
    points: Points,
    predictions: Predictions,
    assignments: Sequence[Assignment],
    targets: Sequence[Targets],
) -> tuple[Tensor, Tensor]:
    """Return the logits [K] of candidates that are not positive, and their objects [K] int64.

    Objects are counted through the batch.
    """
    boxes, labels = torch.cat([t.boxes for t in targets]), torch.cat([t.labels for t in targets])
    sizes = torch.tensor([len(each) for each in targets])
    images = torch.arange(len(targets)).repeat_interleave(sizes).to(boxes.device)
    free_BN = torch.stack([each.object for each in assignments]) < 0
    none = free_BN.new_zeros(0)
    logits, objects = [none.float()], [none.long()]
    step = max(1, _ELEMENTS // len(points))
    for start in range(0, len(boxes), step):
        image = images[start : start + step]
        inside_ON = _inside(points, boxes[start : start + step]).logical_and_(free_BN[image])
        number, point = inside_ON.nonzero(as_tuple=True)
        objects.append(number + start)
        logits.append(predictions.logits.detach()[image[number], point, labels[objects[-1]]])
    return torch.cat(logits), torch.cat(objects)


def _inside(points: Points, boxes: Tensor) -> Tensor:
    """Return whether each of the N points lies in each of O boxes: [O, N] bool."""
    x, y = points.xy.T.contiguous()
    x1, y1, x2, y2 = boxes.T[:, :, None]
    inside: Tensor = (x >= x1).logical_and_(x <= x2).logical_and_(y >= y1).logical_and_(y <= y2)
    return inside


def _compare(own: Tensor, of_own: Tensor, free: Tensor, of_free: Tensor, count: int) -> Tensor:
    """Compare the positive points of objects with their other candidates.

    Logits are ranked, because the sigmoids of different large logits are equal after rounding.

    Args:
        own: logits of positive points.
        of_own: their objects.
        free: logits of the other candidates.
        of_free: their objects.
        count: the number of objects.

    Returns:
        [5] float64: the number of objects with positive points; then the sums of rank, first,
        relative and score_gap over these objects.
    """
    logit, of = torch.cat([own, free]), torch.cat([of_own, of_free])
    best, highest = _highest(own, of_own, count), _highest(logit, of, count)
    least, top = -_highest(-logit, of, count), logit == highest[of]
    tied = _count(of[top], count) > 1
    second = torch.where(tied, highest, _highest(logit[~top], of[~top], count))
    rank = 1 + _count(of[logit > best[of]], count)
    s, a, b, z = torch.stack([best, highest, second, least]).double().sigmoid()
    relative = torch.where(a > z, (s - z) / (a - z), 1.0)
    found = torch.stack([torch.ones_like(rank), rank, (rank == 1).double(), relative, a - b])
    return found.masked_fill(best == -torch.inf, 0).sum(1)


def _highest(value: Tensor, of: Tensor, count: int) -> Tensor:
    """Return the highest value of each of `count` objects; -inf for one without values."""
    return value.new_full((count,), -torch.inf).scatter_reduce(0, of, value, "amax")


def _count(of: Tensor, count: int) -> Tensor:
    """Return how often each of `count` objects occurs: [count] float64."""
    ones = torch.ones(len(of), dtype=torch.float64, device=of.device)
    return ones.new_zeros(count).scatter_add(0, of, ones)
