"""FCOS-shaped head: shared towers, one predictor for each branch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.models.layers import conv_norm

PRIOR = 0.01
"""Score of every class at initialisation."""


@dataclass(frozen=True)
class HeadShape:
    """channels of pyramid and towers, 3x3 convolutions a tower, and group-norm groups."""

    channels: int
    convs: int
    groups: int


class Tower(nn.Sequential):
    """`convs` times 3x3 convolution, group norm, ReLU; the size stays."""

    def __init__(self, shape: HeadShape) -> None:
        c = shape.channels
        layers = (conv_norm(c, c, 3, 1, shape.groups) for _ in range(shape.convs))
        super().__init__(*(nn.Sequential(layer, nn.ReLU()) for layer in layers))


class Predictor(nn.Module):
    """The private last convolutions of one branch."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls = nn.Conv2d(channels, num_classes, 3, 1, 1)
        self.box = nn.Conv2d(channels, 4, 3, 1, 1)
        for conv in (self.cls, self.box):
            nn.init.normal_(conv.weight, std=0.01)
        nn.init.constant_(self.cls.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        nn.init.zeros_(self.box.bias)  # type: ignore[arg-type]


class FcosHead(nn.Module):
    """Two towers shared by all levels and branches, a predictor a branch, a scale a level.

    Distances to the box's sides are softplus(scale_l * x + 1) * stride: positive everywhere, about
    1.3 strides at initialisation. (Released detectors use ReLU or exp, see FCOS.)
    """

    def __init__(
        self, shape: HeadShape, strides: Sequence[int], num_classes: int, branches: Sequence[str]
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.cls_tower, self.box_tower = Tower(shape), Tower(shape)
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        predictors = {branch: Predictor(shape.channels, num_classes) for branch in branches}
        self.predictors = nn.ModuleDict(predictors)

    def forward(
        self, levels: Sequence[Tensor], branches: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Pyramid maps -> a branch: logits [B, N, C] and distances ltrb [B, N, 4] in pixels."""
        towers = [(self.cls_tower(x), self.box_tower(x)) for x in levels]
        return {branch: self._predict(self.predictors[branch], towers) for branch in branches}

    def _predict(
        self, predictor: nn.Module, towers: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        logits, distances = [], []
        for level, (cls_features, box_features) in enumerate(towers):
            raw = predictor.box(box_features) * self.scales[level] + 1  # type: ignore[operator]
            logits.append(_by_point(predictor.cls(cls_features)))  # type: ignore[operator]
            distances.append(_by_point(F.softplus(raw)) * self.strides[level])
        return torch.cat(logits, 1), torch.cat(distances, 1)


def _by_point(maps: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
