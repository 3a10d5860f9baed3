"""The dense detector: trunk, neck, head."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from detectors.models.backbone_base import Backbone
from detectors.models.points import pyramid_points
from detectors.models.predictor import BranchShape
from detectors.structures import Output, Points, Predictions


class Head(Protocol):
    """From a neck's maps to predictions of the branches asked for, at their points."""

    def __call__(
        self, levels: Sequence[Tensor], points: Mapping[str, Points]
    ) -> dict[str, tuple[Predictions, ...]]:
        """Predictions of every branch in `points`."""
        ...


class DenseDetector(nn.Module):
    """A fully convolutional detector. The first of `branches` is the one kept for inference.

    `neck` turns the trunk's maps into those of `strides`; see `Head` for `head`.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        head: nn.Module,
        strides: Sequence[int],
        branches: Mapping[str, BranchShape],
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head
        self.strides = tuple(strides)
        self.branches = dict(branches)

    def forward(self, images: Tensor, branches: Iterable[str] | None = None) -> Output:
        """[B, 3, H, W] uint8 RGB -> predictions of `branches`, by default of all.

        A branch that is not asked for costs nothing.
        """
        levels = self.neck(self.backbone(self.backbone.normalise(images)))
        sizes = [(x.shape[-2], x.shape[-1]) for x in levels]
        points = {
            name: pyramid_points(sizes, self.strides, images.device, self.branches[name].anchors)
            for name in (self.branches if branches is None else branches)
        }
        return Output(points, self.head(levels, points))
