"""Location of anchor points relative to objects, and quality of predictions for objects.

Matrices are object x point, [B, G, N]. Functions of a location also accept the objects of one
image; their matrices are then [G, N].
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.structures import Points, Predictions, TargetBatch, Targets

Prior = Literal["center", "box", "global"]
"""Points that may be positive for an object: those in its centre square, in its box, or all."""

Combination = Literal["mul", "add"]
"""How score p and IoU are combined: p^(1 - alpha) * IoU^alpha or (1 - alpha) p + alpha IoU."""


Objects = Targets | TargetBatch


def ltrb(points: Points, targets: Objects) -> Tensor:
    """Return distances from points to the sides of boxes, in pixels: [..., G, N, 4]; > 0 inside."""
    x, y = points.xy.unbind(1)
    x0, y0, x1, y1 = (side[..., None] for side in targets.boxes.unbind(-1))
    return torch.stack([x - x0, y - y0, x1 - x, y1 - y], dim=-1)


def centers(targets: Objects) -> Tensor:
    """Return the centres of the boxes, in pixels: [..., G, 2]."""
    return (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2


def center_distance(points: Points, targets: Objects) -> Tensor:
    """Return Euclidean distances from the centres of boxes to points, in pixels: [..., G, N]."""
    x, y = center_offset(points, targets)
    distance: Tensor = (x.square() + y.square()).sqrt()
    return distance


def distance_of_image(points: Points, targets: TargetBatch) -> Callable[[int], Tensor]:
    """Return a function that computes `center_distance` for one image, [G, N] on the CPU."""
    return lambda image: center_distance(points.host, targets.images[image])


def center_offset(points: Points, targets: Objects) -> tuple[Tensor, Tensor]:
    """Return offsets from points to the centres of boxes, in pixels: x and y [..., G, N]."""
    x, y = points.xy.unbind(1)
    cx, cy = centers(targets).unbind(-1)
    return cx[..., None] - x, cy[..., None] - y


def in_box(points: Points, targets: Objects, margin: float = 0.0) -> Tensor:
    """Return whether a point is more than `margin` pixels inside the box: [..., G, N] bool."""
    x, y = points.xy.unbind(1)
    x0, y0, x1, y1 = (side[..., None] for side in targets.boxes.unbind(-1))
    if not margin:
        return (x > x0) & (x < x1) & (y > y0) & (y < y1)
    return (x - x0 > margin) & (x1 - x > margin) & (y - y0 > margin) & (y1 - y > margin)


def grown(points: Points, targets: TargetBatch) -> TargetBatch:
    """Return objects whose sides below the finest stride are twice that stride, about the centre.

    So in the first released code of YOLO26, which changes the side to the second finest stride.
    Later ones change all sides below the second finest stride.
    """
    finest = points.stride.amin()
    side = targets.boxes[..., 2:] - targets.boxes[..., :2]
    half = torch.where(side < finest, 2 * finest, side) / 2
    boxes = torch.cat([centers(targets) - half, centers(targets) + half], -1)
    whole = (side >= finest).repeat(1, 1, 2)
    return replace(targets, boxes=torch.where(whole, targets.boxes, boxes))


def in_center_square(points: Points, targets: Objects, radius: float) -> Tensor:
    """Return whether a point lies in the centre square of the box: [..., G, N] bool.

    FCOS's centre sampling: the sides of the square are 2 * `radius` strides, clipped to the box.
    """
    x, y = center_offset(points, targets)
    reach = radius * points.stride
    return in_box(points, targets) & (x.abs() < reach) & (y.abs() < reach)


def in_prior(points: Points, targets: Objects, prior: Prior, radius: float) -> Tensor:
    """Return whether the prior allows a point: [..., G, N] bool.

    `radius` is used by `center` only.
    """
    if prior == "center":
        return in_center_square(points, targets, radius)
    if prior == "box":
        return in_box(points, targets)
    shape = (*targets.labels.shape, len(points))
    return torch.ones(shape, dtype=torch.bool, device=points.xy.device)


def fits_level(points: Points, reach_GN: Tensor, factor: float) -> Tensor:
    """Return whether the reach, in pixels, is in the range of the point's level: [..., G, N] bool.

    FCOS's ranges are [factor / 2 * s, factor * s] for stride s, without lower limit for the finest
    and without upper limit for the coarsest level. The reach is the largest distance of the point
    to the sides of the box. Both ends belong to a range, as in the paper of FCOS, mmdetection and
    cvpods (codes of 002 to 004); in detectron2 and torchvision, none does. So a reach of exactly an
    end fits two levels.

    Args:
        points: the N points.
        reach_GN: [..., G, N], or [..., G, 1] if an object has the same reach for all points.
        factor: upper end of the range, in strides.
    """
    upper = points.stride * factor
    lower = torch.where(points.level == points.level.amin(), -torch.inf, upper / 2)
    upper = torch.where(points.level == points.level.amax(), torch.inf, upper)
    return (reach_GN >= lower) & (reach_GN <= upper)


def class_logits(predictions: Predictions, targets: TargetBatch) -> Tensor:
    """Return the logit of each object's class at every point: [B, G, N]."""
    image_B1 = torch.arange(len(targets), device=targets.labels.device)[:, None]
    return predictions.logits.transpose(1, 2)[image_B1, targets.labels]


def class_score(predictions: Predictions, targets: TargetBatch) -> Tensor:
    """Return the predicted score of each object's class at every point: [B, G, N] in [0, 1]."""
    return each_image(torch.sigmoid, class_logits(predictions, targets), targets.counts)


def each_image(
    function: Callable[[Tensor], Tensor], value: Tensor, counts: Sequence[int]
) -> Tensor:
    """Apply an element-wise function, so that an image has the same digits in any batch.

    Vectorised powers, exponentials and logarithms of a CPU may round the same input differently at
    the end of a tensor, where fewer elements are left than a vector has. On a CPU, the function is
    therefore applied to the objects of one image at a time. Elsewhere, an element's position has no
    influence, and one call is enough.

    Args:
        function: returns a tensor of the same shape and type.
        value: [B, G, ...].
        counts: the number of rows to compute of each image; the others may get any value.
    """
    if not value.is_cpu or list(counts) == [value.shape[1]]:
        return function(value)
    found = torch.zeros_like(value)
    for image, count in enumerate(counts):
        found[image, :count] = function(value[image, :count])
    return found


def equalize(value_BGN: Tensor, targets: TargetBatch) -> Tensor:
    """Return `value_BGN` [B, G, N] with the values of the first of equal objects for all of them.

    Objects of an image are equal if they have the same box and class. Vectorised powers and
    exponentials may round the same input differently at different positions of a tensor, and the
    last bit, not the order of the objects, would decide which of them gets a point.
    """
    boxes, labels = targets.boxes, targets.labels
    if boxes.shape[1] < 2:
        return value_BGN
    equal_BGG = (boxes[:, :, None] == boxes[:, None]).all(3)
    equal_BGG &= labels[:, :, None] == labels[:, None]
    image_B1 = torch.arange(len(boxes), device=boxes.device)[:, None]
    return value_BGN[image_B1, equal_BGG.byte().argmax(2)]


def matching_quality(
    predictions: Predictions, targets: TargetBatch, alpha: float, combine: Combination = "mul"
) -> Tensor:
    """Compute the quality of each pair of object and point: [B, G, N] in [0, 1].

    003 Eq. 4 and 002 Eq. 1 without the prior; `add` is from 003 Table 4. p is the predicted score
    of the object's class, IoU that of the predicted box. Objects with the same box and class have
    exactly the same qualities.
    """
    score_BGN, counts = class_score(predictions, targets), targets.counts
    iou_BGN = pairwise_iou(targets.boxes, predictions.boxes)
    if combine == "add":
        return equalize((1 - alpha) * score_BGN + alpha * iou_BGN, targets)
    score_BGN = each_image(lambda score: score ** (1 - alpha), score_BGN, counts)
    iou_BGN = each_image(lambda iou: iou**alpha, iou_BGN, counts)
    return equalize(score_BGN * iou_BGN, targets)


def log_of_iou(iou_BGN: Tensor, targets: TargetBatch) -> Tensor:
    """Return log(IoU + 1e-8): [B, G, N] float64. The small number is that of YOLOX."""
    return each_image(lambda iou: (iou + 1e-8).log(), iou_BGN.double(), targets.counts)
