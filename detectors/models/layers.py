"""Small building blocks."""

from torch import nn


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    """Convolution without bias, then group norm with `groups` groups; size / stride, rounded up."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(groups, outputs))
