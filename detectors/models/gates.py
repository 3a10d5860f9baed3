"""Gates: a second factor of the score at every point, learned through the score alone."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from detectors.models.max_filter import MaxFilter3d
from detectors.models.towers import small_conv, tower
from detectors.options import Options


class GateOptions(Options):
    """Options of one kind of gate. `name` is its key in the table `GATES`."""

    @abstractmethod
    def build(self, channels: int, groups: int, anchors: int) -> nn.Module | None:
        """A module from the box tower's maps [B, channels, h, w] of all levels to logits
        [B, anchors, h, w] of each; None where there is no gate.
        """


class NoGate(GateOptions):
    """The score is that of the class alone."""

    name: Literal["none"] = "none"

    def build(self, channels: int, groups: int, anchors: int) -> nn.Module | None:
        """See `GateOptions.build`."""
        return None


class Centerness(GateOptions):
    """o2f's centerness path (002 Fig. 3): a few narrow convolutions, then one number a point.

    It has no loss of its own, as in the released code; the paper doesn't say.
    """

    name: Literal["centerness"] = "centerness"
    convs: int = Field(3, ge=0)
    """3x3 convolutions before the last one (002 Table 5 has 1, 2 and 3)."""
    width: int = Field(64, ge=1)
    """Their channels."""

    def build(self, channels: int, groups: int, anchors: int) -> nn.Module | None:
        """See `GateOptions.build`."""
        path = tower(channels, self.width, self.convs, groups)
        return EachLevel(
            nn.Sequential(path, small_conv(self.width if self.convs else channels, anchors))
        )


class MaxFilter(GateOptions):
    """3D max filtering (003 Eq. 6 and Fig. 4): what a point shows against its neighbours."""

    name: Literal["max_filter"] = "max_filter"
    tau: int = Field(2, ge=0)
    """Levels looked at: tau / 2 finer and as many coarser ones; even."""
    phi: int = Field(3, ge=1)
    """Side in cells of the window; odd."""
    norm: bool = True
    """Group norm after the filter (the released `wo_gn` variants leave it out)."""

    @field_validator("tau", "phi")
    @classmethod
    def _centred(cls, value: int, info: ValidationInfo) -> int:
        kind = {"tau": "even", "phi": "odd"}[info.field_name or ""]
        if value % 2 != (kind == "odd"):
            raise ValueError(f"must be {kind}, got {value}")
        return value

    def build(self, channels: int, groups: int, anchors: int) -> nn.Module | None:
        """See `GateOptions.build`."""
        filtered = MaxFilter3d(channels, self.tau, self.phi, groups if self.norm else 0)
        return nn.Sequential(filtered, EachLevel(small_conv(channels, anchors)))


class EachLevel(nn.Module):
    """One module for every level."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Maps -> what the module makes of each."""
        return [self.module(x) for x in levels]


def gated(logits: Tensor, gate: Tensor) -> Tensor:
    """The logits of sigmoid(logits) * sigmoid(gate), safe for values of any size.

    p = 1 / ((1 + e^-x)(1 + e^-g)), so its logit is -log(e^-x + e^-g + e^(-x-g)).
    """
    return -torch.logaddexp(torch.logaddexp(-logits, -gate), -logits - gate)


GATES: dict[str, type[GateOptions]] = {
    "none": NoGate,
    "centerness": Centerness,
    "max_filter": MaxFilter,
}
"""The explicit table: adding a gate is one class, one line here, one row in the tests."""
