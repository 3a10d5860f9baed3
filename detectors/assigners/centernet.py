"""CenterNet: the centre cell alone is positive, the points around it are hardly negative."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from detectors.assigners.base import Assigner, Branch, Family
from detectors.assigners.center import level_of
from detectors.assigners.geometry import center_distance
from detectors.assigners.ranking import best_object
from detectors.boxes import area
from detectors.losses import ClsLoss
from detectors.structures import Assignment, Points, Predictions, Progress, Targets


class CenterNet(Assigner):
    """The cell of an object's centre, in a Gaussian of weaker negatives (CenterNet Eq. 1).

    Around the centre cell Y = exp(-d^2 / (2 sigma^2)) with the distance d to its point and sigma
    = radius / 3. There the negative loss of the object's class weighs (1 - Y)^4, with the highest
    Y over the objects of the class; beyond the radius, and for all other classes, it weighs 1. A
    pyramid's level is that of the object's size, as in `center`. The smaller object takes a shared
    centre cell, and the other's class isn't punished there. For detectors with a point a cell.
    The radius is CornerNet's: a box whose corners are off by so much still has IoU `min_overlap`.
    Deviations: CornerNet's and CenterNet's released codes take wrong roots of its three equations,
    which makes their radii over three times as large; here they are solved. There the radius is
    cut to whole cells, sigma is (2 radius + 1) / 6 and the Gaussian fills a square, not a circle.
    """

    name: Literal["centernet"] = "centernet"
    min_overlap: float = Field(0.7, gt=0, lt=1)
    """IoU that a box within the radius keeps: 0.7 in CenterNet's code, whose wrong roots amount to
    about 0.2 here; mmdetection, with the right ones, has 0.3."""
    beta: float = Field(4.0, gt=0)
    """Power of 1 - Y in the weight."""
    range_factor: float = Field(8.0, gt=0)
    """Upper end of a level's size range in strides; the lower end is half of it."""

    family: ClassVar[Family] = "o2m"
    branch: ClassVar[Branch] = "o2m"
    loss: ClassVar[ClsLoss] = "gaussian"

    def assign(
        self, points: Points, predictions: Predictions, targets: Targets, progress: Progress
    ) -> Assignment:
        """See `Assigner.assign`; of predictions the number of classes matters, progress doesn't."""
        side = targets.boxes[:, 2:] - targets.boxes[:, :2]
        level = level_of(points, side.amax(1) / 2, self.range_factor)
        own_level_GN = level[:, None] == points.level
        cell = nearest_point(points, targets, own_level_GN)
        cell_GN = cell[:, None] == torch.arange(len(points), device=cell.device)
        found = best_object(-area(targets.boxes)[:, None], cell_GN)
        heat_GN = gaussian(points, cell, gaussian_radius(side, self.min_overlap)) * own_level_GN
        weight_NC = faded(heat_GN, targets.labels, predictions.logits.shape[1], self.beta)
        positive = (found.object >= 0).nonzero()[:, 0]
        weight_NC[positive, targets.labels[found.object[positive]]] = 1.0
        return Assignment(found.object, found.degree, weight_NC)


def nearest_point(points: Points, targets: Targets, candidate_GN: Tensor) -> Tensor:
    """[G] int64: the candidate nearest to the object's centre; of equals, as from the edge of two
    cells, the last (lower right), as rounding down the centre in cells has it.
    """
    distance_GN = torch.where(candidate_GN, center_distance(points, targets), torch.inf)
    nearest: Tensor = len(points) - 1 - distance_GN.flip(1).argmin(1)
    return nearest


def gaussian_radius(side: Tensor, overlap: float) -> Tensor:
    """[G] in the unit of `side` [G, 2]: how far both corners of a box may move in x and in y.

    The least of three shifts r at which the moved box has IoU o = `overlap` with the w x h box:
    both corners in one direction, (w - r)(h - r) = 2o / (1 + o) wh; both inwards,
    (w - 2r)(h - 2r) = o wh; both outwards, (w + 2r)(h + 2r) = wh / o.
    """

    def shift(share: float) -> Tensor:
        """The smaller root x of (w - x)(h - x) = share * wh."""
        root = ((side[:, 0] - side[:, 1]).square() + 4 * share * side.prod(1)).sqrt()
        return (side.sum(1) - root) / 2

    either = shift(2 * overlap / (1 + overlap))
    return torch.stack([either, shift(overlap) / 2, -shift(1 / overlap) / 2]).amin(0).clamp(min=0)


def gaussian(points: Points, cell: Tensor, radius: Tensor) -> Tensor:
    """[G, N] in [0, 1]: Y around the points `cell` [G]; 0 beyond `radius` [G] in pixels."""
    x, y = points.xy.T
    square_GN = (x[cell][:, None] - x).square() + (y[cell][:, None] - y).square()
    square = radius.square()[:, None]
    spread = (2 / 9 * square).clamp(min=torch.finfo(square.dtype).tiny)
    return torch.where(square_GN <= square, -square_GN / spread, -torch.inf).exp()


def faded(heat_GN: Tensor, labels: Tensor, classes: int, beta: float) -> Tensor:
    """[N, C]: (1 - Y)^beta with the highest Y over the objects of the class, 1 where there is none.

    Only the points that some object warms are looked at, not all N x C.
    """
    obj, point = heat_GN.nonzero(as_tuple=True)
    weight = torch.ones(heat_GN.shape[1] * classes, device=heat_GN.device)
    index = point * classes + labels[obj]
    weight.scatter_reduce_(0, index, (1 - heat_GN[obj, point]) ** beta, "amin")
    return weight.view(-1, classes)
