"""Gates: a learned factor of the score at every point, without a loss of its own."""

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
    def build(
        self, channels: int, groups: int, anchors: int, *, bias: bool = True
    ) -> nn.Module | None:
        """Build the gate; None: there is no gate.

        It maps the box tower's maps [B, channels, h, w] of all levels to logits [B, anchors, h, w]
        per level.

        Args:
            channels: channels of the maps.
            groups: groups of group norm; 0: no norm.
            anchors: number of anchors per cell.
            bias: whether convolutions before a norm have a bias.
        """


class NoGate(GateOptions):
    """The score is the class score."""

    name: Literal["none"] = "none"

    def build(
        self, channels: int, groups: int, anchors: int, *, bias: bool = True
    ) -> nn.Module | None:
        """See `GateOptions.build`."""
        return None


class Centerness(GateOptions):
    """The centerness path of o2f (002 Fig. 3): narrow convolutions, then one logit per point.

    It has no loss of its own, as in the released code; the paper does not say whether it has one.
    """

    name: Literal["centerness"] = "centerness"
    convs: int = Field(3, ge=0)
    """Number of 3x3 convolutions before the last one (1, 2 or 3 in 002 Table 5)."""
    width: int = Field(64, ge=1)
    """Channels of these convolutions."""

    def build(
        self, channels: int, groups: int, anchors: int, *, bias: bool = True
    ) -> nn.Module | None:
        """See `GateOptions.build`."""
        path = tower(channels, self.width, self.convs, groups, bias=bias)
        return EachLevel(
            nn.Sequential(path, small_conv(self.width if self.convs else channels, anchors))
        )


class MaxFilter(GateOptions):
    """3D max filtering (003 Eq. 6 and Fig. 3): compares a point with its neighbours."""

    name: Literal["max_filter"] = "max_filter"
    tau: int = Field(2, ge=0)
    """Number of neighbouring levels: tau / 2 finer and tau / 2 coarser ones; even."""
    phi: int = Field(3, ge=1)
    """Side of the window, in cells; odd."""
    norm: bool = True
    """Whether group norm follows the filter (not in the released `wo_gn` variants)."""

    @field_validator("tau", "phi")
    @classmethod
    def _centred(cls, value: int, info: ValidationInfo) -> int:
        kind = {"tau": "even", "phi": "odd"}[info.field_name or ""]
        if value % 2 != (kind == "odd"):
            raise ValueError(f"must be {kind}, got {value}")
        return value

    def build(
        self, channels: int, groups: int, anchors: int, *, bias: bool = True
    ) -> nn.Module | None:
        """See `GateOptions.build`."""
        filtered = MaxFilter3d(channels, self.tau, self.phi, groups if self.norm else 0)
        return nn.Sequential(filtered, EachLevel(small_conv(channels, anchors)))


class EachLevel(nn.Module):
    """Applies one module to the maps of all levels."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return the module's output for each map."""
        return [self.module(x) for x in levels]


def gated(logits: Tensor, gate: Tensor) -> Tensor:
    """Compute the logits of sigmoid(logits) * sigmoid(gate), without overflow.

    The product is 1 / ((1 + e^-x)(1 + e^-g)), so its logit is -log(e^-x + e^-g + e^(-x-g)).
    """
    return -torch.logaddexp(torch.logaddexp(-logits, -gate), -logits - gate)


GATES: dict[str, type[GateOptions]] = {
    "none": NoGate,
    "centerness": Centerness,
    "max_filter": MaxFilter,
}
"""Name in a spec -> options of a gate. A new gate needs a class, a line here and a row in the
tests."""
