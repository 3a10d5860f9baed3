"""DETR: a transformer whose queries predict the objects of the whole image."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from detectors.models.attention import DecoderLayer, EncoderLayer, sine_positions
from detectors.models.queries import ClassPredictor, QueryDetector, QueryPredictor, by_queries
from detectors.models.query_options import QueryOptions
from detectors.structures import Points, Predictions


class DetrOptions(QueryOptions):
    """A set of learned queries attends to the coarsest map of the backbone (DETR).

    Each query predicts the scores of all classes and one box, relative to the input. Queries have
    no positions, so only assignments that need none train them, such as `min_cost` (DETR), with the
    losses of its cost. In training, the predictions of every decoder layer are assigned and trained
    (auxiliary losses of DETR).

    The published detector has channels 256, attention_heads 8, 6 encoder and 6 decoder layers,
    feedforward 2048, 100 queries and dropout 0.1.

    Deviations: scores are sigmoids and trained by the focal loss, as in Deformable DETR and Sparse
    R-CNN; DETR has a softmax over classes and "no object". The padding of an image is not masked,
    and boxes are relative to the padded input.
    """

    name: Literal["detr"] = "detr"
    published: ClassVar[Mapping[str, Any]] = {
        "channels": 256,
        "attention_heads": 8,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "feedforward": 2048,
        "queries": 100,
        "dropout": 0.1,
    }
    encoder_layers: int = Field(2, ge=0)
    """Layers of self-attention among the cells of the map."""
    decoder_layers: int = Field(3, ge=1)
    """Layers of attention of the queries; each has a loss in training."""

    def build(self, num_classes: int, branches: Sequence[str]) -> nn.Module:
        """See `DetectorOptions.build`."""
        backbone = self.backbone.build()
        neck = CoarsestMap(backbone.channels[-1], self.channels)
        head = QueryHead(self, branches, num_classes)
        predicted, sets = {name: self.branch(name) for name in branches}, self.sets(branches)
        return QueryDetector(backbone, neck, head, backbone.strides[-1:], predicted, sets)


class CoarsestMap(nn.Module):
    """A 1x1 convolution of the coarsest map of the backbone."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(inputs, channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [B, inputs, h, w], the last of `maps`, to one map [B, channels, h, w]."""
        return [self.project(maps[-1])]


class QueryHead(nn.Module):
    """Encoder, decoder and one predictor for all decoder layers.

    A further branch at the same queries has class scores of its own; one at additional queries
    has the predictor of the first.
    """

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
        self.first, *others = branches
        self.extra = options.extra(branches)
        self.predictors = nn.ModuleDict({self.first: QueryPredictor(channels, num_classes)})
        for name in others:
            if name not in self.extra:
                self.predictors[name] = ClassPredictor(channels, num_classes)
        if self.extra:
            self.o2m_queries = nn.Parameter(torch.randn(options.o2m_queries, channels))

    def forward(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> dict[str, tuple[Predictions, ...]]:
        """Predict for every branch in `points`: all decoder layers in training, else the last."""
        memory, placed = self._encoded(levels[0])
        predictor, found = self.predictors[self.first], dict[str, tuple[Predictions, ...]]()
        for same in by_queries(points, self.extra):
            queries = self.o2m_queries if same.more else self.queries
            states = self._states(queries, memory, placed, same.groups)
            used = states if self.training else states[-1:]
            for name, at in same.points.items():
                own = self.predictors[self.first if same.more else name]
                found[name] = tuple(predictor(x, at.extent, classes=own) for x in used)
        return found

    def _encoded(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cells of a map after the encoder, without and with positions: [B, S, C]."""
        _, channels, height, width = features.shape
        memory = features.flatten(2).transpose(1, 2)
        position = sine_positions(height, width, channels, features.device).to(features.dtype)
        for layer in self.encoder:
            memory = layer(memory, position)
        return memory, memory + position

    def _states(self, queries: Tensor, memory: Tensor, placed: Tensor, groups: int) -> list[Tensor]:
        """Return the normed state [B, N, C] of queries [N, C] after every decoder layer."""
        batch = memory.shape[0]  # len() would fix it in graphs of ONNX
        states, state = [], torch.zeros_like(queries).expand(batch, -1, -1)
        for layer in self.decoder:
            state = layer(state, queries, placed, memory, groups)
            states.append(self.norm(state))
        return states
