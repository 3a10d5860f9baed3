"""The base classes of backbones: networks that compute feature maps from images."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from detectors.options import Options

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Mean and standard deviation of ImageNet's pixels, RGB in 0..255."""


class Backbone(nn.Module):
    """A backbone.

    Attributes:
        channels: channels of the feature maps that `forward` returns, finest first.
        strides: strides of these maps.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images [B, 3, H, W] RGB in 0..255 for `forward`."""
        return (images.float() - 127.5) / 64.0


class ImageNetBackbone(Backbone):
    """A backbone whose weights expect images normalised with ImageNet's mean and deviation."""

    _mean: Tensor
    _std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images with ImageNet's mean and standard deviation per channel."""
        return (images.float() - self._mean) / self._std


class BackboneOptions(Options):
    """Options of one kind of backbone. `name` is its key in the table `BACKBONES`."""

    @property
    @abstractmethod
    def finest_stride(self) -> int:
        """The first of the backbone's `strides`."""

    @abstractmethod
    def build(self) -> Backbone:
        """Build the backbone. Raises DataError if its library or its weights can't be used."""
