"""The dense detector: backbone, neck and head."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from detectors.models.backbone_base import Backbone
from detectors.models.output import Output
from detectors.models.points import kept_points, pyramid_points
from detectors.models.predictor import BranchShape
from detectors.structures import Points, Predictions


class Head(Protocol):
    """Computes predictions from the feature maps of the neck."""

    def __call__(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> dict[str, tuple[Predictions, ...]]:
        """Return the predictions of every branch in `points`."""
        ...


class DenseDetector(nn.Module):
    """A fully convolutional detector.

    Args:
        backbone: computes feature maps from images.
        neck: converts them to maps with the strides `strides`.
        head: computes predictions from these maps.
        strides: strides of the maps, finest first.
        branches: shapes of the branches by name; the first one is kept for inference.
        mask_branch: computes mask features from the maps of the neck; None: it predicts no masks.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        head: nn.Module,
        strides: Sequence[int],
        branches: Mapping[str, BranchShape],
        mask_branch: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head
        self.strides = tuple(strides)
        self.branches = dict(branches)
        self.mask_branch = mask_branch

    def forward(self, images: Tensor, branches: Iterable[str] | None = None) -> Output:
        """Compute predictions for images [B, 3, H, W] uint8 RGB.

        Args:
            images: the batch.
            branches: names of the branches to compute; None: all.
        """
        levels = self.neck(self.backbone(self.backbone.normalise(images)))
        names = tuple(self.branches if branches is None else branches)
        points = {name: self.points(levels, images, name) for name in names}
        masks = self.mask_branch(levels, names) if self.mask_branch else {}
        return Output(points, self.head(levels, points), masks=masks)

    def points(self, levels: Sequence[Tensor], images: Tensor, branch: str) -> Points:
        """Return the points of a branch.

        Args:
            levels: the maps of the neck.
            images: the batch.
            branch: name of the branch.
        """
        sizes, shape = tuple((x.shape[-2], x.shape[-1]) for x in levels), self.branches[branch]
        create = kept_points if _is_plain(images) else pyramid_points
        return create(sizes, self.strides, images.device, shape.anchors, shape.offset)


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor has values, and the code that uses it is not being compiled."""
    return type(tensor) is Tensor and not tensor.is_meta and not torch.compiler.is_compiling()
