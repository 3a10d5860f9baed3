"""CenterNet: the centre cell is positive, and negatives around it have a smaller weight."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.geometry import center_distance
from detectors.assigners.ranking import best_object
from detectors.boxes import area
from detectors.losses import ClsLoss
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


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

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; only the number of classes of predictions is used."""
        side = targets.boxes[:, 2:] - targets.boxes[:, :2]
        level = level_of(points, side.amax(1) / 2, self.range_factor)
        own_level_GN = level[:, None] == points.level
        cell = nearest_point(points, targets, own_level_GN)
        cell_GN = cell[:, None] == torch.arange(len(points), device=cell.device)
        found = best_object(-area(targets.boxes)[:, None], cell_GN)
        heat_GN = gaussian(points, cell, gaussian_radius(side, self.min_overlap)) * own_level_GN
        weight_NC = negative_weight(heat_GN, targets.labels, predictions.logits.shape[1], self.beta)
        positive = (found.object >= 0).nonzero()[:, 0]
        weight_NC[positive, targets.labels[found.object[positive]]] = 1.0
        return Assignment(found.object, found.degree, weight_NC)


def level_of(points: Points, length: Tensor, factor: float) -> Tensor:
    """Return the finest level whose size range contains each length [G] in pixels: [G] int64."""
    upper = torch.unique(points.stride)[:-1] * factor
    level: Tensor = (length[:, None] > upper).sum(1)
    return level


def nearest_point(points: Points, targets: Targets, candidate_GN: Tensor) -> Tensor:
    """Return the candidate nearest to each object's centre: [G] int64.

    Among equally near points (the centre is on the edge of cells), the last one is returned, at the
    lower right: it is the cell that contains the rounded centre.
    """
    distance_GN = torch.where(candidate_GN, center_distance(points, targets), torch.inf)
    nearest: Tensor = len(points) - 1 - distance_GN.flip(1).argmin(1)
    return nearest


def gaussian_radius(side: Tensor, overlap: float) -> Tensor:
    """Return how far both corners of boxes may move in x and y: [G], in the unit of `side` [G, 2].

    The smallest of three shifts r at which the moved box has IoU o = `overlap` with the w x h box:
    both corners in the same direction, (w - r)(h - r) = 2o / (1 + o) wh; both inwards,
    (w - 2r)(h - 2r) = o wh; both outwards, (w + 2r)(h + 2r) = wh / o.
    """

    def shift(share: float) -> Tensor:
        """Return the smaller root x of (w - x)(h - x) = share * wh."""
        root = ((side[:, 0] - side[:, 1]).square() + 4 * share * side.prod(1)).sqrt()
        return (side.sum(1) - root) / 2

    either = shift(2 * overlap / (1 + overlap))
    return torch.stack([either, shift(overlap) / 2, -shift(1 / overlap) / 2]).amin(0).clamp(min=0)


def gaussian(points: Points, cell: Tensor, radius: Tensor) -> Tensor:
    """Return Y around the points `cell` [G]: [G, N] in [0, 1]; 0 beyond `radius` [G], in pixels."""
    x, y = points.xy.T
    square_GN = (x[cell][:, None] - x).square() + (y[cell][:, None] - y).square()
    square = radius.square()[:, None]
    spread = (2 / 9 * square).clamp(min=torch.finfo(square.dtype).tiny)
    return torch.where(square_GN <= square, -square_GN / spread, -torch.inf).exp()


def negative_weight(heat_GN: Tensor, labels: Tensor, classes: int, beta: float) -> Tensor:
    """Return (1 - Y)^beta, with the highest Y over the objects of each class: [N, C].

    The weight is 1 where Y is 0 for all objects. Only points with Y > 0 are computed.
    """
    obj, point = heat_GN.nonzero(as_tuple=True)
    weight = torch.ones(heat_GN.shape[1] * classes, device=heat_GN.device)
    index = point * classes + labels[obj]
    weight.scatter_reduce_(0, index, (1 - heat_GN[obj, point]) ** beta, "amin")
    return weight.view(-1, classes)
