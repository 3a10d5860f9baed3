import math

import pytest
import torch
from torch import Tensor

from detectors.models.deformable import (
    Cells,
    DeformableAttention,
    DeformableDecoderLayer,
    DeformableEncoderLayer,
    LayerShape,
    MixedDecoderLayer,
    ring,
)
from tests.detectors.models.operators.bilinear import bilinear

SIZES = ((3, 4), (2, 2))
CHANNELS, HEADS, SAMPLES, QUERIES = 8, 2, 3, 5


def draw(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def attention() -> DeformableAttention:
    torch.manual_seed(0)
    layer = DeformableAttention(CHANNELS, HEADS, len(SIZES), SAMPLES, 0.0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer.double()


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_heads_initially_read_on_rings(heads: int) -> None:
    """Sampling point p of head m is p cells away in the direction 2 pi m / M (section A.3)."""
    offsets = ring(heads, 2, 3)
    for m in range(heads):
        for p in range(3):
            x, y = offsets[m, 1, p].tolist()
            assert max(abs(x), abs(y)) == pytest.approx(p + 1)
            turn = math.atan2(y, x) - 2 * math.pi * m / heads
            assert math.cos(turn) == pytest.approx(1)
    assert torch.equal(offsets[:, 0], offsets[:, 1])


def test_initial_weights_are_equal_and_offsets_do_not_depend_on_the_query() -> None:
    layer = DeformableAttention(CHANNELS, HEADS, len(SIZES), SAMPLES, 0.0)
    query = draw(2, QUERIES, CHANNELS)
    assert not layer.attention_weights(query).any()
    offsets = layer.sampling_offsets(query).view(2, QUERIES, HEADS, len(SIZES), SAMPLES, 2)
    assert torch.equal(offsets[1, 3], ring(HEADS, len(SIZES), SAMPLES))


@pytest.mark.parametrize("sides", [0, 2])
def test_equals_equation_3_with_points_and_with_boxes(sides: int) -> None:
    """A loop over queries, heads, levels and sampling points, from the text of the paper."""
    layer, area = attention(), sum(h * w for h, w in SIZES)
    cells = Cells(draw(2, area, CHANNELS).double(), SIZES)
    query, state = draw(2, QUERIES, CHANNELS).double(), draw(2, 1, CHANNELS).double()
    reference = draw(2, QUERIES, 2 + sides).double()
    found = layer(state, query, reference, cells)
    values = torch.split(layer.value(cells.features), [h * w for h, w in SIZES], 1)
    shape = (2, QUERIES, HEADS, len(SIZES) * SAMPLES)
    weights = layer.attention_weights(query).view(shape).softmax(-1)
    offsets = layer.sampling_offsets(query).view(*shape, 2)
    read = torch.zeros(2, QUERIES, CHANNELS, dtype=torch.float64)
    width = CHANNELS // HEADS
    for b, q, m, n in torch.cartesian_prod(*map(torch.arange, shape)):
        level, own = int(n) // SAMPLES, slice(int(m) * width, int(m + 1) * width)
        height, wide = SIZES[level]
        size = torch.tensor([wide, height])
        step = offsets[b, q, m, n] / size
        if sides:
            step = offsets[b, q, m, n] / SAMPLES * reference[b, q, 2:] / 2
        x, y = (reference[b, q, :2] + step) * size - 0.5
        maps = values[level][b, :, own].T.reshape(-1, height, wide)
        read[b, q, own] += weights[b, q, m, n] * bilinear(maps, y, x)
    torch.testing.assert_close(found, layer.norm(state + layer.output(read)), rtol=1e-4, atol=1e-5)


def test_layers_add_embeddings_to_what_searches_and_not_to_what_is_read() -> None:
    torch.manual_seed(0)
    shape = LayerShape(CHANNELS, HEADS, len(SIZES), SAMPLES, 16, 0.0)
    encoder, decoder = DeformableEncoderLayer(shape), DeformableDecoderLayer(shape)
    for parameter in (*encoder.itself.parameters(), *decoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.5)
    cells, position = Cells(draw(2, 16, CHANNELS), SIZES), draw(16, CHANNELS)
    x, query, reference = draw(2, 5, CHANNELS), draw(5, CHANNELS), draw(2, 5, 2)
    read = encoder.itself(cells.features, cells.features + position, cells.centers(), cells)
    found = encoder(cells, position, cells.centers()).features
    torch.testing.assert_close(found, encoder.feed(read))
    decoded, of_many = decoder(x, query, reference, cells)
    x = decoder.itself(x, x + query, x + query, x)
    x = decoder.cross(x, x + query, reference, cells)
    torch.testing.assert_close(decoded, decoder.feed(x))
    assert of_many is decoded


def test_centers_of_cells_follow_rows_and_levels() -> None:
    centers = Cells(torch.zeros(1, 16, 1), SIZES).centers()
    expected = [
        ((j + 0.5) / w, (i + 0.5) / h) for h, w in SIZES for i in range(h) for j in range(w)
    ]
    torch.testing.assert_close(centers, torch.tensor(expected))


def test_a_mixed_layer_is_that_of_ms_detr() -> None:
    """Cross-attention, then a feed-forward part per branch, one of them after self-attention."""
    torch.manual_seed(0)
    layer = MixedDecoderLayer(LayerShape(CHANNELS, HEADS, len(SIZES), SAMPLES, 6, 0.0)).double()
    cells = Cells(draw(2, sum(h * w for h, w in SIZES), CHANNELS).double(), SIZES)
    state, embedding = (draw(2, QUERIES, CHANNELS + i).double()[..., :CHANNELS] for i in (0, 1))
    reference = draw(2, QUERIES, 2).double()
    o2o, o2m = layer(state, embedding, reference, cells)
    crossed = layer.cross(state, state + embedding, reference, cells)
    query = crossed + embedding
    found, _ = layer.itself.attention(query, query, crossed)
    attended = layer.itself.norm(crossed + found)
    for part, x, expected in ((layer.feed, attended, o2o), (layer.o2m_feed, crossed, o2m)):
        hidden = (x @ part.first.weight.T + part.first.bias).clamp(min=0)
        again = part.norm(x + hidden @ part.second.weight.T + part.second.bias)
        torch.testing.assert_close(again, expected)
