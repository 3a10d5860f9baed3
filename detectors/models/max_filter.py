"""3D max filtering: maxima over neighbours in space and scale (003 section 3.2.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.models.towers import small_conv


class MaxFilter3d(nn.Module):
    """A 3x3 convolution, the maximum over a window, a residual connection, group norm and ReLU.

    The window has tau + 1 levels and phi x phi cells (003 Eq. 6 and Fig. 3). Neighbouring levels
    are resized bilinearly; the first and the last level have fewer neighbours. The residual
    connection skips the convolution, too, as in the released code. With `groups` 0 there is no
    norm. With tau 0 and phi 1 the maximum has no effect.
    """

    def __init__(self, channels: int, tau: int, phi: int, groups: int) -> None:
        super().__init__()
        self.reach, self.phi = tau // 2, phi
        self.conv = small_conv(channels, channels)
        self.norm = nn.GroupNorm(groups, channels) if groups else nn.Identity()

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Filter maps [B, channels, h_i, w_i], finest first; the output has the same shapes."""
        filtered = self.filter([self.conv(x) for x in levels])
        return [F.relu(self.norm(y + x)) for y, x in zip(filtered, levels, strict=True)]

    def filter(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return the maximum over the window for each level."""
        return [self._window_maximum(levels, i) for i in range(len(levels))]

    def _window_maximum(self, levels: Sequence[Tensor], own: int) -> Tensor:
        size = levels[own].shape[-2:]
        near = levels[max(0, own - self.reach) : own + self.reach + 1]
        resized = [
            x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear") for x in near
        ]
        highest = torch.stack(resized).amax(0)
        return F.max_pool2d(highest, self.phi, 1, self.phi // 2)
