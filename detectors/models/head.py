"""The head of FCOS and RetinaNet: two towers, and one predictor per branch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.models.predictor import BranchShape, Predictor
from detectors.models.towers import tower
from detectors.structures import Points, Predictions

SHARED = "shared"
"""Name of the towers that all branches share."""


@dataclass(frozen=True)
class TowerShape:
    """The shape of the two towers."""

    channels: int
    convs: int
    """Number of 3x3 convolutions per tower."""
    groups: int
    """Groups of group norm; 0: no norm."""
    bias: bool = True
    """Whether the convolutions have a bias."""
    shared: bool = True
    """Whether all branches share both towers."""
    detached: tuple[str, ...] = ()
    """Branches whose gradients do not reach what they share with other branches: the levels of the
    pyramid, shared towers, and scales."""


class Towers(nn.Module):
    """The classification tower and the box tower."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.cls, self.box = (
            tower(shape.channels, shape.channels, shape.convs, shape.groups, bias=shape.bias)
            for _ in range(2)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return the maps of both towers for each level."""
        return [(self.cls(x), self.box(x)) for x in levels]


class TowerHead(nn.Module):
    """Towers for all levels, one predictor per branch, and one learned scale per level.

    The first branch is built first, so its initial weights don't depend on the other branches.
    """

    def __init__(
        self, shape: TowerShape, branches: Mapping[str, BranchShape], levels: int, num_classes: int
    ) -> None:
        super().__init__()
        first, *others = branches
        self._detached = frozenset(shape.detached)
        self._tower_of = {name: SHARED if shape.shared else name for name in branches}
        self.towers = nn.ModuleDict({self._tower_of[first]: Towers(shape)})
        scaled = any(branch.scaled for branch in branches.values())
        self.scales = nn.Parameter(torch.ones(levels), requires_grad=scaled)
        self.predictors = nn.ModuleDict()
        for name, branch in branches.items():
            self.predictors[name] = Predictor(
                branch, shape.channels, num_classes, shape.groups, bias=shape.bias
            )
        if not shape.shared:
            self.towers.update({name: Towers(shape) for name in others})

    def forward(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> dict[str, tuple[Predictions, ...]]:
        """Compute the predictions of every branch in `points` from the maps of the pyramid."""
        needed = dict.fromkeys(self._tower_of[name] for name in points)
        features = {
            name: self.towers[name](_detach(levels) if name in self._detached else levels)
            for name in needed
        }
        return {name: (self._predict(name, features, at),) for name, at in points.items()}

    def _predict(
        self, name: str, features: Mapping[str, list[tuple[Tensor, Tensor]]], points: Points
    ) -> Predictions:
        """Compute the predictions of one branch from the maps of all towers."""
        tower_name, detached = self._tower_of[name], name in self._detached
        maps = features[tower_name]
        scales = self.scales.detach() if detached else self.scales
        if detached and tower_name == SHARED:
            maps = [(cls.detach(), box.detach()) for cls, box in maps]
        predicted: Predictions = self.predictors[name](maps, scales, points)
        return predicted


def _detach(maps: Sequence[Tensor]) -> list[Tensor]:
    return [each.detach() for each in maps]
