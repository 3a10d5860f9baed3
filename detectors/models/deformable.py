"""The layers of Deformable DETR (Zhu et al. 2021): attention that reads few cells of all levels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detectors.models.attention import Attention, FeedForward
from detectors.models.operators.deform_attention import deform_attention
from detectors.models.operators.sampling import at_least_float32


@dataclass(frozen=True)
class Cells:
    """The cells of several maps.

    Attributes:
        features: [B, S, C], the cells of all levels, row by row, finest level first.
        sizes: (height, width) of every level.
    """

    features: Tensor
    sizes: tuple[tuple[int, int], ...]

    def centers(self) -> Tensor:
        """Return the centres (x, y) of all cells, relative to the input: [S, 2] in (0, 1)."""
        grids, device = [], self.features.device
        for height, width in self.sizes:
            y = (torch.arange(height, device=device) + 0.5) / height
            x = (torch.arange(width, device=device) + 0.5) / width
            grids.append(torch.cartesian_prod(y, x).view(-1, 2).flip(1))
        return torch.cat(grids)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (section 4.1, Eq. 3), dropout, shortcut and layer norm.

    Initially (section A.3), head m of M reads in the direction 2 pi m / M, with sampling point p at
    p cells of every level along the larger coordinate, and all weights are equal.

    Args:
        channels: channels C of queries and cells.
        heads: number of heads.
        levels: number of levels.
        samples: number of sampling points per head and level.
        dropout: share of values that are set to 0 in training.
    """

    def __init__(
        self, channels: int, heads: int, levels: int, samples: int, dropout: float
    ) -> None:
        super().__init__()
        self.shape = (heads, levels, samples)
        self.sampling_offsets = nn.Linear(channels, heads * levels * samples * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * samples)
        self.value, self.output = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(channels)
        self.reset()

    def reset(self) -> None:
        """Set all weights, except for the norm, to their initial values."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring(*self.shape).flatten())

    def forward(self, x: Tensor, query: Tensor, reference: Tensor, cells: Cells) -> Tensor:
        """Add to x [B, Q, C] what queries find in cells around their references.

        Args:
            x: the state of the queries.
            query: [B, Q, C], the state with the embeddings of the queries.
            reference: points [..., Q, 2] (x, y), or boxes [..., Q, 4] (x, y, width, height),
                relative to the input. Offsets are in cells of each level for points, in halves of
                the sides, divided by `samples`, for boxes.
            cells: what is read.
        """
        (batch, queries, channels), heads = query.shape, self.shape[0]
        count = cells.features.shape[1]
        value = self.value(cells.features).view(batch, count, heads, channels // heads)
        places = self.shape[1] * self.shape[2]
        weights = self.attention_weights(query).view(batch, queries, heads, places).softmax(-1)
        offsets = self.sampling_offsets(query).view(batch, queries, *self.shape, 2)
        locations = self._locations(reference, offsets, cells.sizes)
        found = deform_attention(
            value, cells.sizes, locations, weights.view(batch, queries, *self.shape)
        )
        normed: Tensor = self.norm(x + self.dropout(self.output(found.to(x.dtype))))
        return normed

    def _locations(
        self, reference: Tensor, offsets: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Return sampling locations relative to the input: [B, Q, M, L, P, 2]."""
        reference, offsets = at_least_float32(reference), at_least_float32(offsets)
        center = reference[..., None, None, None, :2]
        if reference.shape[-1] == 4:
            side = reference[..., None, None, None, 2:]
            return center + offsets / self.shape[2] * side * 0.5
        x, y = offsets.unbind(-1)
        steps = [(x[:, :, :, i] / w, y[:, :, :, i] / h) for i, (h, w) in enumerate(sizes)]
        return center + torch.stack([torch.stack(step, -1) for step in steps], 3)


def ring(heads: int, levels: int, samples: int) -> Tensor:
    """Return the initial sampling offsets of `DeformableAttention`, in cells: [M, L, P, 2].

    On the CPU, unless a device context says otherwise.
    """
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    distance = torch.arange(1, samples + 1)
    return (direction[:, None, None] * distance[:, None]).expand(heads, levels, samples, 2)


@dataclass(frozen=True)
class LayerShape:
    """The size of a layer of the encoder or the decoder."""

    channels: int
    heads: int
    levels: int
    samples: int
    hidden: int
    dropout: float

    def attention(self) -> DeformableAttention:
        """Build its deformable attention."""
        return DeformableAttention(
            self.channels, self.heads, self.levels, self.samples, self.dropout
        )

    def feed(self) -> FeedForward:
        """Build its feed-forward part."""
        return FeedForward(self.channels, self.hidden, self.dropout)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention among the cells of all levels."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.itself, self.feed = shape.attention(), shape.feed()

    def forward(self, cells: Cells, position: Tensor, centers: Tensor) -> Cells:
        """Return the cells with new features.

        Args:
            cells: the cells.
            position: [S, C], embeddings of their positions and levels.
            centers: [S, 2], see `Cells.centers`.
        """
        x = cells.features
        found = self.itself(x, x + position, centers, cells)
        return Cells(self.feed(found), cells.sizes)


class DeformableDecoderLayer(nn.Module):
    """Self-attention among queries, then deformable attention to the cells of all levels."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.itself = Attention(shape.channels, shape.heads, shape.dropout)
        self.cross, self.feed = shape.attention(), shape.feed()

    def forward(
        self, x: Tensor, query: Tensor, reference: Tensor, cells: Cells, groups: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Map the state of queries [B, N, C] to those of the one-to-one and one-to-many branch.

        Args:
            x: the state.
            query: [B, N, C] or [N, C], embeddings of the queries.
            reference: see `DeformableAttention.forward`.
            cells: the encoded cells.
            groups: number of groups of queries, see `Attention.within`.

        Returns:
            Two states [B, N, C]. The first one is the state for the next layer. Here they are the
            same.
        """
        x = self.itself.within(x, x + query, groups)
        found: Tensor = self.feed(self.cross(x, x + query, reference, cells))
        return found, found


class MixedDecoderLayer(DeformableDecoderLayer):
    """Deformable attention to cells, then self-attention (Zhao et al. 2024, "MS-DETR").

    The state of the one-to-many branch is that between both, after a feed-forward part of its own:
    there, queries do not yet compete with each other.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__(shape)
        self.o2m_feed = shape.feed()

    def forward(
        self, x: Tensor, query: Tensor, reference: Tensor, cells: Cells, groups: int = 1
    ) -> tuple[Tensor, Tensor]:
        """See `DeformableDecoderLayer.forward`."""
        x = self.cross(x, x + query, reference, cells)
        return self.feed(self.itself.within(x, x + query, groups)), self.o2m_feed(x)
