"""Deformable DETR: queries that read few cells of several maps (Zhu et al. 2021)."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.assigners.base import Strategy
from detectors.models.attention import sine_positions
from detectors.models.deformable import (
    Cells,
    DeformableAttention,
    DeformableDecoderLayer,
    DeformableEncoderLayer,
    LayerShape,
    MixedDecoderLayer,
)
from detectors.models.initial_queries import LearnedQueries, Proposed, ProposedQueries, Start
from detectors.models.layers import conv_norm
from detectors.models.output import Output
from detectors.models.points import whole_image
from detectors.models.queries import (
    ClassPredictor,
    QueryDetector,
    QueryPredictor,
    SameQueries,
    by_queries,
    corners,
)
from detectors.models.query_options import QueryOptions
from detectors.options import LATER
from detectors.structures import Points, Predictions

WIDTH = 8
"""Channels per group of the norm of every map."""
SMALL_SIDE = -2.0
"""Initial output for width and height of learned queries, before the sigmoid."""


class DeformableDetrOptions(QueryOptions):
    """A set of queries attends to a few cells of each of several maps (Deformable DETR).

    Encoder and decoder use multi-scale deformable attention: a query reads, per head and level,
    `samples` positions around its reference. Each query predicts the scores of all classes and one
    box, relative to its reference. Assignments, losses and points are those of `detr`.

    The published training has `backbone_lr: 0.1` and `sampling_lr: 0.1`.

    Deviations: the padding of an image is not masked, and boxes are relative to the padded input.
    Class layers start from N(0, 0.01), as those of all detectors here.
    """

    name: Literal["deformable_detr"] = "deformable_detr"
    published: ClassVar[Mapping[str, Any]] = {
        "channels": 256,
        "attention_heads": 8,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "feedforward": 1024,
        "dropout": 0.1,
    }
    extra_levels: int = Field(1, ge=0, le=3)
    """Number of levels coarser than the last map of the backbone, by convolutions of stride 2."""
    samples: int = Field(4, ge=1)
    """Positions that a query reads per head and level."""
    encoder_layers: int = Field(2, ge=0)
    """Layers of self-attention among the cells of all levels."""
    decoder_layers: int = Field(3, ge=1)
    """Layers of attention of the queries; each has a loss in training."""
    queries: int = Field(300, ge=1)
    """Number of queries: the maximum number of objects of an image."""
    refine: bool = False
    """Iterative refinement: every decoder layer has predictors of its own, and its boxes are the
    references of the next layer, without gradients (section 4.2)."""
    two_stage: bool = False
    """Whether the encoder's best cells are the queries, instead of learned ones (section 4.2). All
    cells are trained with the loss of the first branch, for objects of any class."""
    o2m_from: Literal["layer", "cross_attention"] = Field("layer", json_schema_extra=LATER)
    """Where the one-to-many branch of a dual assignment predicts at the same queries (MS-DETR).
    `layer`: at the state after a decoder layer, with class scores of its own. `cross_attention`: a
    layer has cross-attention before self-attention, and the branch predicts between them, with a
    feed-forward part of its own and the predictors of the one-to-one branch (MS-DETR's released
    code)."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        problems = []
        if self.two_stage and not self.refine:
            problems.append("two_stage: true needs refine: true, as published")
        if self.mixed and self.o2m_queries:
            problems.append("o2m_from: cross_attention needs o2m_queries: 0")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def mixed(self) -> bool:
        """Whether the one-to-many branch predicts between the attentions of a layer."""
        return self.o2m_from == "cross_attention"

    def unfit(self, assignment: Strategy) -> list[str]:
        """See `QueryOptions.unfit`: `o2m_from` needs a branch that predicts there."""
        problems = super().unfit(assignment)
        if self.mixed and "o2m" not in tuple(assignment.branches())[1:]:
            problems.append(
                "detector.o2m_from: needs an assignment with a one-to-one and a one-to-many "
                "branch; choose assignment {name: dual}, or set it to layer"
            )
        return problems

    def build(self, num_classes: int, branches: Sequence[str]) -> nn.Module:
        """See `DetectorOptions.build`."""
        backbone = self.backbone.build()
        neck = SeveralMaps(backbone.channels, self.channels, self.extra_levels)
        strides = [*backbone.strides]
        strides += [strides[-1] * 2 ** (i + 1) for i in range(self.extra_levels)]
        head = DeformableHead(self, len(strides), branches, num_classes)
        predicted, sets = {name: self.branch(name) for name in branches}, self.sets(branches)
        return DeformableDetector(backbone, neck, head, strides, predicted, sets)


class SeveralMaps(nn.Module):
    """A 1x1 convolution of every map, and further levels by 3x3 convolutions of stride 2."""

    def __init__(self, inputs: Sequence[int], channels: int, extra: int) -> None:
        super().__init__()
        groups = channels // WIDTH
        self.projections = nn.ModuleList(
            conv_norm(c, channels, 1, 1, groups, bias=True) for c in inputs
        )
        widths = (inputs[-1], *[channels] * extra)[:extra]
        self.extras = nn.ModuleList(conv_norm(c, channels, 3, 2, groups, bias=True) for c in widths)
        for weight in (p for p in self.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [B, inputs[i], h_i, w_i], finest first, to [B, channels, h_i, w_i] and the extras.

        The first extra level is computed from the last of `maps`, others from the level before.
        """
        levels = [layer(x) for layer, x in zip(self.projections, maps, strict=True)]
        coarsest = maps[-1]
        for layer in self.extras:
            coarsest = layer(coarsest)
            levels.append(coarsest)
        return levels


class Step(NamedTuple):
    """The result of a decoder layer: states of the first and of other branches, [B, N, C].

    `reference` has the references of the layer, see `DeformableAttention.forward`.
    """

    state: Tensor
    o2m: Tensor
    reference: Tensor


class DeformableHead(nn.Module):
    """Encoder, initial queries, decoder and predictors.

    A further branch at the same queries has class scores of its own, unless it predicts at states
    of its own (`o2m_from`); then, and at additional queries, it has the predictors of the first.
    Additional queries of `two_stage` are the next best cells.
    """

    def __init__(
        self,
        options: DeformableDetrOptions,
        levels: int,
        branches: Sequence[str],
        num_classes: int,
    ) -> None:
        super().__init__()
        shape = LayerShape(
            options.channels,
            options.attention_heads,
            levels,
            options.samples,
            options.feedforward,
            options.dropout,
        )
        self.queries, self.refine = options.queries, options.refine
        self.encoder = nn.ModuleList(
            DeformableEncoderLayer(shape) for _ in range(options.encoder_layers)
        )
        layer = MixedDecoderLayer if options.mixed else DeformableDecoderLayer
        self.decoder = nn.ModuleList(layer(shape) for _ in range(options.decoder_layers))
        _initialise(self)
        self.level_embed = nn.Parameter(torch.randn(levels, shape.channels))
        self.extra = options.extra(branches)
        self.initial = _initial(options)
        self.first, *others = branches
        self.predictors = nn.ModuleDict({self.first: _predictors(options, num_classes)})
        for name in others:
            if name not in self.extra and not options.mixed:
                self.predictors[name] = _classes(options, num_classes)
        if self.extra and isinstance(self.initial, LearnedQueries):
            self.initial.extend(options.o2m_queries)

    def forward(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> tuple[dict[str, tuple[Predictions, ...]], Proposed | None]:
        """Predict for every branch in `points`: all decoder layers in training, else the last.

        Also returns what the cells of the encoder propose; None without `two_stage`.
        """
        cells, proposed = self._encoded(levels), None
        if isinstance(self.initial, ProposedQueries):
            proposed = self.initial.propose(cells)
        found = dict[str, tuple[Predictions, ...]]()
        for same in by_queries(points, self.extra):
            start = self._start(cells, proposed, same)
            steps = self._decoded(cells, start, same.groups)
            for name, at in same.points.items():
                layers, first = self._predicted(name, steps, at), None
                if proposed is not None:
                    first = corners(start.reference, at.extent)
                found[name] = tuple(replace(each, references=first) for each in layers)
        return found, proposed

    def _start(self, cells: Cells, proposed: Proposed | None, same: SameQueries) -> Start:
        """Return the queries of branches before the decoder."""
        if proposed is None:
            batch = cells.features.shape[0]  # len() would fix it in graphs of ONNX
            learned: Start = self.initial(batch, same.more)
            return learned
        best: Start = self.initial(proposed, self.queries if same.more else 0, same.count)
        return best

    def _encoded(self, levels: Sequence[Tensor]) -> Cells:
        """Return the cells of all levels after the encoder."""
        sizes = tuple((x.shape[-2], x.shape[-1]) for x in levels)
        features = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)
        channels, device = features.shape[2], features.device
        position = [
            sine_positions(*size, channels, device, offset=0.5) + embedding
            for size, embedding in zip(sizes, self.level_embed, strict=True)
        ]
        cells, placed = Cells(features, sizes), torch.cat(position).to(features.dtype)
        centers = cells.centers()
        for layer in self.encoder:
            cells = layer(cells, placed, centers)
        return cells

    def _decoded(self, cells: Cells, start: Start, groups: int) -> list[Step]:
        """Return the states after every decoder layer, and its references.

        With `refine`, the predictors of the first branch compute the references.
        """
        predictors, steps = self._layers(self.first), []
        state, embedding, reference = start
        for number, layer in enumerate(self.decoder):
            state, o2m = layer(state, embedding, reference, cells, groups)
            steps.append(Step(state, o2m, reference))
            predictor = predictors[number]
            if self.refine and isinstance(predictor, QueryPredictor):
                reference = predictor.relative(state, reference).detach()
        return steps

    def _layers(self, branch: str) -> list[nn.Module]:
        """Return the predictors of a branch for every decoder layer; the same without `refine`."""
        found = self.predictors[branch]
        assert isinstance(found, nn.ModuleList)
        return [*found] if self.refine else [found[0]] * len(self.decoder)

    def _predicted(
        self, branch: str, steps: Sequence[Step], points: Points
    ) -> tuple[Predictions, ...]:
        """Return the predictions of a branch: of all layers in training, else of the last."""
        classes = self._layers(branch if branch in self.predictors else self.first)
        layers = [*zip(self._layers(self.first), classes, steps, strict=True)]
        return tuple(
            predictor(
                step.state if branch == self.first else step.o2m,
                points.extent,
                step.reference,
                own,
            )
            for predictor, own, step in layers[0 if self.training else -1 :]
        )


class DeformableDetector(QueryDetector):
    """A detector of queries that may be proposals of its encoder."""

    head: DeformableHead

    def forward(self, images: Tensor, branches: Iterable[str] | None = None) -> Output:
        """See `DenseDetector.forward`. In training, proposals belong to the first branch."""
        levels = self.neck(self.backbone(self.backbone.normalise(images)))
        names = self.branches if branches is None else branches
        points = {name: self.points(levels, images, name) for name in names}
        found, proposed = self.head(levels, points)
        if proposed is None or not self.training:
            return Output(points, found)
        height, width = images.shape[-2:]
        at = whole_image(height, width, proposed.boxes.shape[1], images.device)
        boxes = corners(proposed.boxes, at.extent)
        anchors = corners(proposed.anchors, at.extent).expand_as(boxes)
        proposals = (at, Predictions(proposed.logits, boxes, references=anchors))
        return Output(points, found, {next(iter(self.branches)): proposals})

    def count(self, levels: Sequence[Tensor], branch: str) -> int:
        """See `QueryDetector.count`. There are no more proposals than cells."""
        wanted, groups = self.sets[branch].count, self.sets[branch].groups
        if not isinstance(self.head.initial, ProposedQueries):
            return wanted
        cells = sum(x.shape[-2] * x.shape[-1] for x in levels)
        left = max(0, cells - self.head.queries) if branch in self.head.extra else cells
        return min(wanted, left) // groups * groups


def _initialise(module: nn.Module) -> None:
    """Draw matrices Xavier-uniform, except for those of deformable attention."""
    for weight in (p for p in module.parameters() if p.dim() > 1):
        nn.init.xavier_uniform_(weight)
    for each in module.modules():
        if isinstance(each, DeformableAttention):
            each.reset()


def _initial(options: DeformableDetrOptions) -> LearnedQueries | ProposedQueries:
    if options.two_stage:
        return ProposedQueries(options.channels)
    return LearnedQueries(options.channels, options.queries)


def _predictors(options: DeformableDetrOptions, num_classes: int) -> nn.ModuleList:
    """Build the predictors of a branch: one for each layer with `refine`, else one for all.

    They are initially equal, and boxes are at their references, but those of learned queries are
    smaller.
    """
    first = QueryPredictor(options.channels, num_classes)
    first.start_at_reference(0.0)
    others = [deepcopy(first) for _ in range(options.decoder_layers - 1)] if options.refine else []
    if not options.two_stage:
        first.start_at_reference(SMALL_SIDE)
    return nn.ModuleList([first, *others])


def _classes(options: DeformableDetrOptions, num_classes: int) -> nn.ModuleList:
    """Build what predicts the classes of a further branch, for each layer as in `_predictors`."""
    first = ClassPredictor(options.channels, num_classes)
    others = [deepcopy(first) for _ in range(options.decoder_layers - 1)] if options.refine else []
    return nn.ModuleList([first, *others])
