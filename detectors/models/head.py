"""FCOS- and RetinaNet-shaped heads: two towers, and a predictor for each branch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.models.predictor import SCALED, BranchShape, Predictor
from detectors.models.towers import tower
from detectors.structures import Points, Predictions

SHARED = "shared"
"""Name of the towers where all branches share them."""


@dataclass(frozen=True)
class TowerShape:
    """channels, 3x3 convolutions a tower, groups of their group norm (0: no norm), and whether all
    branches share both towers.
    """

    channels: int
    convs: int
    groups: int
    shared: bool = True


class Towers(nn.Module):
    """The classification tower and the box tower."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.cls, self.box = (
            tower(shape.channels, shape.channels, shape.convs, shape.groups) for _ in range(2)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """A map of each level -> the two towers' maps of it."""
        return [(self.cls(x), self.box(x)) for x in levels]


class TowerHead(nn.Module):
    """Towers for all levels, a predictor a branch, a learned scale a level for all branches.

    The first branch is built first: without the others its weights are the same.
    """

    def __init__(
        self, shape: TowerShape, branches: Mapping[str, BranchShape], levels: int, num_classes: int
    ) -> None:
        super().__init__()
        first, *others = branches
        self._tower_of = {name: SHARED if shape.shared else name for name in branches}
        self.towers = nn.ModuleDict({self._tower_of[first]: Towers(shape)})
        scaled = any(branch.box in SCALED for branch in branches.values())
        self.scales = nn.Parameter(torch.ones(levels), requires_grad=scaled)
        self.predictors = nn.ModuleDict()
        for name, branch in branches.items():
            predictor = Predictor(branch, shape.channels, num_classes, shape.groups)
            self.predictors[name] = predictor
        if not shape.shared:
            self.towers.update({name: Towers(shape) for name in others})

    def forward(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> dict[str, tuple[Predictions, ...]]:
        """Pyramid maps -> predictions of every branch in `points`; a branch not asked for costs
        nothing.
        """
        needed = dict.fromkeys(self._tower_of[name] for name in points)
        features = {name: self.towers[name](levels) for name in needed}
        return {
            name: (self.predictors[name](features[self._tower_of[name]], self.scales, at),)
            for name, at in points.items()
        }
