"""What the decoder of Deformable DETR starts from: learned queries, or proposals of the encoder."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from detectors.models.attention import sines
from detectors.models.deformable import Cells
from detectors.models.layers import full_precision
from detectors.models.queries import EPS, QueryPredictor

SIDE = 0.05
"""Side, relative to the input, of the anchor of a cell of the finest level; twice it per level."""
MARGIN = 0.01
"""Cells whose anchor has its centre closer to the border than this propose nothing. So do those
whose anchor is larger than 1 - MARGIN. Relative to the input."""


class Start(NamedTuple):
    """The queries before the first layer of the decoder.

    Attributes:
        state: [B, N, C].
        embedding: [B, N, C], added to the state in attention.
        reference: points [B, N, 2] or boxes [B, N, 4] (x, y, width, height), in [0, 1].
    """

    state: Tensor
    embedding: Tensor
    reference: Tensor


class LearnedQueries(nn.Module):
    """Learned states and embeddings; a linear layer computes reference points from embeddings.

    `extend` adds the additional queries of a one-to-many branch.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, 2 * channels))
        self.reference_points = nn.Linear(channels, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def extend(self, count: int) -> None:
        """Add `count` additional queries."""
        self.o2m_queries = nn.Parameter(torch.randn(count, self.queries.shape[1]))

    def forward(self, batch: int, more: bool = False) -> Start:
        """Return the queries for `batch` images, or the additional ones."""
        learned = self.o2m_queries if more else self.queries
        half, queries = learned.shape[1] // 2, learned.repeat(batch, 1, 1)
        embedding, state = queries[..., :half], queries[..., half:]
        with full_precision(embedding.device):
            return Start(state, embedding, self.reference_points(embedding).sigmoid())


class Proposed(NamedTuple):
    """What every cell proposes: logits [B, S, 1] of an object of any class, and boxes [B, S, 4].

    Boxes are (x, y, width, height) in [0, 1], and so are the anchors [S, 4]. `valid` [S] is False
    for cells that propose nothing; their boxes and anchors are (1, 1, 1, 1), as in the released
    code.
    """

    logits: Tensor
    boxes: Tensor
    valid: Tensor
    anchors: Tensor


class ProposedQueries(nn.Module):
    """The cells of the encoder with the highest scores become queries (section A.4, two-stage).

    A cell predicts the score of an object of any class and a box, which starts at a square anchor
    of `SIDE` on the finest level, of twice that on the next. States and embeddings of the queries
    are computed from sines of the boxes, which have no gradients there.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output, self.norm = nn.Linear(channels, channels), nn.LayerNorm(channels)
        self.place = nn.Linear(2 * channels, 2 * channels)
        self.place_norm = nn.LayerNorm(2 * channels)
        for layer in (self.output, self.place):
            nn.init.xavier_uniform_(layer.weight)
        self.predictor = QueryPredictor(channels, 1)
        self.predictor.start_at_reference(0.0)

    def propose(self, cells: Cells) -> Proposed:
        """Return the proposals of all cells."""
        anchors, valid = _anchors(cells)
        features = self.norm(self.output(cells.features * valid[:, None]))
        with full_precision(features.device):
            logits = self.predictor.cls(features.float())
        boxes = self.predictor.relative(features, anchors)
        boxes, anchors = (each.masked_fill(~valid[:, None], 1.0) for each in (boxes, anchors))
        return Proposed(logits, boxes, valid, anchors)

    def forward(self, proposed: Proposed, first: int, count: int) -> Start:
        """Return as queries the proposals whose rank is in [first, first + count).

        Among equal scores, the finer level and the earlier cell come first.
        """
        score = proposed.logits.detach()[..., 0].masked_fill(~proposed.valid, -torch.inf)
        best = score.sort(descending=True, stable=True).indices[:, first : first + count]
        boxes = proposed.boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))
        at = sines(boxes, self.place.in_features // 4).flatten(-2)
        embedding, state = self.place_norm(self.place(at)).chunk(2, -1)
        return Start(state, embedding, boxes)


def _anchors(cells: Cells) -> tuple[Tensor, Tensor]:
    """Return the anchors of all cells [S, 4], in [0, 1], and whether they may propose: [S] bool."""
    centers = cells.centers()
    areas = [height * width for height, width in cells.sizes]
    sides = [centers.new_full((n, 2), SIDE * 2**level) for level, n in enumerate(areas)]
    anchors = torch.cat([centers, torch.cat(sides)], 1)
    valid = ((anchors > MARGIN) & (anchors < 1 - MARGIN)).all(1)
    return anchors.clamp(EPS, 1 - EPS), valid
