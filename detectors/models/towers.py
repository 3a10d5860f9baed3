"""The convolutions of heads."""

from torch import nn

from detectors.models.layers import conv_norm


def tower(inputs: int, width: int, convs: int, groups: int, *, bias: bool = True) -> nn.Sequential:
    """Return `convs` blocks of 3x3 convolution, group norm (none with `groups` 0) and ReLU.

    A bias is initially 0. Deviation: before group norm, weights are initialised like any PyTorch
    convolution, not with N(0, 0.01); group norm divides their scale out.
    """
    widths = (inputs, *[width] * convs)
    return nn.Sequential(
        *(nn.Sequential(_conv(widths[i], width, groups, bias), nn.ReLU()) for i in range(convs))
    )


def small_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose output is initially near 0, see `init_small`."""
    conv = nn.Conv2d(inputs, outputs, 3, 1, 1)
    init_small(conv)
    return conv


def init_small(conv: nn.Conv2d) -> None:
    """Initialise weights with N(0, 0.01) and the bias, if there is one, with 0."""
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _conv(inputs: int, outputs: int, groups: int, bias: bool) -> nn.Module:
    if groups:
        return conv_norm(inputs, outputs, 3, 1, groups, bias=bias)
    conv = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=bias)
    init_small(conv)
    return conv
