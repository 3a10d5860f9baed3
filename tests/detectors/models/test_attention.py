import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detectors.models.attention import Attention, DecoderLayer, EncoderLayer, sine_positions

CHANNELS, HEADS, HIDDEN = 16, 4, 24
PARTS = {
    "itself.attention": "self_attn",
    "cross.attention": "multihead_attn",
    "feed.first": "linear1",
    "feed.second": "linear2",
}
"""Names of our modules -> those of PyTorch's layers."""


def copied(own: nn.Module, reference: nn.Module, norms: list[str]) -> None:
    """Draw the weights of `own` and give `reference` the same."""
    names = PARTS | {f"{part}.norm": f"norm{i + 1}" for i, part in enumerate(norms)}
    weights = {name: torch.randn_like(value) / 4 for name, value in own.state_dict().items()}
    own.load_state_dict(weights)
    renamed = {}
    for name, value in weights.items():
        [part] = [part for part in names if name.startswith(f"{part}.")]
        renamed[name.replace(part, names[part])] = value
    reference.load_state_dict(renamed)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assert_same(own: Callable[[], Tensor], reference: Callable[[], Tensor]) -> None:
    """Compare two layers that draw the same random numbers in the same order."""
    found = []
    for layer in (own, reference):
        torch.manual_seed(2)
        found.append(layer())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_encoder_layer_without_positions_is_pytorchs(dropout: float) -> None:
    torch.manual_seed(0)
    own = EncoderLayer(CHANNELS, HEADS, HIDDEN, dropout)
    reference = nn.TransformerEncoderLayer(CHANNELS, HEADS, HIDDEN, dropout, batch_first=True)
    copied(own, reference, ["itself", "feed"])
    cells, nowhere = draw(2, 6, CHANNELS), torch.zeros(6, CHANNELS)
    assert_same(lambda: own(cells, nowhere), lambda: reference(cells))
    own.eval()
    assert not torch.allclose(own(cells, draw(6, CHANNELS)), own(cells, nowhere))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_decoder_layer_without_embeddings_is_pytorchs(dropout: float) -> None:
    torch.manual_seed(0)
    own = DecoderLayer(CHANNELS, HEADS, HIDDEN, dropout)
    reference = nn.TransformerDecoderLayer(CHANNELS, HEADS, HIDDEN, dropout, batch_first=True)
    copied(own, reference, ["itself", "cross", "feed"])
    state, memory, nowhere = draw(2, 3, CHANNELS), draw(2, 6, CHANNELS), torch.zeros(3, CHANNELS)
    assert_same(lambda: own(state, nowhere, memory, memory), lambda: reference(state, memory))


def test_embeddings_place_queries_in_both_attentions_of_a_decoder_layer() -> None:
    """But not the values of self-attention (DETR section A.3)."""
    torch.manual_seed(0)
    layer = DecoderLayer(CHANNELS, HEADS, HIDDEN, 0.0)
    itself, cross = layer.itself, layer.cross
    x, query, memory = draw(2, 3, CHANNELS), 3 * draw(3, CHANNELS), draw(2, 6, CHANNELS)
    placed = memory + draw(6, CHANNELS)
    found = layer(x, query, placed, memory)
    x = itself.norm(x + itself.attention(x + query, x + query, x)[0])
    x = cross.norm(x + cross.attention(x + query, placed, memory)[0])
    torch.testing.assert_close(found, layer.feed(x), rtol=1e-4, atol=1e-5)


def test_groups_attend_as_if_each_were_alone() -> None:
    torch.manual_seed(0)
    layer, x, query = Attention(CHANNELS, HEADS, 0.0), draw(2, 6, CHANNELS), draw(1, 6, CHANNELS)
    query = x + 2 * query
    found = layer.within(x, query, 3)
    for own in (slice(0, 2), slice(2, 4), slice(4, 6)):
        one = layer(x[:, own], query[:, own], query[:, own], x[:, own])
        torch.testing.assert_close(found[:, own], one, rtol=1e-4, atol=1e-5)


def test_positions_place_what_is_searched_and_not_what_is_found() -> None:
    """Values have no positions: cells of equal content give that content, wherever they are."""
    torch.manual_seed(0)
    layer = DecoderLayer(CHANNELS, HEADS, HIDDEN, 0.0)
    state, query = draw(1, 3, CHANNELS), draw(3, CHANNELS)
    memory = draw(1, 1, CHANNELS).expand(1, 6, CHANNELS)
    here, there = (layer(state, query, memory + draw(6, CHANNELS) * k, memory) for k in (1, 3))
    torch.testing.assert_close(here, there)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 1)])
def test_sine_positions_are_those_of_detrs_code(height: int, width: int) -> None:
    found = sine_positions(height, width, 8, torch.device("cpu"))
    for i in range(height):
        for j in range(width):
            expected = []
            for at in ((i + 1) / height, (j + 1) / width):
                for k in range(4):
                    angle = at * 2 * math.pi / 10000 ** (2 * (k // 2) / 4)
                    expected.append(math.cos(angle) if k % 2 else math.sin(angle))
            assert found[i * width + j].tolist() == pytest.approx(expected, abs=1e-5)
