import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.models.operators.deform_attention import deform_attention
from tests.detectors.models.operators.bilinear import assert_same, bilinear
from tests.examples import examples

Sizes = list[tuple[int, int]]


def case(
    sizes: Sizes, queries: int = 3, heads: int = 2, points: int = 2, batch: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw value, locations (some outside of the map) and weights in float64."""
    rng = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, dtype=torch.float64)

    value = draw(batch, sum(h * w for h, w in sizes), heads, 3) - 0.5
    locations = 1.6 * draw(batch, queries, heads, len(sizes), points, 2) - 0.3
    weights = draw(batch, queries, heads, len(sizes), points)
    return value.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()


def looped(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable DETR Eq. 3, one sampling point after the other."""
    batch, queries, heads, levels, points = weights.shape
    levels_of = torch.split(value, [h * w for h, w in sizes], 1)
    found = []
    for b, q, m in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads))):
        total = value.new_zeros(value.shape[3])
        for level in range(levels):
            height, width = sizes[level]
            maps = levels_of[level][b, :, m].T.reshape(-1, height, width)
            for p in range(points):
                x, y = locations[b, q, m, level, p]
                read = bilinear(maps, y * height - 0.5, x * width - 0.5)
                total = total + weights[b, q, m, level, p] * read
        found.append(total)
    return torch.stack(found).view(batch, queries, -1)


@examples(4)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=2),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 2),
)
def test_equals_loops_over_sampling_points(
    sizes: Sizes, queries: int, heads: int, points: int
) -> None:
    value, locations, weights = case(sizes, queries, heads, points, batch=1)
    found = deform_attention(value, sizes, locations, weights)
    reference = looped(value, sizes, locations, weights)
    assert_same(found, reference, value, locations, weights)


def test_gradients_are_those_of_differences() -> None:
    sizes = [(2, 3), (1, 2)]
    assert torch.autograd.gradcheck(lambda v, *x: deform_attention(v, sizes, *x), case(sizes, 1, 1))


def test_the_centre_of_a_cell_is_read_exactly() -> None:
    """Location ((j + .5) / W, (i + .5) / H) is cell (i, j); x comes first."""
    value = torch.arange(6.0).view(1, 6, 1, 1)
    y, x = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    centers = torch.stack([(x + 0.5) / 3, (y + 0.5) / 2], -1).view(1, 6, 1, 1, 1, 2)
    found = deform_attention(value, [(2, 3)], centers, torch.ones(1, 6, 1, 1, 1))
    torch.testing.assert_close(found.flatten(), torch.arange(6.0))


def test_queries_are_independent_and_may_be_none() -> None:
    sizes = [(3, 2), (2, 2)]
    value, locations, weights = case(sizes, queries=4)
    found = deform_attention(value, sizes, locations, weights)
    order = torch.tensor([2, 0, 3, 1])
    permuted = deform_attention(value, sizes, locations[:, order], weights[:, order])
    assert torch.equal(permuted, found[:, order])
    none = deform_attention(value, sizes, locations[:, :0], weights[:, :0])
    assert none.shape == (2, 0, 6)
    assert deform_attention(value[:0], sizes, locations[:0], weights[:0]).shape == (0, 4, 6)


@pytest.mark.parametrize("sizes", [[(3, 2)], [(3, 2), (2, 3)], [(10, 1)]])
def test_sizes_that_do_not_fit_are_refused(sizes: Sizes) -> None:
    value, locations, weights = case([(3, 2), (2, 2)])
    with pytest.raises(ValueError, match="do not fit 10 values and locations on 2 levels"):
        deform_attention(value, sizes, locations, weights)
