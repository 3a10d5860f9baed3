"""Sparse R-CNN: learned proposals whose boxes are refined stage by stage."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from detectors.boxes import area
from detectors.models.operators.roi_align import roi_align_levels
from detectors.models.pyramid import FeaturePyramid
from detectors.models.queries import QueryDetector, SameQueries, by_queries, corners
from detectors.models.query_options import QueryOptions
from detectors.models.sparse_rcnn_stage import (
    DynamicStage,
    StageClasses,
    StagePredictor,
    StageShape,
)
from detectors.structures import Points, Predictions


class SparseRcnnOptions(QueryOptions):
    """A set of learned boxes and features, the proposals, refined in stages (Sparse R-CNN).

    In each stage, the features of the proposals attend to each other, and each one filters what
    RoIAlign reads in its box from the feature pyramid (dynamic head). The stage predicts the scores
    of all classes and deltas to the box; the next one starts from the resulting boxes and features.
    Boxes pass from stage to stage without gradients. In training, the predictions of every stage
    are assigned and trained.

    Proposals are queries: they have no positions, so only assignments that need none train them,
    such as `min_cost`, with the losses of its cost.

    The published detector has a ResNet with `finest: 4`, channels 256, attention_heads 8, 6 stages,
    feedforward 2048, dynamic_channels 64 and 100 or 300 queries.

    Deviation: first boxes are relative to the padded input.
    """

    name: Literal["sparse_rcnn"] = "sparse_rcnn"
    published: ClassVar[Mapping[str, Any]] = {
        "backbone": {"finest": 4},
        "channels": 256,
        "attention_heads": 8,
        "stages": 6,
        "feedforward": 2048,
        "dynamic_channels": 64,
        "queries": 300,
    }
    stages: int = Field(3, ge=1, le=12)
    """Number of stages; each has a loss in training."""
    dynamic_channels: int = Field(16, ge=1)
    """Channels between the two layers of the dynamic head."""
    cls_layers: int = Field(1, ge=0)
    """Linear layers before the class scores."""
    box_layers: int = Field(3, ge=0)
    """Linear layers before the deltas."""
    roi_side: int = Field(7, ge=1, le=32)
    """A box is read as roi_side x roi_side bins."""
    roi_cells: float = Field(14.0, gt=0)
    """A box is read from the coarsest level on which its side, the root of its area, has at least
    this many cells, and from the finest level if there is none (224 pixels on stride 16)."""
    first_boxes: Literal["image", "grid"] = "image"
    """The learned boxes before training: all the whole input, or a grid (Sparse R-CNN Table 5)."""

    def build(self, num_classes: int, branches: Sequence[str]) -> nn.Module:
        """See `DetectorOptions.build`."""
        backbone = self.backbone.build()
        neck = FeaturePyramid(backbone.channels, self.channels, 0)
        head = ProposalHead(self, backbone.strides, branches, num_classes)
        predicted, sets = {name: self.branch(name) for name in branches}, self.sets(branches)
        return QueryDetector(backbone, neck, head, backbone.strides, predicted, sets)

    def shape(self) -> StageShape:
        """Return the shape of a stage."""
        return StageShape(
            channels=self.channels,
            heads=self.attention_heads,
            hidden=self.feedforward,
            dynamic=self.dynamic_channels,
            bins=self.roi_side**2,
            dropout=self.dropout,
            cls_layers=self.cls_layers,
            box_layers=self.box_layers,
        )


class ProposalHead(nn.Module):
    """The learned proposals and the stages that refine them.

    `queries` [N, C] are the first features of the proposals, `boxes` [N, 4] their first boxes: x
    and y of the centre, width and height, relative to the input. A further branch at the same
    proposals has class scores of its own; one at additional proposals has the predictors of the
    first.
    """

    def __init__(
        self,
        options: SparseRcnnOptions,
        strides: Sequence[int],
        branches: Sequence[str],
        num_classes: int,
    ) -> None:
        super().__init__()
        shape, count = options.shape(), options.queries
        self._strides, self._side, self._cells = strides, options.roi_side, options.roi_cells
        self.stages = nn.ModuleList(DynamicStage(shape) for _ in range(options.stages))
        for weight in (p for p in self.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(weight)
        self.queries = nn.Parameter(torch.randn(count, options.channels))
        create = _grid if options.first_boxes == "grid" else _whole
        self.boxes = nn.Parameter(create(count))
        self.first, self.extra = branches[0], options.extra(branches)
        self.predictors = nn.ModuleDict()
        for name in branches:
            if name not in self.extra:
                build = StagePredictor if name == self.first else StageClasses
                each = (build(shape, num_classes) for _ in range(options.stages))
                self.predictors[name] = nn.ModuleList(each)
        if self.extra:
            self.o2m_queries = nn.Parameter(torch.randn(options.o2m_queries, options.channels))
            groups, size = options.o2m_groups, options.o2m_queries // options.o2m_groups
            self.o2m_boxes = nn.Parameter(create(size).repeat(groups, 1))

    def forward(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> dict[str, tuple[Predictions, ...]]:
        """Predict for every branch in `points`: all stages in training, else the last."""
        found = dict[str, tuple[Predictions, ...]]()
        for same in by_queries(points, self.extra):
            stages = self._stages(levels, same)
            used = stages if self.training else stages[-1:]
            found |= {name: tuple(each[name] for each in used) for name in same.points}
        return found

    def _stages(self, levels: Sequence[Tensor], same: SameQueries) -> list[dict[str, Predictions]]:
        """Return what branches predict after every stage."""
        extent, batch = next(iter(same.points.values())).extent, levels[0].shape[0]
        learned, first = (
            (self.o2m_queries, self.o2m_boxes) if same.more else (self.queries, self.boxes)
        )
        boxes = corners(first, extent).expand(batch, -1, -1)
        state, found = learned.repeat(batch, 1, 1), list[dict[str, Predictions]]()
        for number, stage in enumerate(self.stages):
            state = stage(state, self._read(levels, boxes.detach()), same.groups)
            predictor, own = self._layer(self.first, number), dict[str, nn.Module]()
            for name in same.points:
                own[name] = self._layer(self.first if same.more else name, number)
            found.append({name: predictor(state, boxes, each) for name, each in own.items()})
            boxes = next(iter(found[-1].values())).boxes.detach()
        return found

    def _layer(self, branch: str, stage: int) -> nn.Module:
        return self.predictors.get_submodule(f"{branch}.{stage}")

    def _read(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Return the features in boxes [B, N, 4]: [B, N, bins, C]."""
        batch, count = boxes.shape[:2]
        image = torch.arange(batch, device=boxes.device)[:, None].expand(-1, count).flatten()
        side, level = area(boxes).sqrt().flatten(), torch.zeros_like(image)
        for stride in self._strides[1:]:
            level = level + (side >= self._cells * stride)
        maps = [*zip(levels, self._strides, strict=True)]
        found = roi_align_levels(maps, boxes.flatten(0, 1), image, level, side=self._side)
        return found.flatten(2).transpose(1, 2).view(batch, count, self._side**2, -1)


def _whole(count: int) -> Tensor:
    """Return `count` times the box (x, y, width, height) that is the unit square: [N, 4]."""
    return torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(count, 1)


def _grid(count: int) -> Tensor:
    """Return `count` boxes (x, y, width, height) that cover the unit square row by row: [N, 4]."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    number = torch.arange(count)
    x, y = number % columns, torch.div(number, columns, rounding_mode="floor")
    sides = torch.tensor([1 / columns, 1 / rows])
    return torch.cat([(torch.stack([x, y], 1) + 0.5) * sides, sides.repeat(count, 1)], 1)
