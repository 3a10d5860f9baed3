from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.models.operators.deform_conv import Geometry, deform_conv
from tests.detectors.models.operators.bilinear import assert_same, bilinear
from tests.examples import examples

PADDED = Geometry(padding=1)


class Case(NamedTuple):
    maps: Tensor
    offset: Tensor
    mask: Tensor
    weight: Tensor
    bias: Tensor


def case(
    size: tuple[int, int],
    kernel: tuple[int, int],
    geometry: Geometry = PADDED,
    deformable: int = 1,
    batch: int = 2,
    spread: float = 2.0,
) -> Case:
    """Draw inputs in float64; offsets are about `spread` cells."""
    groups = geometry.groups
    rng = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()

    channels, cells = 2 * groups * deformable, kernel[0] * kernel[1]
    moved = geometry._replace(groups=1)._asdict()
    plain = F.conv2d(torch.zeros(1, 1, *size), torch.zeros(1, 1, *kernel), **moved)
    out = plain.shape[2:]
    return Case(
        draw(batch, channels, *size),
        (draw(batch, 2 * deformable * cells, *out) * spread).detach().requires_grad_(),
        draw(batch, deformable * cells, *out),
        draw(2 * groups, channels // groups, *kernel),
        draw(2 * groups),
    )


def looped(given: Case, geometry: Geometry) -> Tensor:
    """DCNv2 Eq. 1, one output and one cell of the kernel after the other."""
    maps, offset, mask, weight, bias = given
    stride, padding, dilation, groups = geometry
    kh, kw = weight.shape[2:]
    parts, columns = maps.shape[1] // (mask.shape[1] // (kh * kw)), []
    for b, i, j in torch.cartesian_prod(*map(torch.arange, (len(maps), *mask.shape[2:]))):
        for d, part in enumerate(torch.split(maps[b], parts)):
            for k in range(kh * kw):
                at = d * kh * kw + k
                y = i * stride - padding + k // kw * dilation + offset[b, 2 * at, i, j]
                x = j * stride - padding + k % kw * dilation + offset[b, 2 * at + 1, i, j]
                columns.append(mask[b, at, i, j] * bilinear(part, y, x))
    size = (len(maps), *mask.shape[2:])
    read = torch.stack(columns).view(*size, -1, kh * kw, parts).transpose(4, 5)
    read, kernel = (
        read.reshape(*size, groups, -1),
        weight.reshape(groups, len(weight) // groups, -1),
    )
    found = torch.einsum("bijgc,goc->bgoij", read, kernel)
    return found.flatten(1, 2) + bias.view(-1, 1, 1)


def apply(*inputs: Any) -> Tensor:
    return deform_conv(*inputs)


@examples(6)
@given(
    st.integers(3, 4),
    st.integers(3, 4),
    st.sampled_from([(1, 1), (3, 3), (2, 3)]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from([(1, 0, 1), (1, 1, 1), (2, 1, 1), (1, 2, 2)]),
)
def test_equals_loops_over_outputs_and_cells(
    height: int,
    width: int,
    kernel: tuple[int, int],
    groups: int,
    deformable: int,
    window: tuple[int, int, int],
) -> None:
    geometry = Geometry(*window, groups)
    given = case((height, width), kernel, geometry, deformable, batch=1)
    assert_same(apply(*given, geometry), looped(given, geometry), *given)


def test_gradients_are_those_of_differences() -> None:
    given = case((2, 2), (1, 2), deformable=2, batch=1)
    assert torch.autograd.gradcheck(lambda *x: apply(*x, PADDED), tuple(given))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_without_offsets_it_is_a_plain_convolution(
    stride: int, padding: int, dilation: int, groups: int
) -> None:
    geometry = Geometry(stride, padding, dilation, groups)
    maps, offset, mask, weight, bias = case((7, 6), (3, 3), geometry, 2)
    plain = F.conv2d(maps, weight, bias, *geometry)
    still, ones = torch.zeros_like(offset), torch.ones_like(mask)
    found = deform_conv(maps, still, ones, weight, bias, geometry)
    torch.testing.assert_close(found, plain)
    half = deform_conv(maps, still, ones / 2, weight, None, geometry)
    torch.testing.assert_close(half, (plain - bias.view(1, -1, 1, 1)) / 2)


def test_whole_offsets_shift_the_map_y_first() -> None:
    maps, offset, mask, weight, _ = case((6, 6), (1, 1), Geometry())
    down = torch.tensor([2.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1).expand_as(offset)
    found = deform_conv(maps, down, torch.ones_like(mask), weight)
    shifted = F.pad(maps, (1, 0, 0, 2))[:, :, 2:, :6]
    torch.testing.assert_close(found, F.conv2d(shifted, weight))


def test_far_offsets_read_zeros() -> None:
    maps, offset, mask, weight, bias = case((4, 4), (3, 3))
    found = deform_conv(maps, offset * 0 + 1e6, mask, weight, bias, PADDED)
    assert torch.equal(found, bias.view(1, -1, 1, 1).expand_as(found))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1)])
def test_maps_of_one_row_or_column(size: tuple[int, int]) -> None:
    given = case(size, (3, 3), spread=0.6, batch=1)
    assert_same(apply(*given, PADDED), looped(given, PADDED), *given)


def test_an_empty_batch_and_channels_last() -> None:
    given = case((5, 4), (3, 3), deformable=2)
    empty = [x[:0] for x in given[:3]]
    assert apply(*empty, *given[3:], PADDED).shape == (0, 2, 5, 4)
    last = [x.detach().to(memory_format=torch.channels_last) for x in given[:4]]
    assert torch.equal(apply(*last, given.bias, PADDED), apply(*given, PADDED))


def test_half_precision_keeps_positions() -> None:
    """Offsets of bfloat16 are added to positions in float32: column 300 is not rounded to 302."""
    maps = torch.zeros(1, 1, 1, 400)
    maps[..., 301] = 1
    offset, mask = torch.zeros(1, 2, 1, 400), torch.ones(1, 1, 1, 400)
    half = [x.bfloat16() for x in (maps, offset, mask, torch.ones(1, 1, 1, 1))]
    found = apply(*half)
    assert found.dtype == torch.bfloat16
    assert found[0, 0, 0].float().argmax() == 301


@pytest.mark.parametrize(
    ("part", "left", "message"),
    [
        ("offset", 1, "do not fit a kernel of 9 cells"),
        ("mask", 1, "do not fit a kernel of 9 cells"),
        ("maps", 1, "a map of 1 cells is smaller than the kernel"),
        ("maps", 2, "a map of 2 cells is smaller than the kernel"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(part: str, left: int, message: str) -> None:
    given = case((4, 4), (3, 3), Geometry())
    wrong = given._replace(**{part: getattr(given, part)[..., :left]})
    with pytest.raises(ValueError, match=message):
        apply(*wrong)
