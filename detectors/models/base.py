"""What a detector is, for a spec: options that build a module."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import nn

from detectors.assigners.base import Branch
from detectors.options import Options


class DetectorOptions(Options):
    """Options of one kind of detector. `name` is its key in the table `DETECTORS`."""

    @abstractmethod
    def build(self, num_classes: int, branches: Sequence[Branch]) -> nn.Module:
        """A freshly initialised detector with one predictor for each branch."""
