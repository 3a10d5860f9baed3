"""Measure the FCOS of torchvision on the same images, where torchvision can be imported."""

from collections.abc import Callable
from importlib import import_module
from itertools import repeat
from typing import Any

import torch
from torch import nn

from gaplab.trial.speed.setups import CLASSES
from gaplab.trial.speed.steps import Load, explained, noise_batch, timed

NAME = "torchvision fcos"


def importable() -> str:
    """Return why torchvision can't be imported; empty if it can."""
    try:
        import_module("torchvision.models.detection")
    except (ImportError, RuntimeError, OSError) as error:  # beside another build of PyTorch
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def images_per_second(precision: str, load: Load) -> float:
    """Return the images per second of training; see `training_step`."""
    step = training_step(precision, load)
    with explained(f"{NAME} in {precision}", load):
        for _ in range(2):
            step(None)
        steps, seconds = timed(step, repeat(None), load)
    return steps * load.batch / seconds


def training_step(precision: str, load: Load) -> Callable[[object], None]:
    """Return a training step of `fcos_resnet50_fpn` with SGD, on the images of `noise_batch`.

    As in ours, batch norm, stem and first stage are fixed. Images are float32 on the device before
    the first step, and its losses are never read.
    """
    model = _model(load).to(load.device).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-7, momentum=0.9, weight_decay=1e-4)
    batch = noise_batch(load)
    images = [*(batch.images.to(load.device).float() / 255)]
    targets = [
        {"boxes": t.boxes.to(load.device), "labels": t.labels.to(load.device)}
        for t in batch.targets
    ]

    def step(_: object) -> None:
        with torch.autocast(load.device.type, torch.bfloat16, enabled=precision == "bf16"):
            losses = model(images, targets)
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _model(load: Load) -> Any:
    """Return the detector with random weights; stem, first stage and batch norm are not trained."""
    build = import_module("torchvision.models.detection").fcos_resnet50_fpn
    model = build(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES,
        min_size=load.side,
        max_size=load.size[1],
    )
    body = model.backbone.body
    fixed = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in (body.conv1, body.layer1, *fixed):
        module.requires_grad_(False)
    return model
