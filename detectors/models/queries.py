"""What detectors with queries have in common: their points, and predictors of relative boxes."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.models.backbone_base import Backbone
from detectors.models.dense import DenseDetector
from detectors.models.layers import full_precision
from detectors.models.points import whole_image
from detectors.models.predictor import PRIOR, BranchShape
from detectors.models.query_options import QuerySet
from detectors.structures import Points, Predictions

EPS = 1e-5
"""Smallest distance of a reference to the border of the input, relative to it."""


class QueryDetector(DenseDetector):
    """A detector whose head predicts at queries: points of one cell that covers the input.

    Args:
        backbone: see `DenseDetector`.
        neck: see `DenseDetector`.
        head: see `DenseDetector`.
        strides: see `DenseDetector`.
        branches: see `DenseDetector`.
        sets: the queries of each branch.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        head: nn.Module,
        strides: Sequence[int],
        branches: Mapping[str, BranchShape],
        sets: Mapping[str, QuerySet],
    ) -> None:
        super().__init__(backbone, neck, head, strides, branches)
        self.sets = dict(sets)

    def points(self, levels: Sequence[Tensor], images: Tensor, branch: str) -> Points:
        """See `DenseDetector.points`."""
        height, width = images.shape[-2:]
        count, groups = self.count(levels, branch), self.sets[branch].groups
        return whole_image(height, width, count, images.device, groups)

    def count(self, levels: Sequence[Tensor], branch: str) -> int:
        """Return the number of queries of a branch, given the maps of the neck."""
        return self.sets[branch].count


@dataclass(frozen=True)
class SameQueries:
    """Branches to compute that predict at the same queries."""

    more: bool
    """Whether these are the additional queries."""
    points: dict[str, Points]

    @property
    def groups(self) -> int:
        """Number of groups of the queries."""
        return next(iter(self.points.values())).groups

    @property
    def count(self) -> int:
        """Number of queries."""
        return len(next(iter(self.points.values())))


def by_queries(points: Mapping[str, Points], extra: Collection[str]) -> list[SameQueries]:
    """Return the branches in `points` by their queries; additional queries are the last.

    `extra` names the branches that predict at additional queries.
    """
    held = [{n: at for n, at in points.items() if (n in extra) == more} for more in (False, True)]
    return [SameQueries(bool(more), found) for more, found in enumerate(held) if found]


class ClassPredictor(nn.Module):
    """A linear layer for classes. Scores are initially near `PRIOR`, for the focal loss."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls = nn.Linear(channels, num_classes)
        nn.init.normal_(self.cls.weight, std=0.01)
        nn.init.constant_(self.cls.bias, -math.log((1 - PRIOR) / PRIOR))


class QueryPredictor(ClassPredictor):
    """A linear layer for classes, and three for boxes: (x, y, width, height) relative to the input.

    All is computed in float32.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(channels, num_classes)
        widths = (channels, channels, channels, 4)
        layers = [nn.Linear(*width) for width in pairwise(widths)]
        self.box = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def forward(
        self,
        states: Tensor,
        extent: tuple[float, float],
        reference: Tensor | None = None,
        classes: ClassPredictor | None = None,
    ) -> Predictions:
        """Predict from states of queries.

        Args:
            states: [B, N, C].
            extent: (width, height) of the input in pixels.
            reference: see `relative`.
            classes: predicts the classes instead of the own layer, for a branch that shares boxes.
        """
        boxes = corners(self.relative(states, reference), extent)
        with full_precision(states.device):
            return Predictions((classes or self).cls(states.float()), boxes)

    def start_at_reference(self, sides: float) -> None:
        """Let boxes be at their references, with `sides` added before the sigmoid, initially."""
        last = self.box[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[2:], sides)

    def relative(self, states: Tensor, reference: Tensor | None = None) -> Tensor:
        """Return centre and sides of boxes, relative to the input: [B, N, 4] in [0, 1].

        Args:
            states: [B, N, C].
            reference: points [B, N, 2] or boxes [B, N, 4], relative to the input. The output of the
                layers is added to it before the sigmoid (Deformable DETR, section A.4).
        """
        with full_precision(states.device):
            raw: Tensor = self.box(states.float())
        if reference is not None:
            start = reference.float().logit(eps=EPS)
            raw = raw + F.pad(start, (0, 4 - start.shape[-1]))
        return raw.sigmoid()


def corners(relative: Tensor, extent: tuple[float, float]) -> Tensor:
    """Convert boxes (x, y, width, height), relative to the input, to xyxy in pixels: [..., 4].

    Args:
        relative: [..., 4].
        extent: (width, height) of the input in pixels.
    """
    x, y, w, h = relative.unbind(-1)
    sides = [(x - w / 2, extent[0]), (y - h / 2, extent[1])]
    sides += [(x + w / 2, extent[0]), (y + h / 2, extent[1])]
    return torch.stack([at * size for at, size in sides], -1)
