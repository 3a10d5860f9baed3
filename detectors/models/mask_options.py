"""Options of how masks of objects are predicted."""

from typing import Literal

from pydantic import Field

from detectors.options import Options


class CondInst(Options):
    """Masks of objects by CondInst (Tian, Shen and Chen, 2020; 002 Table 9).

    The published network has width 128, convs 4, channels 8 and batch norm, whose 169 parameters
    per point are those of three 1x1 convolutions. Deviations: groups of group norm by default;
    maps are resized around the centres of pixels (the released code shifts them by half a cell);
    convolutions of the mask branch are initialised as PyTorch does (there: larger by a factor of
    1.7, before a norm).
    """

    name: Literal["condinst"] = "condinst"
    channels: int = Field(8, ge=1)
    """Channels of the mask features, and of the two hidden layers of the network of a point."""
    width: int = Field(32, ge=8, multiple_of=8)
    """Channels of the convolutions that compute the mask features (128 in CondInst)."""
    convs: int = Field(2, ge=0)
    """Number of these 3x3 convolutions, after one for each of three levels (4 in CondInst)."""
    norm: Literal["group", "batch"] = "group"
    """Norm of these convolutions: group norm with 8 groups, or batch norm (CondInst)."""

    @property
    def parameters(self) -> int:
        """The number of parameters of the network of a point."""
        return sum(inputs * outputs + outputs for inputs, outputs in layers(self.channels))


def layers(channels: int) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of each layer of the network of a point."""
    return [(channels + 2, channels), (channels, channels), (channels, 1)]
