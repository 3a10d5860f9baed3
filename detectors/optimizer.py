"""Create the optimiser, and average weights, as `Training` specifies."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from detectors.training import Training

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
NEVER_DECAYED = ("relative_position_bias_table", "absolute_pos_embed", "pos_embed")
"""Names of parameters without weight decay: tables of positions."""
SAMPLING = ("sampling_offsets", "reference_points")
"""Names of the modules that `training.sampling_lr` is for."""


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Create AdamW or SGD with a group of parameters for each weight decay and learning rate.

    The `share` of a group is its learning rate relative to `training.lr`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for prefix, module in model.named_modules():
        share = _share(prefix, training)
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


def _share(name: str, training: Training) -> float:
    """Return the learning rate, relative to `training.lr`, of the module `name`."""
    if f"{name}.".startswith("backbone."):
        return training.backbone_lr
    return training.sampling_lr if name.split(".")[-1] in SAMPLING else 1.0


def _weight_decay(
    module: nn.Module, name: str, parameter: nn.Parameter, training: Training
) -> float:
    """Return the weight decay of the parameter `name` of `module`."""
    if isinstance(module, NORMS):
        return training.weight_decay_norm
    if name in NEVER_DECAYED:
        return 0.0
    return training.weight_decay_bias if parameter.ndim < 2 else training.weight_decay


class RunningAverage(AveragedModel):
    """The running average of the parameters and buffers of a module.

    Its decay is (1 + t) / (10 + t) after t updates, but at most `decay`, so that the average soon
    forgets the first weights. Integers, such as the step counters of batch norm, are copied.

    Without averaging, `refresh` copies the current values; no step does. Nothing waits for the
    device, also not for the number of updates.

    The places of all tensors are found once: to walk through both modules takes longer than the
    average itself. Tensors may be replaced later (`to` does so), but none may be added.

    Args:
        model: the module to average; `module` becomes a copy of it.
        decay: the decay in [0, 1); 0: no averaging.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self._decay = decay
        self._own, self._others = _places(self.module), _places(model)
        self._floats = sum(tensor.is_floating_point() for tensor in _tensors(self._own))
        self._updates: int | None = 0

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add the current values of `model`, which is the module given to `__init__`."""
        t = int(self.n_averaged) if self._updates is None else self._updates
        if self._decay:
            self._average(t)
        self.n_averaged += 1
        self._updates = t + 1

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the current values of the model if they are not averaged."""
        if not self._decay:
            torch._foreach_copy_(_tensors(self._own), _tensors(self._others))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """See `torch.nn.Module.load_state_dict`; the number of updates is read at the next one."""
        self._updates = None
        return super().load_state_dict(state_dict, strict, assign)

    def _average(self, t: int) -> None:
        """Add the current values, after `t` updates."""
        own, others = _tensors(self._own), _tensors(self._others)
        averaged = self._floats if t else 0
        if averaged:
            weight = 1 - min(self._decay, (1 + t) / (10 + t))
            torch._foreach_lerp_(own[:averaged], others[:averaged], weight)
        if own[averaged:]:
            torch._foreach_copy_(own[averaged:], others[averaged:])


Place = tuple[Mapping[str, Tensor | None], str]
"""The parameters or buffers that a module holds itself, and the name of one of them."""


def _places(model: nn.Module) -> list[Place]:
    """Return the place of every parameter and buffer, those with floating-point values first."""
    found: dict[int, tuple[bool, Place]] = {}
    for module in model.modules():
        held: Mapping[str, Tensor | None]
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    found.setdefault(id(tensor), (not tensor.is_floating_point(), (held, name)))
    return [place for _, place in sorted(found.values(), key=lambda entry: entry[0])]


def _tensors(places: list[Place]) -> list[Tensor]:
    return [tensor for held, name in places if (tensor := held[name]) is not None]
