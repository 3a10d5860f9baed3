"""One stage of Sparse R-CNN: attention, dynamic head, and predictions (Sun et al. 2021)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.models.attention import Attention, FeedForward
from detectors.models.decode import apply_deltas
from detectors.models.layers import full_precision
from detectors.models.predictor import PRIOR
from detectors.structures import Predictions

WIDEST = math.log(100_000 / 16)
"""Maximum of log(side of the new box / side of the old one), as in the released code."""
SHIFT = 2.0
"""Divisor of the shift of the centre, as in the released code and in Cascade R-CNN."""


@dataclass(frozen=True)
class StageShape:
    """The shape of a stage; see `SparseRcnnOptions`."""

    channels: int
    heads: int
    hidden: int
    dynamic: int
    bins: int
    """Number of bins of a box."""
    dropout: float
    cls_layers: int
    box_layers: int


class DynamicStage(nn.Module):
    """Self-attention among proposals, dynamic head and feed-forward part."""

    def __init__(self, shape: StageShape) -> None:
        super().__init__()
        channels, dropout = shape.channels, shape.dropout
        self.itself = Attention(channels, shape.heads, dropout)
        self.interact = DynamicConv(channels, shape.dynamic, shape.bins)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(channels)
        self.feed = FeedForward(channels, shape.hidden, dropout)

    def forward(self, state: Tensor, read: Tensor, groups: int = 1) -> Tensor:
        """Map the features of proposals [B, N, C] to [B, N, C].

        Args:
            state: the features.
            read: [B, N, bins, C], what was read in the box of each proposal.
            groups: number of groups of proposals, see `Attention.within`.
        """
        state = self.itself.within(state, state, groups)
        found: Tensor = self.feed(self.norm(state + self.dropout(self.interact(state, read))))
        return found


class DynamicConv(nn.Module):
    """Two linear layers over the channels of bins, whose weights are computed per proposal.

    Both are followed by layer norm and ReLU; a third layer, with weights of its own, maps all bins
    of a proposal to one vector.
    """

    def __init__(self, channels: int, dynamic: int, bins: int) -> None:
        super().__init__()
        self._shapes = (channels, dynamic), (dynamic, channels)
        self.weights = nn.Linear(channels, 2 * channels * dynamic)
        self.inner, self.outer = nn.LayerNorm(dynamic), nn.LayerNorm(channels)
        self.merge, self.norm = nn.Linear(bins * channels, channels), nn.LayerNorm(channels)

    def forward(self, state: Tensor, read: Tensor) -> Tensor:
        """Filter `read` [B, N, bins, C] with weights computed from `state` [B, N, C]: [B, N, C]."""
        first, second = self.weights(state).chunk(2, -1)
        x = read.to(first.dtype) @ first.unflatten(-1, self._shapes[0])
        x = self.inner(x).relu() @ second.unflatten(-1, self._shapes[1])
        x = self.merge(self.outer(x).relu().flatten(2))
        filtered: Tensor = self.norm(x).relu()
        return filtered


class StageClasses(nn.Module):
    """The layers that predict classes after a stage.

    Scores are initially near `PRIOR`, for the focal loss.
    """

    def __init__(self, shape: StageShape, num_classes: int) -> None:
        super().__init__()
        self.cls = _layers(shape.channels, shape.cls_layers, num_classes)
        nn.init.constant_(self.cls[-1].get_parameter("bias"), -math.log((1 - PRIOR) / PRIOR))


class StagePredictor(StageClasses):
    """The layers that predict classes and deltas after a stage."""

    def __init__(self, shape: StageShape, num_classes: int) -> None:
        super().__init__(shape, num_classes)
        self.box = _layers(shape.channels, shape.box_layers, 4)

    def forward(
        self, state: Tensor, boxes: Tensor, classes: StageClasses | None = None
    ) -> Predictions:
        """Predict, in float32.

        Args:
            state: the features of proposals [B, N, C].
            boxes: [B, N, 4] xyxy in pixels.
            classes: predicts the classes instead of the own layers, for a branch that shares boxes.
        """
        with full_precision(state.device):
            logits = (classes or self).cls(state.float())
            return Predictions(logits, self.moved(state, boxes))

    def moved(self, state: Tensor, boxes: Tensor) -> Tensor:
        """Return `boxes` moved and resized by the predicted deltas: [B, N, 4]."""
        x, y, w, h = self.box(state.float()).unbind(-1)
        return apply_deltas(torch.stack([x / SHIFT, y / SHIFT, w, h], -1), boxes, WIDEST)


def _layers(channels: int, count: int, outputs: int) -> nn.Sequential:
    """Return `count` linear layers without bias, with layer norm and ReLU, and a last layer."""
    hidden = [
        nn.Sequential(nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU())
        for _ in range(count)
    ]
    layers = nn.Sequential(*hidden, nn.Linear(channels, outputs))
    for weight in (p for p in layers.parameters() if p.dim() > 1):
        nn.init.xavier_uniform_(weight)
    return layers
