"""CondInst's networks of points against loops over pixels, and the mask branch."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.losses import dice
from detectors.models.condinst import MaskBranch, enlarged, mask_logits
from detectors.models.fcos import FcosOptions
from detectors.models.mask_options import CondInst
from detectors.models.retinanet import RetinaNetOptions
from tests.detectors import miniature as mini
from tests.examples import examples


def by_loops(
    features: Tensor, parameters: Tensor, xy: Tensor, stride: float, finest: int
) -> Tensor:
    """The mask of one point, pixel by pixel. features: [C, h, w]; parameters: [P]."""
    channels, height, width = features.shape
    sizes = [(channels + 2, channels), (channels, channels), (channels, 1)]
    start, layers = 0, []
    for inputs, outputs in sizes:
        layers.append(parameters[start : start + inputs * outputs].reshape(outputs, inputs))
        start += inputs * outputs
    biases = []
    for _, outputs in sizes:
        biases.append(parameters[start : start + outputs])
        start += outputs
    assert start == len(parameters)
    result = torch.zeros(height, width)
    for row in range(height):
        for column in range(width):
            x, y = (column + 0.5) * finest, (row + 0.5) * finest
            relative = [(xy[0] - x) / (8 * stride), (xy[1] - y) / (8 * stride)]
            value = torch.cat([torch.tensor(relative), features[:, row, column]])
            value = (layers[0] @ value + biases[0]).clamp(min=0)
            value = (layers[1] @ value + biases[1]).clamp(min=0)
            result[row, column] = layers[2] @ value + biases[2]
    return result


@examples(20)
@given(st.data())
def test_masks_of_points_are_those_of_loops(data: st.DataObject) -> None:
    channels, points, images = (data.draw(st.integers(*most)) for most in ((1, 8), (0, 4), (1, 2)))
    height, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    features = torch.randn(images, channels, height, width, generator=rng)
    number = CondInst(channels=channels).parameters
    parameters = torch.randn(points, number, generator=rng)
    image = torch.randint(images, (points,), generator=rng)
    xy, stride = 40 * torch.rand(points, 2, generator=rng), 2.0 ** torch.arange(2, points + 2)
    found = mask_logits(features, image, parameters, xy, stride, 8)
    assert found.shape == (points, height, width)
    for k in range(points):
        expected = by_loops(features[image[k]], parameters[k], xy[k], float(stride[k]), 8)
        torch.testing.assert_close(found[k], expected, rtol=1e-4, atol=1e-4)
    order = torch.randperm(points, generator=rng)
    permuted = mask_logits(features, image[order], parameters[order], xy[order], stride[order], 8)
    torch.testing.assert_close(permuted, found[order])


def test_masks_and_their_loss_are_those_of_the_released_code() -> None:
    """Numbers of AdelaiDet's dynamic head and dice loss for the same inputs (strides 8 to 128)."""
    features = torch.sin(torch.arange(96.0)).reshape(2, 8, 2, 3)
    parameters = torch.cos(torch.arange(507.0) * 0.7).reshape(3, 169)
    image, stride = torch.tensor([0, 1, 1]), torch.tensor([8.0, 32, 128])
    xy = torch.tensor([[4.0, 12], [16, 16], [64, 64]])
    found = mask_logits(features, image, parameters, xy, stride, 8)
    released = [
        [[-0.622670, -8.836480, -6.740345], [6.178613, 12.909252, 9.650469]],
        [[16.427174, 7.413205, -3.108912], [-7.335018, -2.818099, 9.236902]],
        [[2.386525, -3.921468, -7.515822], [-6.547259, 1.475577, 5.391137]],
    ]
    torch.testing.assert_close(found, torch.tensor(released), rtol=1e-5, atol=1e-5)
    target = (torch.arange(18.0).reshape(3, 2, 3) % 2).float()
    loss = torch.tensor([0.346806, 0.333751, 0.629920])
    torch.testing.assert_close(dice(found, target), loss, rtol=1e-5, atol=1e-5)


def test_the_published_network_of_a_point_has_169_parameters() -> None:
    assert CondInst().parameters == 169


def test_logits_are_enlarged_around_the_centres_of_pixels() -> None:
    """A plane stays the same plane, away from the border."""
    y, x = torch.arange(5.0)[:, None] + 0.5, torch.arange(6.0) + 0.5
    larger = enlarged((3 * y - 2 * x)[None], 2)[0]
    y, x = (torch.arange(10.0)[:, None] + 0.5) / 2, (torch.arange(12.0) + 0.5) / 2
    torch.testing.assert_close(larger[1:-1, 1:-1], (3 * y - 2 * x)[1:-1, 1:-1])
    assert torch.equal(enlarged(larger[None], 1)[0], larger)
    assert enlarged(torch.zeros(0, 5, 6), 2).shape == (0, 10, 12)


@pytest.mark.parametrize("norm", get_args(CondInst.model_fields["norm"].annotation))
@pytest.mark.parametrize("levels", [1, 2, 5])
def test_the_mask_branch_reads_the_three_finest_levels(norm: str, levels: int) -> None:
    torch.manual_seed(0)
    options = CondInst.model_validate({"width": 8, "convs": 1, "channels": 3, "norm": norm})
    branch = MaskBranch(options, 4, levels).eval()
    maps = [torch.randn(2, 4, 16 // 2**i, 16 // 2**i) for i in range(levels)]
    found = branch(maps, ["o2o"])["o2o"]
    assert found.shape == (2, 3, 16, 16)
    used = [refine(level) for refine, level in zip(branch.refine, maps, strict=False)]
    merged = sum(F.interpolate(each, (16, 16), mode="bilinear") for each in used)
    torch.testing.assert_close(found, branch.output(branch.tower(merged)))
    assert len(used) == min(levels, 3)


@pytest.mark.parametrize("options", [FcosOptions(), RetinaNetOptions()])
def test_weights_that_are_not_of_masks_are_the_same_with_masks(
    options: FcosOptions | RetinaNetOptions,
) -> None:
    built = []
    for masks in (None, CondInst()):
        torch.manual_seed(0)
        built.append(options.model_copy(update={"masks": masks}).build(2, ("o2o",)).state_dict())
    plain, segmenting = built
    assert plain.keys() < segmenting.keys()
    assert all(torch.equal(value, segmenting[name]) for name, value in plain.items())
    more = segmenting.keys() - plain.keys()
    assert {name.split(".")[0] for name in more} == {"mask_branch", "head"}
    count = 9 if isinstance(options, RetinaNetOptions) else 1
    assert segmenting["head.predictors.o2o.controller.weight"].shape[0] == 169 * count


def test_gradients_of_a_detached_branch_do_not_reach_the_mask_branch() -> None:
    model = mini.detector(*mini.SETUPS["dual with masks"])
    images = mini.batch([1, 2]).images
    masks = model(images).masks
    assert not masks["o2o"].requires_grad
    assert masks["o2m"].requires_grad
    assert torch.equal(masks["o2o"], masks["o2m"])
    assert list(model(images, branches=["o2o"]).masks) == ["o2o"]
