"""Losses and matchings of detectors with queries equal those of the released code.

The numbers are those of transformers 4.44.2, whose Deformable DETR has the matcher and the
criterion of the authors. For H-DETR, objects were given twice; for Group DETR, the losses of three
groups were averaged; for Sparse R-CNN, L1 in cost and loss was that of corners, as in its code.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from detectors.assigners.min_cost import CostRule, MinCost
from detectors.assigners.min_cost_many import MinCostMany
from detectors.criterion import Criterion
from detectors.engine import assign
from detectors.losses import LossOptions
from detectors.models.points import whole_image
from detectors.models.queries import corners
from detectors.structures import Predictions, Progress, TargetBatch, Targets
from detectors.world import LocalWorld

SIZE = (128.0, 96.0)
CPU = torch.device("cpu")


class System(NamedTuple):
    """How a system is called here, and its losses of classes, GIoU and L1 for three seeds."""

    rule: CostRule
    losses: tuple[tuple[float, float, float], ...]
    normalizer: str = "objects"
    groups: int = 1


SYSTEMS = {
    "deformable detr": System(
        MinCost(l1_of="center_sides"),
        ((5.58091, 1.94957, 1.61797), (6.10882, 2.2834, 2.07676), (5.114, 1.8711, 1.97009)),
    ),
    "sparse r-cnn": System(
        MinCost(l1_of="corners"),
        ((5.58091, 1.94957, 1.65398), (6.41539, 2.02259, 2.08708), (5.114, 1.86636, 1.78737)),
    ),
    "h-detr": System(
        MinCostMany(repeats=2, l1_of="center_sides"),
        ((2.7371, 2.28487, 2.05465), (3.23687, 2.39291, 2.35306), (2.73086, 2.17124, 2.10023)),
        normalizer="positives",
    ),
    "group detr": System(
        MinCostMany(repeats=1, l1_of="center_sides"),
        ((1.87922, 2.52991, 2.6085), (2.15124, 2.64198, 2.87683), (1.67913, 2.54847, 2.80126)),
        normalizer="positives",
        groups=3,
    ),
}


def inputs(seed: int) -> tuple[Tensor, Tensor, list[Targets]]:
    """Draw logits [3, 24, 5], relative boxes [3, 24, 4], and 4, 0 and 7 objects."""
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.rand(3, 24, 5, generator=rng) - 3
    centers, sides = torch.rand(3, 24, 2, generator=rng), torch.rand(3, 24, 2, generator=rng)
    objects = []
    for count in (4, 0, 7):
        at, size = torch.rand(count, 2, generator=rng), torch.rand(count, 2, generator=rng)
        boxes = corners(torch.cat([0.2 + 0.6 * at, 0.05 + 0.3 * size], -1), SIZE)
        objects.append(Targets(boxes, (torch.rand(count, generator=rng) * 5).long()))
    return logits, torch.cat([centers, 0.05 + 0.4 * sides], -1), objects


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=list(SYSTEMS))
def test_losses_are_those_of_the_released_code(system: System, seed: int) -> None:
    logits, relative, objects = inputs(seed)
    targets, predicted = TargetBatch.of(objects, CPU), Predictions(logits, corners(relative, SIZE))
    points = whole_image(96, 128, 24, CPU, system.groups)
    options = LossOptions.model_validate(
        {
            "cls_weight": 2.0,
            "l1_weight": 5.0,
            "l1_of": system.rule.l1_of,
            "normalizer": system.normalizer,
        }
    )
    [found] = assign(system.rule, points, [predicted], targets, Progress(0, 1, 0, 1))
    loss = Criterion(options, LocalWorld()).branch_loss(points, predicted, found, targets, "focal")
    assert loss.box is not None
    assert loss.l1 is not None
    expected = torch.tensor(system.losses[seed])
    torch.testing.assert_close(
        torch.stack([loss.parts()[name] for name in ("cls", "box", "l1")]),
        expected,
        rtol=1e-4,
        atol=0,
    )
