"""What a trunk is: image in, feature maps out."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from detectors.options import Options

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet's pixels, in 0..255 RGB."""


class Backbone(nn.Module):
    """A trunk. `channels` and `strides` describe the maps that `forward` returns, finest first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def normalise(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] RGB in 0..255 -> what `forward` takes: the same, about 0 and about 1."""
        return (images.float() - 127.5) / 64.0


class ImageNetBackbone(Backbone):
    """A trunk whose published weights expect images normalised by ImageNet's pixels."""

    _mean: Tensor
    _std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """See `Backbone.normalise`: with ImageNet's mean and deviation of each channel."""
        return (images.float() - self._mean) / self._std


class BackboneOptions(Options):
    """Options of one kind of trunk. `name` is its key in the table `BACKBONES`."""

    @property
    @abstractmethod
    def finest_stride(self) -> int:
        """The first of the trunk's `strides`, known before it is built."""

    @abstractmethod
    def build(self) -> Backbone:
        """A trunk ready to train. Raises DataError where its library or weights can't be used."""
