"""The convolutions that heads are made of."""

from torch import nn

from detectors.models.layers import conv_norm


def tower(inputs: int, width: int, convs: int, groups: int) -> nn.Sequential:
    """`convs` times 3x3 convolution, group norm (`groups` 0: none), ReLU; the size stays."""
    widths = (inputs, *[width] * convs)
    return nn.Sequential(
        *(nn.Sequential(_conv(widths[i], width, groups), nn.ReLU()) for i in range(convs))
    )


def small_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution whose output is near 0 at initialisation: weights N(0, 0.01), no bias."""
    conv = nn.Conv2d(inputs, outputs, 3, 1, 1)
    start_small(conv)
    return conv


def start_small(conv: nn.Conv2d) -> None:
    """Weights N(0, 0.01), bias 0."""
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]


def _conv(inputs: int, outputs: int, groups: int) -> nn.Module:
    if groups:
        return conv_norm(inputs, outputs, 3, 1, groups)
    conv = nn.Conv2d(inputs, outputs, 3, 1, 1)
    start_small(conv)
    return conv
