import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.models.operators.roi_align import roi_align, roi_align_levels
from tests.detectors.models.operators.bilinear import assert_same
from tests.examples import examples


def draw_maps(height: int, width: int, batch: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    maps = torch.randn(batch, 2, height, width, generator=rng, dtype=torch.float64)
    return maps.requires_grad_()


def draw_boxes(count: int, size: float, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Boxes that may leave the map, and their images."""
    rng = torch.Generator().manual_seed(2)
    corner = (1.4 * torch.rand(count, 2, generator=rng) - 0.3) * size
    side = torch.rand(count, 2, generator=rng) * size
    image = torch.randint(batch, (count,), generator=rng)
    return torch.cat([corner, corner + side], 1).double(), image


def clamped(maps: Tensor, y: float, x: float) -> Tensor:
    """Sample maps [C, H, W]: border values up to one cell outside, then 0."""
    _, height, width = maps.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return maps.new_zeros(len(maps))
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * maps[:, top, left] + dx * maps[:, top, right]
    lower = (1 - dx) * maps[:, bottom, left] + dx * maps[:, bottom, right]
    return (1 - dy) * upper + dy * lower


def looped(
    maps: Tensor, boxes: Tensor, image: Tensor, stride: float, side: int, samples: int
) -> Tensor:
    """Detectron2's RoIAlignV2, one sample after the other."""
    found = []
    for k in range(len(boxes)):
        x1, y1, x2, y2 = (boxes[k] / stride - 0.5).tolist()
        high, wide = (y2 - y1) / side, (x2 - x1) / side
        rows, columns = samples or math.ceil(high), samples or math.ceil(wide)
        for i in range(side):
            for j in range(side):
                total = 0 * maps[0, :, 0, 0]
                for a in range(rows):
                    for b in range(columns):
                        y = y1 + i * high + (a + 0.5) * high / rows
                        x = x1 + j * wide + (b + 0.5) * wide / columns
                        total = total + clamped(maps[image[k]], y, x)
                found.append(total / max(rows * columns, 1))
    shape = (len(boxes), side, side, maps.shape[1])
    return torch.stack(found).view(shape).permute(0, 3, 1, 2)


@examples(6)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2),
    st.sampled_from([1.0, 2.5]),
)
def test_equals_loops_over_boxes_bins_and_samples(
    height: int, width: int, count: int, side: int, samples: int, stride: float
) -> None:
    maps = draw_maps(height, width)
    boxes, image = draw_boxes(count, 6 * stride)
    found = roi_align(maps, boxes, image, stride, side=side, samples=samples)
    assert_same(found, looped(maps, boxes, image, stride, side, samples), maps)


@pytest.mark.parametrize("samples", [0, 2])
def test_gradients_are_those_of_differences(samples: int) -> None:
    boxes, image = draw_boxes(3, 4.0)
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, boxes, image, 1.0, side=2, samples=samples), draw_maps(3, 4)
    )


@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_linear_maps_are_read_at_the_centres_of_bins(samples: int) -> None:
    """On a map of x coordinates, the mean of a bin is the x of its centre."""
    at = torch.arange(16.0) + 0.5
    maps = torch.stack([at.expand(16, 16), at[:, None].expand(16, 16)])[None] * 4
    box = torch.tensor([[10.0, 6.0, 38.0, 48.0]])
    found = roi_align(maps, box, torch.tensor([0]), 4.0, side=7, samples=samples)
    x, y = 10 + 4 * (torch.arange(7) + 0.5), 6 + 6 * (torch.arange(7) + 0.5)
    torch.testing.assert_close(found[0, 0], x.expand(7, 7))
    torch.testing.assert_close(found[0, 1], y[:, None].expand(7, 7))


@pytest.mark.parametrize("samples", [0, 2])
def test_each_box_reads_its_own_image_and_order_does_not_matter(samples: int) -> None:
    maps = draw_maps(5, 6)
    boxes, image = draw_boxes(7, 6.0)
    found = roi_align(maps, boxes, image, 1.0, samples=samples)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    assert torch.equal(
        roi_align(maps, boxes[order], image[order], 1.0, samples=samples), found[order]
    )
    for k in range(7):
        alone = maps[image[k] : image[k] + 1]
        one = roi_align(alone, boxes[k : k + 1], torch.tensor([0]), 1.0, samples=samples)
        torch.testing.assert_close(one[0], found[k])


@pytest.mark.parametrize("samples", [0, 2])
def test_no_boxes_boxes_without_area_and_boxes_outside(samples: int) -> None:
    maps = draw_maps(4, 4)
    nothing = torch.zeros(0, dtype=torch.int64)
    none = roi_align(maps, torch.zeros(0, 4), nothing, 1.0, samples=samples)
    assert none.shape == (0, 2, 7, 7)
    assert not torch.autograd.grad(none.sum(), maps)[0].any()
    odd = torch.tensor([[2.0, 2.0, 2.0, 2.0], [3.0, 3.0, 1.0, 1.0], [90.0, 90.0, 99.0, 99.0]])
    images = torch.zeros(3, dtype=torch.int64)
    found = roi_align(maps, odd, images, 1.0, side=2, samples=samples)
    torch.testing.assert_close(found, looped(maps, odd, images, 1.0, 2, samples))
    assert not found[2].any()


def test_half_precision_is_read_in_float32() -> None:
    boxes, image = draw_boxes(3, 6.0)
    maps = draw_maps(5, 6).detach().bfloat16()
    found = roi_align(maps, boxes.float(), image, 1.0)
    torch.testing.assert_close(found, roi_align(maps.float(), boxes.float(), image, 1.0))


@examples(6)
@given(st.integers(0, 6), st.integers(0, 2), st.integers(0, 999))
def test_levels_of_a_pyramid_are_read_as_each_alone(count: int, samples: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    maps, strides = [draw_maps(6, 5), draw_maps(3, 3), draw_maps(1, 2)], [2.0, 4.0, 8.0]
    boxes, image = draw_boxes(count, 12.0)
    level = torch.randint(3, (count,), generator=rng)
    levels = [*zip(maps, strides, strict=True)]
    found = roi_align_levels(levels, boxes, image, level, side=2, samples=samples)
    weights = torch.randn(found.shape, generator=rng).double()
    gradients = torch.autograd.grad((found * weights).sum(), maps)
    for i, each in enumerate(maps):
        own = level == i
        alone = roi_align(each, boxes[own], image[own], strides[i], side=2, samples=samples)
        torch.testing.assert_close(found[own], alone)
        (gradient,) = torch.autograd.grad((alone * weights[own]).sum(), each)
        torch.testing.assert_close(gradients[i], gradient)


def test_boxes_that_are_not_finite_read_zeros() -> None:
    """The loss then reports them; an index outside of the map would end the process first."""
    boxes = torch.tensor([[math.nan] * 4, [0.0, 0.0, math.inf, 4.0], [-math.inf, 0.0, 3.0, 3.0]])
    found = roi_align(draw_maps(4, 4).float(), boxes, torch.zeros(3, dtype=torch.int64), 1.0)
    assert not found.any()
