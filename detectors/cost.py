"""Count the parameters and multiply-adds of a detector without allocating it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from detectors.assigners.base import Branch
from detectors.models.base import DetectorOptions


@dataclass(frozen=True)
class ModelCost:
    """The size of a detector and the cost of one forward pass."""

    parameters: int
    """Number of all parameters."""
    trainable: int
    """Number of parameters that are trained: without frozen stages and frozen batch norm, as
    mmdetection counts them."""
    multiply_adds: int
    """Multiply-adds of the convolutions and matrix products for one image (half of what others
    call FLOPs; without norms, activations and resizing)."""


def model_cost(
    options: DetectorOptions,
    num_classes: int,
    branches: Sequence[Branch],
    size: tuple[int, int],
    *,
    training: bool = False,
) -> ModelCost:
    """Compute the cost of a detector for one image.

    The detector is built on PyTorch's meta device: no memory is allocated and no weights are read.

    Args:
        options: the detector.
        num_classes: number of classes.
        branches: the branches that are computed.
        size: (height, width) of the image in pixels.
        training: whether to count all cascaded heads, or only those used at inference.
    """
    with torch.device("meta"):
        model = without_weights(options).build(num_classes, branches).train(training)
        images = torch.zeros(1, 3, *size, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(images)
    return ModelCost(
        parameters=_count(model, trainable=False),
        trainable=_count(model, trainable=True),
        multiply_adds=counter.get_total_flops() // 2,
    )


def parameter_count(options: DetectorOptions, num_classes: int, branches: Sequence[Branch]) -> int:
    """Return `ModelCost.parameters` alone. Other than `model_cost`, imports no compiler."""
    with torch.device("meta"), _WithoutValues():
        return _count(without_weights(options).build(num_classes, branches), trainable=False)


class _WithoutValues(TorchFunctionMode):
    """Skips the initial values of parameters: on the meta device they import PyTorch's compiler."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function, unless it is one of `torch.nn.init`, which returns its tensor."""
        named = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def without_weights(options: DetectorOptions) -> DetectorOptions:
    """Return the options without the file of the backbone's weights."""
    backbone = getattr(options, "backbone", None)
    if backbone is None or "weights" not in type(backbone).model_fields:
        return options
    return options.model_copy(update={"backbone": backbone.model_copy(update={"weights": ""})})


def _count(model: nn.Module, *, trainable: bool) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
