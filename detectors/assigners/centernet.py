"""CenterNet: the centre cell is positive, and negatives around it have a smaller weight."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import center_distance, each_image
from detectors.assigners.ranking import best_object
from detectors.boxes import area
from detectors.losses import ClsLoss
from detectors.structures import Assignment, Points, Predictions, Progress, TargetBatch
from detectors.synchronisations import on_host


class CenterNet(Assigner):
    """Assigns the cell of the object's centre (CenterNet Eq. 1).

    The negative loss of points around it has a smaller weight: (1 - Y)^4 for the object's class,
    with Y = exp(-d^2 / (2 sigma^2)), the distance d to the point of the centre cell and sigma =
    radius / 3. Among several objects of the class, the highest Y counts. Beyond the radius, and for
    all other classes, the weight is 1. In a pyramid, the level is chosen by the size of the object,
    as in `center`, the finer one of two. A cell that is the centre of several objects is assigned
    to the smallest one; the negative loss of the other objects' classes has weight 0 there. The
    detector must have one point per cell.

    The radius is CornerNet's: boxes whose corners are moved by it still have IoU `min_overlap`.

    Deviations: the released codes of CornerNet and CenterNet use wrong roots of its three
    equations, so their radii are more than three times as large; here the equations are solved
    correctly. There, the radius is rounded down to cells, sigma is (2 radius + 1) / 6, and the
    Gaussian fills a square, not a circle.
    """

    name: Literal["centernet"] = "centernet"
    min_overlap: float = Field(0.7, gt=0, lt=1)
    """IoU of a box moved by the radius: 0.7 in CenterNet's code, whose wrong roots correspond to
    about 0.2 here; 0.3 in mmdetection, which has the correct roots."""
    beta: float = Field(4.0, gt=0)
    """Exponent of 1 - Y in the weight."""
    range_factor: float = Field(8.0, gt=0)
    """Upper end of the size range of a level, in strides; the lower end is half of it."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"
    loss: ClassVar[ClsLoss] = "gaussian"
    one_per_cell: ClassVar[bool] = True

    def assign_batch(
        self, points: Points, predictions: Predictions, targets: TargetBatch, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign_batch`; only the number of classes of predictions is used."""
        side = targets.boxes[..., 2:] - targets.boxes[..., :2]
        level_BG1 = level_of(points, side.amax(-1) / 2, self.range_factor)[..., None]
        own_level_BGN = level_BG1 == points.level
        cell = nearest_point(points, targets, own_level_BGN)
        cell_BGN = cell[..., None] == torch.arange(len(points), device=cell.device)
        cell_BGN &= targets.real[..., None]
        found = best_object(-area(targets.boxes)[..., None], cell_BGN)
        exponent_BGN = gaussian_exponent(points, cell, gaussian_radius(side, self.min_overlap))
        heat_BGN = each_image(torch.exp, exponent_BGN, targets.counts) * own_level_BGN
        weight_BNC = negative_weight(heat_BGN, targets, predictions.logits.shape[2], self.beta)
        label_BN = targets.labels.gather(1, found.object.clamp(min=0))
        own_BNC = label_BN[..., None] == torch.arange(weight_BNC.shape[2], device=cell.device)
        own_BNC &= (found.object >= 0)[..., None]
        return Assignment(found.object, found.degree, torch.where(own_BNC, 1.0, weight_BNC))


def level_of(points: Points, length: Tensor, factor: float) -> Tensor:
    """Return the finest level whose size range contains each length in pixels: int64."""
    *others, _ = torch.split(points.stride, list(points.sizes))
    level = torch.zeros_like(length, dtype=torch.int64)
    for stride in others:
        level += length > stride[0] * factor
    return level


def nearest_point(points: Points, targets: TargetBatch, candidate_BGN: Tensor) -> Tensor:
    """Return the candidate nearest to each object's centre: [B, G] int64.

    Among equally near points (the centre is on the edge of cells), the last one is returned, at the
    lower right: it is the cell that contains the rounded centre.
    """
    distance_BGN = torch.where(candidate_BGN, center_distance(points, targets), torch.inf)
    nearest: Tensor = len(points) - 1 - distance_BGN.flip(2).argmin(2)
    return nearest


def gaussian_radius(side: Tensor, overlap: float) -> Tensor:
    """Return how far both corners of boxes may move in x and y: [...], in the unit of `side`.

    `side` [..., 2] holds the width w and the height h of the boxes.

    The smallest of three shifts r at which the moved box has IoU o = `overlap` with the w x h box:
    both corners in the same direction, (w - r)(h - r) = 2o / (1 + o) wh; both inwards,
    (w - 2r)(h - 2r) = o wh; both outwards, (w + 2r)(h + 2r) = wh / o.
    """

    def shift(share: float) -> Tensor:
        """Return the smaller root x of (w - x)(h - x) = share * wh."""
        root = ((side[..., 0] - side[..., 1]).square() + 4 * share * side.prod(-1)).sqrt()
        return (side.sum(-1) - root) / 2

    either = shift(2 * overlap / (1 + overlap))
    return torch.stack([either, shift(overlap) / 2, -shift(1 / overlap) / 2]).amin(0).clamp(min=0)


def gaussian_exponent(points: Points, cell: Tensor, radius: Tensor) -> Tensor:
    """Return log(Y) around the points `cell` [B, G]: [B, G, N] <= 0; -inf beyond `radius` [B, G].

    The radius is in pixels.
    """
    x, y = points.xy.unbind(1)
    square_BGN = (x[cell][..., None] - x).square() + (y[cell][..., None] - y).square()
    square = radius.square()[..., None]
    spread = (2 / 9 * square).clamp(min=torch.finfo(square.dtype).tiny)
    return torch.where(square_BGN <= square, -square_BGN / spread, -torch.inf)


def negative_weight(heat_BGN: Tensor, targets: TargetBatch, classes: int, beta: float) -> Tensor:
    """Return (1 - Y)^beta, with the highest Y over the objects of each class: [B, N, C].

    The weight is 1 where Y is 0 for all objects.
    """
    power_BGN = each_image(lambda heat: _power_of_rest(heat, beta), heat_BGN, targets.counts)
    power_BGN = torch.where(targets.real[..., None], power_BGN, 1.0)
    weight_BCN = torch.ones(len(targets), classes, heat_BGN.shape[2], device=heat_BGN.device)
    index_BGN = targets.labels[..., None].expand_as(power_BGN)
    weight_BCN.scatter_reduce_(1, index_BGN, power_BGN, "amin")
    return weight_BCN.transpose(1, 2).contiguous()


def _power_of_rest(heat: Tensor, beta: float) -> Tensor:
    """Return (1 - Y)^beta."""
    return _powers_near(heat, beta) if heat.is_cpu else (1 - heat) ** beta


@on_host
def _powers_near(heat: Tensor, beta: float) -> Tensor:
    """Return (1 - Y)^beta on a CPU, where it is faster to compute only values that are not 1."""
    power, near = torch.ones_like(heat), heat > 0
    power[near] = (1 - heat[near]) ** beta
    return power
