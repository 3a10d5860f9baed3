"""CondInst: each point predicts the parameters of a small network that draws its object's mask."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.models.mask_options import CondInst, layers
from detectors.models.towers import init_small

REACH = 8
"""Coordinates relative to a point are in units of so many strides of it: CondInst's sizes of
interest (64 pixels at stride 8, 128 at stride 16), also for levels of other strides."""
_LEVELS = 3
"""Levels of the pyramid that the mask branch reads: P3 to P5."""


class MaskBranch(nn.Module):
    """Computes the mask features that all points of an image share.

    Each of the three finest levels has a convolution; the coarser ones are enlarged and added to
    the finest. Convolutions and a 1x1 convolution follow.

    Args:
        options: its shape.
        channels: channels of the levels of the pyramid.
        levels: number of levels of the pyramid.
        detached: branches whose gradients don't reach it.
    """

    def __init__(
        self, options: CondInst, channels: int, levels: int, detached: Iterable[str] = ()
    ) -> None:
        super().__init__()
        self._detached = frozenset(detached)
        self.refine = nn.ModuleList(_block(channels, options) for _ in range(min(levels, _LEVELS)))
        self.tower = nn.Sequential(*(_block(options.width, options) for _ in range(options.convs)))
        self.output = nn.Conv2d(options.width, options.channels, 1)

    def forward(self, levels: Sequence[Tensor], branches: Iterable[str]) -> Mapping[str, Tensor]:
        """Return the mask features [B, channels, h_0, w_0] of each of the `branches`.

        Args:
            levels: maps [B, C, h_i, w_i] of the pyramid, finest first.
            branches: names of branches.
        """
        merged = self.refine[0](levels[0])
        for refine, level in zip(self.refine[1:], levels[1:], strict=False):
            merged = merged + F.interpolate(refine(level), merged.shape[-2:], mode="bilinear")
        found: Tensor = self.output(self.tower(merged))
        return {name: found.detach() if name in self._detached else found for name in branches}


def controller(channels: int, outputs: int) -> nn.Conv2d:
    """Return the 3x3 convolution that predicts the parameters of the networks of points."""
    conv = nn.Conv2d(channels, outputs, 3, 1, 1)
    init_small(conv)
    return conv


def mask_logits(
    features: Tensor, image: Tensor, parameters: Tensor, xy: Tensor, stride: Tensor, finest: float
) -> Tensor:
    """Compute the masks of K points: logits [K, h, w], in float32.

    The network of a point has three 1x1 convolutions with ReLU in between. Its input at each cell
    are the coordinates of the cell's centre relative to the point, and the mask features.

    Args:
        features: [B, C, h, w], mask features of B images.
        image: [K] int64, index of the image of each point.
        parameters: [K, P], first the weights [outputs, inputs] of each layer, then the biases.
        xy: [K, 2], the points in pixels.
        stride: [K], their strides in pixels.
        finest: the stride of the mask features in pixels.
    """
    channels, height, width = features.shape[1:]
    shapes = layers(channels)
    sizes = [inputs * outputs for inputs, outputs in shapes] + [outputs for _, outputs in shapes]
    weights_and_biases = torch.split(parameters.float(), sizes, 1)
    hidden = features.float().flatten(2)[image]
    hidden = torch.cat([_coordinates(xy, stride, (width, height), finest), hidden], 1)
    for layer, (inputs, outputs) in enumerate(shapes):
        weight = weights_and_biases[layer].reshape(-1, outputs, inputs)
        bias = weights_and_biases[layer + len(shapes)][..., None]
        hidden = torch.baddbmm(bias, weight, hidden.relu() if layer else hidden)
    return hidden.view(-1, height, width)


def enlarged(logits: Tensor, factor: int) -> Tensor:
    """Enlarge logits [K, h, w] bilinearly to [K, factor * h, factor * w]."""
    larger: Tensor = F.interpolate(logits[:, None], scale_factor=factor, mode="bilinear")[:, 0]
    return larger


def _coordinates(xy: Tensor, stride: Tensor, size: tuple[int, int], finest: float) -> Tensor:
    """Return the position of points relative to the centre of each cell: [K, 2, h * w]."""
    x, y = ((torch.arange(n, device=xy.device) + 0.5) * finest for n in size)
    cells = torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))])
    return (xy[:, :, None] - cells) / (REACH * stride)[:, None, None]


def _block(inputs: int, options: CondInst) -> nn.Sequential:
    """Return a 3x3 convolution, norm and ReLU."""
    conv = nn.Conv2d(inputs, options.width, 3, 1, 1, bias=False)
    batch = options.norm == "batch"
    norm = nn.BatchNorm2d(options.width) if batch else nn.GroupNorm(8, options.width)
    return nn.Sequential(conv, norm, nn.ReLU())
