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
from detectors.models.queries import QueryDetector, corners
from detectors.models.query_options import QueryOptions
from detectors.models.sparse_rcnn_stage import DynamicStage, StagePredictor, StageShape
from detectors.structures import Points, Predictions


class SparseRcnnOptions(QueryOptions):
    """A set of learned boxes and features, the proposals, refined in stages (Sparse R-CNN).

    In each stage, the features of the proposals attend to each other, and each one filters what
    RoIAlign reads in its box from the feature pyramid (dynamic head). The stage predicts the scores
    of all classes and deltas to the box; the next one starts from the resulting boxes and features.
    Boxes pass from stage to stage without gradients. In training, the predictions of every stage
    are assigned and trained.

    Proposals are queries: they have no positions, so the assignment is `min_cost` with
    `location: predicted`, and losses are those of its cost. Each branch predicts with layers of its
    own; the boxes of the first one pass from stage to stage.

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
        predicted = {name: self.branch(name) for name in branches}
        return QueryDetector(backbone, neck, head, backbone.strides, predicted)

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
    and y of the centre, width and height, relative to the input.
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
        whole = torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(count, 1)
        self.boxes = nn.Parameter(_grid(count) if options.first_boxes == "grid" else whole)
        self.predictors = nn.ModuleDict()
        for name in branches:
            each = (StagePredictor(shape, num_classes) for _ in range(options.stages))
            self.predictors[name] = nn.ModuleList(each)

    def forward(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> dict[str, tuple[Predictions, ...]]:
        """Predict for every branch in `points`: all stages in training, else the last.

        The boxes of the first branch pass from stage to stage.
        """
        extent = next(iter(points.values())).extent
        first, batch = next(iter(self.predictors)), levels[0].shape[0]
        boxes = self._first_boxes(extent).expand(batch, -1, -1)
        state = self.queries.repeat(batch, 1, 1)
        found = list[dict[str, Predictions]]()
        for number, stage in enumerate(self.stages):
            state = stage(state, self._read(levels, boxes.detach()))
            needed = dict.fromkeys((first, *points))
            found.append({name: self._layer(name, number)(state, boxes) for name in needed})
            boxes = found[-1][first].boxes.detach()
        used = found if self.training else found[-1:]
        return {name: tuple(each[name] for each in used) for name in points}

    def _layer(self, branch: str, stage: int) -> nn.Module:
        return self.predictors.get_submodule(f"{branch}.{stage}")

    def _first_boxes(self, extent: tuple[float, float]) -> Tensor:
        """Return the learned boxes in pixels of an input of `extent` (width, height): [N, 4]."""
        return corners(self.boxes, extent)

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


def _grid(count: int) -> Tensor:
    """Return `count` boxes (x, y, width, height) that cover the unit square row by row: [N, 4]."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    number = torch.arange(count)
    x, y = number % columns, torch.div(number, columns, rounding_mode="floor")
    sides = torch.tensor([1 / columns, 1 / rows])
    return torch.cat([(torch.stack([x, y], 1) + 0.5) * sides, sides.repeat(count, 1)], 1)
