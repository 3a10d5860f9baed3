"""Layers that several modules use."""

from torch import nn


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    """Return a convolution without bias and group norm; the output size is ceil(size / stride)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(groups, outputs))
