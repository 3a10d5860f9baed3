"""What a detector costs to run, found without running it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detectors.assigners.base import Branch
from detectors.models.base import DetectorOptions


@dataclass(frozen=True)
class ModelCost:
    """parameters: all weights; trainable: those that training changes (without frozen stages and
    frozen batch norm, as mmdetection counts them); multiply_adds: of the convolutions and matrix
    products of one image's forward pass (half of what others call FLOPs; norms, activations and
    resizing are left out).
    """

    parameters: int
    trainable: int
    multiply_adds: int


def model_cost(
    options: DetectorOptions,
    num_classes: int,
    branches: Sequence[Branch],
    size: tuple[int, int],
    *,
    training: bool = False,
) -> ModelCost:
    """The cost of a detector with all of `branches` on one image of size (height, width) pixels.

    In training all cascaded heads count, else the one kept for inference. Built on torch's meta
    device: no memory is taken, no weights file read.
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


def without_weights(options: DetectorOptions) -> DetectorOptions:
    """The same detector, its trunk without the file its weights come from."""
    backbone = getattr(options, "backbone", None)
    if backbone is None or "weights" not in type(backbone).model_fields:
        return options
    return options.model_copy(update={"backbone": backbone.model_copy(update={"weights": ""})})


def _count(model: nn.Module, *, trainable: bool) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
