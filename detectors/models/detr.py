"""DETR: a transformer whose queries predict the objects of the whole image."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.models.attention import DecoderLayer, EncoderLayer, sine_positions
from detectors.models.backbone_base import BackboneOptions
from detectors.models.backbones import BACKBONES, Tiny
from detectors.models.base import DetectorOptions
from detectors.models.dense import DenseDetector
from detectors.models.layers import full_precision
from detectors.models.points import whole_image
from detectors.models.predictor import PRIOR, BranchShape
from detectors.options import OneOf
from detectors.structures import Points, Predictions

EPS = 1e-5
"""Smallest distance of a reference to the border of the input, relative to it."""


class DetrOptions(DetectorOptions):
    """A set of learned queries attends to the coarsest map of the backbone (DETR).

    Each query predicts the scores of all classes and one box, relative to the input. Queries have
    no positions, so the assignment is `min_cost` with `location: predicted`, and losses are those
    of its cost. In training, the predictions of every decoder layer are assigned and trained
    (auxiliary losses of DETR).

    The published detector has channels 256, attention_heads 8, 6 encoder and 6 decoder layers,
    feedforward 2048, 100 queries and dropout 0.1.

    Deviations: scores are sigmoids and trained by the focal loss, as in Deformable DETR and Sparse
    R-CNN; DETR has a softmax over classes and "no object". The padding of an image is not masked,
    and boxes are relative to the padded input.
    """

    name: Literal["detr"] = "detr"
    located: ClassVar[bool] = False
    published: ClassVar[Mapping[str, Any]] = {
        "channels": 256,
        "attention_heads": 8,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "feedforward": 2048,
        "queries": 100,
        "dropout": 0.1,
    }
    backbone: Annotated[BackboneOptions, OneOf(BACKBONES)] = Tiny()
    """The network whose coarsest map the transformer reads."""
    channels: int = Field(64, ge=8, multiple_of=8)
    """Channels of the transformer."""
    attention_heads: int = Field(4, ge=1)
    """Heads of every attention; must divide `channels`."""
    encoder_layers: int = Field(2, ge=0)
    """Layers of self-attention among the cells of the map."""
    decoder_layers: int = Field(3, ge=1)
    """Layers of attention of the queries; each has a loss in training."""
    feedforward: int = Field(128, ge=1)
    """Hidden channels of the feed-forward part of a layer."""
    queries: int = Field(25, ge=1)
    """Number of queries: the maximum number of objects of an image."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of values that are set to 0 in training, in attention and after every part."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.attention_heads, self.channels)
        return self

    def branch(self, name: str) -> BranchShape:
        """See `DetectorOptions.branch`; queries have no anchors."""
        return BranchShape((), "relative")

    def build(self, num_classes: int, branches: Sequence[str]) -> nn.Module:
        """See `DetectorOptions.build`."""
        backbone = self.backbone.build()
        neck = CoarsestMap(backbone.channels[-1], self.channels)
        head = QueryHead(self, branches, num_classes)
        predicted = {name: self.branch(name) for name in branches}
        return QueryDetector(backbone, neck, head, backbone.strides[-1:], predicted)


def check_heads(heads: int, channels: int) -> None:
    """Raise ValueError unless the number of heads divides the channels."""
    if channels % heads:
        raise ValueError(f"attention_heads must divide channels ({channels}), got {heads}")


class QueryDetector(DenseDetector):
    """A detector whose head predicts at queries: points of one cell that covers the input."""

    def points(self, levels: Sequence[Tensor], images: Tensor, branch: str) -> Points:
        """See `DenseDetector.points`."""
        height, width = images.shape[-2:]
        return whole_image(height, width, self.count(levels, branch), images.device)

    def count(self, levels: Sequence[Tensor], branch: str) -> int:
        """Return the number of queries of a branch, given the maps of the neck."""
        return len(self.head.get_parameter("queries"))


class CoarsestMap(nn.Module):
    """A 1x1 convolution of the coarsest map of the backbone."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(inputs, channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [B, inputs, h, w], the last of `maps`, to one map [B, channels, h, w]."""
        return [self.project(maps[-1])]


class QueryHead(nn.Module):
    """Encoder, decoder and, for each branch, one predictor for all decoder layers."""

    def __init__(self, options: DetrOptions, branches: Sequence[str], num_classes: int) -> None:
        super().__init__()
        channels = options.channels
        layer = (channels, options.attention_heads, options.feedforward, options.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(options.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(options.decoder_layers))
        self.norm = nn.LayerNorm(channels)
        for weight in (p for p in self.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(weight)
        self.queries = nn.Parameter(torch.randn(options.queries, channels))
        self.predictors = nn.ModuleDict(
            {name: QueryPredictor(channels, num_classes) for name in branches}
        )

    def forward(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> dict[str, tuple[Predictions, ...]]:
        """Predict for every branch in `points`: all decoder layers in training, else the last."""
        states = self._states(levels[0])
        used = states if self.training else states[-1:]
        return {
            name: tuple(self.predictors[name](state, at.extent) for state in used)
            for name, at in points.items()
        }

    def _states(self, features: Tensor) -> list[Tensor]:
        """Return the normed state [B, N, C] of the queries after every decoder layer."""
        batch, channels, height, width = features.shape
        memory = features.flatten(2).transpose(1, 2)
        position = sine_positions(height, width, channels, features.device).to(features.dtype)
        for layer in self.encoder:
            memory = layer(memory, position)
        placed, states = memory + position, []
        state = torch.zeros_like(self.queries).expand(batch, -1, -1)
        for layer in self.decoder:
            state = layer(state, self.queries, placed, memory)
            states.append(self.norm(state))
        return states


class QueryPredictor(nn.Module):
    """A linear layer for classes, and three for boxes: (x, y, width, height) relative to the input.

    Scores are initially near `PRIOR`, for the focal loss. All is computed in float32.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls = nn.Linear(channels, num_classes)
        nn.init.normal_(self.cls.weight, std=0.01)
        nn.init.constant_(self.cls.bias, -math.log((1 - PRIOR) / PRIOR))
        widths = (channels, channels, channels, 4)
        layers = [nn.Linear(*width) for width in pairwise(widths)]
        self.box = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def forward(
        self, states: Tensor, extent: tuple[float, float], reference: Tensor | None = None
    ) -> Predictions:
        """Predict from states [B, N, C] on an input of `extent` (width, height).

        `reference` is that of `relative`.
        """
        boxes = corners(self.relative(states, reference), extent)
        with full_precision(states.device):
            return Predictions(self.cls(states.float()), boxes)

    def start_at_reference(self, sides: float) -> None:
        """Let boxes be at their references, with `sides` added before the sigmoid, initially."""
        last = self.box[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[2:], sides)

    def relative(self, states: Tensor, reference: Tensor | None = None) -> Tensor:
        """Return centre and sides of boxes, relative to the input: [B, N, 4] in [0, 1].

        Args:
            states: [B, N, C].
            reference: points [B, N, 2] or boxes [B, N, 4], relative to the input. The output of the
                layers is added to it before the sigmoid (Deformable DETR, section A.4).
        """
        with full_precision(states.device):
            raw: Tensor = self.box(states.float())
        if reference is not None:
            start = reference.float().logit(eps=EPS)
            raw = raw + F.pad(start, (0, 4 - start.shape[-1]))
        return raw.sigmoid()


def corners(relative: Tensor, extent: tuple[float, float]) -> Tensor:
    """Convert boxes (x, y, width, height), relative to the input, to xyxy in pixels: [..., 4].

    Args:
        relative: [..., 4].
        extent: (width, height) of the input in pixels.
    """
    x, y, w, h = relative.unbind(-1)
    sides = [(x - w / 2, extent[0]), (y - h / 2, extent[1])]
    sides += [(x + w / 2, extent[0]), (y + h / 2, extent[1])]
    return torch.stack([at * size for at, size in sides], -1)
