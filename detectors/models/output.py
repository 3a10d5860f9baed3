"""What a detector returns for a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from detectors.structures import Points, Predictions


@dataclass(frozen=True)
class Output:
    """The output of a detector for a batch: points and predictions of every branch, by name.

    In training, each cascaded head predicts, and `proposals` have logits [B, N, 1] of any class.
    Branches with masks have mask features [B, channels, h, w] at the stride of the finest level.
    """

    points: Mapping[str, Points]
    branches: Mapping[str, tuple[Predictions, ...]]
    proposals: Mapping[str, tuple[Points, Predictions]] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
