"""Scores and ranks of positive points at assignment time (000 section 3.4, Fig. 4 and 5).

`measure` sums over a batch; `means` returns the means, given sums over batches and ranks.
"""

import torch
from torch import Tensor

from detectors.boxes import paired_iou
from detectors.criterion import Positives
from detectors.evaluation.metrics import POSITIVES
from detectors.structures import Assignment, Points, Predictions, TargetBatch

EVERY = 4
"""One of so many batches is measured: measuring takes 1 to 3 % of a step of a small detector."""
_ELEMENTS = 2**23
"""Maximum number of pairs of an object and a point that are tested at once."""


def measure(
    points: Points,
    predictions: Predictions,
    assignment: Assignment,
    targets: TargetBatch,
) -> Tensor:
    """Measure the positive points of a batch of at least one image.

    The score of a point for an object is p = sigmoid(logit of the object's class), gate included:
    the one that the assignment and the classification loss use, before the step. Positive points
    are those with a degree above 0. The candidates of an object are its positive points, and the
    points in its box (borders included; all queries) that are positive for no object. For an object
    with positive points, with s the highest score of these and a >= b >= ... >= z the scores of all
    its candidates,

    - rank = 1 + the number of candidates with a score above s;
    - first = 1 if the rank is 1, otherwise 0;
    - relative = (s - z) / (a - z), the scores "normalized to [0, 1]" of Fig. 5; 1 if a = z;
    - score_gap = a - b (Definition 3.3, Eq. 6); b is 0 if there is one candidate.

    Deviation: the figures of 000 count all points as samples, also those far from the object. Here
    they are left out, because points of other objects have high scores of their own.

    Args:
        points: the N points.
        predictions: logits [B, N, C] and boxes [B, N, 4], xyxy in pixels.
        assignment: that of the B images.
        targets: their objects.

    Returns:
        [2 + len(POSITIVES)] float64: the numbers of positive points and of objects with any, then
        a sum for each of `POSITIVES`. `score` and `iou` (of the predicted box and the object's)
        are summed over positive points, the others over objects with positive points.
    """
    if not len(points):
        return torch.zeros(2 + len(POSITIVES), dtype=torch.float64, device=targets.boxes.device)
    found = Positives.of(assignment, targets)
    logits = predictions.logits.detach()[found.image, found.point, found.label].float()
    ious = paired_iou(predictions.boxes.detach()[found.image, found.point].float(), found.box)
    of_points = torch.stack([torch.ones_like(ious), logits.sigmoid(), ious]).double().sum(1)
    compared = _compare(points, predictions, assignment, targets)
    return torch.cat([of_points[:1], compared[:1], of_points[1:], compared[1:]])


def means(sums: Tensor) -> dict[str, float]:
    """Return the means of `POSITIVES` by name, given sums of `measure`; empty without positives."""
    positives, objects, *values = sums.tolist()
    if not positives:
        return {}
    count = {"score": positives, "iou": positives}
    return {n: v / count.get(n, objects) for n, v in zip(POSITIVES, values, strict=True)}


def _compare(
    points: Points, predictions: Predictions, assignment: Assignment, targets: TargetBatch
) -> Tensor:
    """Compare the positive points of objects with their other candidates.

    Logits are ranked, because the sigmoids of different large logits are equal after rounding.

    Returns:
        [5] float64: the number of objects with positive points; then the sums of rank, first,
        relative and score_gap over these objects.
    """
    step = max(1, _ELEMENTS // len(points))
    parts = zip(torch.split(targets.image, step), torch.split(targets.number, step), strict=True)
    each = [_extremes(points, predictions, assignment, targets, *part) for part in parts]
    best, highest, second, least, rank = torch.cat(each, 1)
    s, a, b, z = torch.stack([best, highest, second, least]).sigmoid()
    relative = torch.where(a > z, (s - z) / (a - z), 1.0)
    found = torch.stack([torch.ones_like(rank), rank, (rank == 1).double(), relative, a - b])
    return found.masked_fill(best == -torch.inf, 0).sum(1)


def _extremes(
    points: Points,
    predictions: Predictions,
    assignment: Assignment,
    targets: TargetBatch,
    image: Tensor,
    number: Tensor,
) -> Tensor:
    """Return logits among the candidates of objects, and the rank of their best positive point.

    Args:
        points: the N points.
        predictions: see `measure`.
        assignment: see `measure`.
        targets: see `measure`.
        image: [O], the image of each object.
        number: [O], its index there.

    Returns:
        [5, O] float64: the highest logit of a positive point; the highest, the second and the
        lowest logit of a candidate; the rank. -inf, or inf for the lowest, where there is none.
    """
    owner_ON = assignment.object[image]
    own_ON = owner_ON == number[:, None]
    inside_ON = _inside(points, targets.boxes[image, number])
    candidate_ON = own_ON | (inside_ON & (owner_ON < 0))
    label = targets.labels[image, number]
    logit_ON = predictions.logits.detach().transpose(1, 2)[image, label].float()
    best = _highest(logit_ON, own_ON)
    highest, least = _highest(logit_ON, candidate_ON), -_highest(-logit_ON, candidate_ON)
    top_ON = candidate_ON & (logit_ON == highest[:, None])
    below = _highest(logit_ON, candidate_ON & ~top_ON)
    second = torch.where(top_ON.sum(1) > 1, highest, below)
    rank = 1 + (candidate_ON & (logit_ON > best[:, None])).sum(1)
    return torch.stack([each.double() for each in (best, highest, second, least, rank)])


def _inside(points: Points, boxes: Tensor) -> Tensor:
    """Return whether each of the N points lies in each of O boxes, as a query does: [O, N] bool."""
    if not points.located:
        return torch.ones(len(boxes), len(points), dtype=torch.bool, device=boxes.device)
    x, y = points.xy.T.contiguous()
    x1, y1, x2, y2 = boxes.T[:, :, None]
    inside: Tensor = (x >= x1).logical_and_(x <= x2).logical_and_(y >= y1).logical_and_(y <= y2)
    return inside


def _highest(value_ON: Tensor, of_ON: Tensor) -> Tensor:
    """Return the highest value of each row where `of_ON` is true; -inf without one."""
    highest: Tensor = torch.where(of_ON, value_ON, -torch.inf).amax(1)
    return highest
