"""What a trunk is: image in, feature maps out."""

from abc import abstractmethod

from torch import Tensor, nn

from detectors.options import Options


class Backbone(nn.Module):
    """A trunk. `channels` and `strides` describe the maps that `forward` returns, finest first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def normalise(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] RGB in 0..255 -> what `forward` takes: the same, about 0 and about 1."""
        return (images.float() - 127.5) / 64.0


class BackboneOptions(Options):
    """Options of one kind of trunk. `name` is its key in the table `BACKBONES`."""

    @abstractmethod
    def build(self) -> Backbone:
        """A trunk ready to train. Raises WeightsError for a checkpoint that can't be used."""
