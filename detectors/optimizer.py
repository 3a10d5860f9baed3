"""Create the optimiser, and average weights, as `Training` specifies."""

from typing import Any

import torch
from torch import Tensor, nn

from detectors.training import Training


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Create AdamW or SGD; weight decay applies to parameters with two or more dimensions only.

    The `share` of a parameter group is its learning rate relative to `training.lr`.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [
                p
                for name, p in named
                if name.startswith("backbone.") == backbone and (p.ndim > 1) == decays
            ],
            "weight_decay": training.weight_decay if decays else 0.0,
            "share": training.backbone_lr if backbone else 1.0,
        }
        for backbone in (True, False)
        for decays in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=training.lr, fused=True)


def ramped_average(decay: float) -> Any:
    """Return an averaging function for `AveragedModel`.

    Its decay is (1 + t) / (10 + t) after t updates, but at most `decay`, so that the average soon
    forgets the first weights.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        t = int(count)
        weight = 1 - min(decay, (1 + t) / (10 + t))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, weight)
        else:  # step counters of batch norm
            torch._foreach_copy_(averaged, current)

    return average
