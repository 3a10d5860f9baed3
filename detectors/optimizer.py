"""Create the optimiser, and average weights, as `Training` specifies."""

from typing import Any

import torch
from torch import Tensor, nn

from detectors.training import Training

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
NEVER_DECAYED = ("relative_position_bias_table", "absolute_pos_embed", "pos_embed")
"""Names of parameters without weight decay: tables of positions."""


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Create AdamW or SGD with a group of parameters for each weight decay and learning rate.

    The `share` of a group is its learning rate relative to `training.lr`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for prefix, module in model.named_modules():
        share = training.backbone_lr if f"{prefix}.".startswith("backbone.") else 1.0
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                decay = _weight_decay(module, name, parameter, training)
                groups.setdefault((share, decay), []).append(parameter)
    options = [
        {"params": members, "weight_decay": decay, "share": share}
        for (share, decay), members in groups.items()
    ]
    if training.optimizer == "sgd":
        return torch.optim.SGD(options, lr=training.lr, momentum=training.momentum, fused=True)
    return torch.optim.AdamW(options, lr=training.lr, fused=True)


def _weight_decay(
    module: nn.Module, name: str, parameter: nn.Parameter, training: Training
) -> float:
    """Return the weight decay of the parameter `name` of `module`."""
    if isinstance(module, NORMS):
        return training.weight_decay_norm
    if name in NEVER_DECAYED:
        return 0.0
    return training.weight_decay_bias if parameter.ndim < 2 else training.weight_decay


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
