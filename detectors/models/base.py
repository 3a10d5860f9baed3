"""The base class of a detector's options."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from detectors.assigners.base import Branch, Strategy
from detectors.models.predictor import BranchShape
from detectors.options import Options


class DetectorOptions(Options):
    """Options of one kind of detector. `name` is its key in the table `DETECTORS`."""

    located: ClassVar[bool] = True
    """Whether it predicts at points with positions and levels; queries have none."""

    published: ClassVar[Mapping[str, Any]] = {}
    """The options of the published detector that differ from the defaults; of its backbone, a
    ResNet-50, those that differ from the backbone's defaults."""

    @property
    def segments(self) -> bool:
        """Whether it also predicts the masks of objects."""
        return False

    def unfit(self, assignment: Strategy) -> list[str]:
        """Return why its options can't be combined with an assignment; empty if they can."""
        return []

    @abstractmethod
    def branch(self, name: str) -> BranchShape:
        """Return what the branch `name` (o2o, o2m, o2f) predicts."""

    @abstractmethod
    def build(self, num_classes: int, branches: Sequence[Branch]) -> nn.Module:
        """Build a detector with one predictor per branch, with random or the backbone's weights.

        Args:
            num_classes: number of classes.
            branches: names of the branches; the first one is kept for inference.
        """
