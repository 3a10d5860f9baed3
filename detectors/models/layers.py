"""Layers that several modules use."""

import torch
from torch import nn


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, *, bias: bool = False
) -> nn.Sequential:
    """Return a convolution and group norm; the output size is ceil(size / stride).

    The bias, if there is one, is initially 0.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GroupNorm(groups, outputs))


def full_precision(device: torch.device) -> torch.autocast:
    """Return a context without autocast on `device`."""
    return torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False)
