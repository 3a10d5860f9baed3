"""The layers of a transformer for detection (Carion et al. 2020, "DETR", appendix A.3)."""

import math

import torch
from torch import Tensor, nn

TEMPERATURE = 10_000.0
"""Ratio of the longest to the shortest wavelength of sine positions."""


def sine_positions(
    height: int, width: int, channels: int, device: torch.device, offset: float = 1.0
) -> Tensor:
    """Return fixed positions of the cells of a map, row by row: [height * width, channels].

    The first half of the channels encodes the row, the second the column, each as `sines` of
    (index + offset) / size. The offset is 1 in DETR, 0.5 in Deformable DETR.
    """
    axes = []
    for size in (height, width):
        at = (torch.arange(size, device=device) + offset) / size
        axes.append(sines(at, channels // 2))
    rows, columns = axes
    shape = (height, width, channels // 2)
    parts = [rows[:, None].expand(shape), columns[None].expand(shape)]
    return torch.cat(parts, -1).flatten(0, 1)


def sines(at: Tensor, channels: int) -> Tensor:
    """Return sines and cosines of numbers [...], in turn: [..., channels].

    They are those of at * 2 pi / TEMPERATURE^(2 k / channels) for k in [0, channels / 2).
    """
    rate = torch.arange(channels // 2, device=at.device) / (channels // 2)
    angle = (at * 2 * math.pi)[..., None] / TEMPERATURE**rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


class Attention(nn.Module):
    """Multi-head attention, dropout, shortcut and layer norm."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(channels)

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Add to x [B, N, C] what `query` [B, N, C] finds among `key` and `value` [B, S, C]."""
        found, _ = self.attention(query, key, value, need_weights=False)
        normed: Tensor = self.norm(x + self.dropout(found))
        return normed

    def within(self, x: Tensor, query: Tensor, groups: int) -> Tensor:
        """Let queries attend to those of their group: [B, N, C].

        Args:
            x: [B, N, C], the state of the queries.
            query: [B, N, C], the state with the embeddings of the queries.
            groups: number of groups of equal size, one after the other.
        """
        if groups == 1:
            found: Tensor = self(x, query, query, x)
            return found
        batch, count, channels = x.shape
        apart = (batch * groups, count // groups, channels)
        state, own = x.reshape(apart), query.reshape(apart)
        together: Tensor = self(state, own, own, state).view(x.shape)
        return together


class FeedForward(nn.Module):
    """Two linear layers with ReLU and dropout, shortcut and layer norm."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        hidden = self.dropout(self.first(x).relu())
        normed: Tensor = self.norm(x + self.dropout(self.second(hidden)))
        return normed


class EncoderLayer(nn.Module):
    """Self-attention among the cells of a map."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.itself = Attention(channels, heads, dropout)
        self.feed = FeedForward(channels, hidden, dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Map cells [B, S, C], with their positions [S, C], to [B, S, C]."""
        placed = x + position
        found: Tensor = self.feed(self.itself(x, placed, placed, x))
        return found


class DecoderLayer(nn.Module):
    """Self-attention among queries, then attention of the queries to the cells of a map."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.itself = Attention(channels, heads, dropout)
        self.cross = Attention(channels, heads, dropout)
        self.feed = FeedForward(channels, hidden, dropout)

    def forward(
        self, x: Tensor, query: Tensor, placed: Tensor, memory: Tensor, groups: int = 1
    ) -> Tensor:
        """Map the state of queries [B, N, C] to [B, N, C].

        Args:
            x: the state.
            query: [N, C], embeddings of the queries.
            placed: [B, S, C], cells with their positions.
            memory: [B, S, C], cells.
            groups: number of groups of queries, see `Attention.within`.
        """
        x = self.itself.within(x, x + query, groups)
        found: Tensor = self.feed(self.cross(x, x + query, placed, memory))
        return found
