from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from detectors.models.deconv import Deconv
from detectors.models.deform import DeformConv
from tests.examples import examples

NORMS: Any = ("batch", "group")


def halved(height: int, width: int, inputs: Sequence[int]) -> list[Tensor]:
    """Maps of a backbone, finest first: sizes halved and rounded up."""
    rng = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, -(-height // 2**i), -(-width // 2**i), generator=rng)
        for i, c in enumerate(inputs)
    ]


@examples(25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 4), st.sampled_from(NORMS))
def test_one_map_as_large_as_the_finest(
    height: int, width: int, count: int, norm: Literal["batch", "group"]
) -> None:
    inputs = [5, 6, 7, 8][:count]
    neck = Deconv(inputs, 8, norm).eval()
    (found,) = neck(halved(height, width, inputs))
    assert found.shape == (2, 8, height, width)


def test_sizes_of_the_published_weights() -> None:
    """ResNet-50 to stride 4: widths 256, 128, 64; norms count twice, convolutions have no bias."""
    with torch.device("meta"):
        neck = Deconv((256, 512, 1024, 2048), 64)
    blocks = sum(9 * a * b + 16 * b * b + 4 * b for a, b in [(2048, 256), (256, 128), (128, 64)])
    laterals = 1024 * 256 + 256 + 512 * 128 + 128 + 256 * 64 + 64
    output = 9 * 64 * 64 + 64
    assert sum(p.numel() for p in neck.parameters()) == blocks + laterals + output


def test_equals_its_blocks_one_by_one() -> None:
    torch.manual_seed(0)
    inputs = (3, 4, 5)
    neck, (fine, middle, coarse) = Deconv(inputs, 8, "group"), halved(9, 6, inputs)
    weights = neck.state_dict()
    for value in weights.values():
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape) + 0.5)

    def block(i: int, x: Tensor) -> Tensor:
        w = {name: weights[f"blocks.{i}.{name}"] for name in ("0.weight", "3.weight")}
        x = normed(F.conv2d(x, w["0.weight"], padding=1), f"blocks.{i}.1")
        return normed(transposed(x, w["3.weight"]), f"blocks.{i}.4")

    def normed(x: Tensor, at: str) -> Tensor:
        return F.relu(F.group_norm(x, 8, weights[f"{at}.weight"], weights[f"{at}.bias"]))

    def lateral(i: int, x: Tensor) -> Tensor:
        return F.conv2d(x, weights[f"laterals.{i}.weight"], weights[f"laterals.{i}.bias"])

    merged = block(0, coarse)[:, :, :5, :3] + lateral(0, middle)
    merged = block(1, merged)[:, :, :9, :6] + lateral(1, fine)
    reference = F.conv2d(merged, weights["output.weight"], weights["output.bias"], padding=1)
    (found,) = neck([fine, middle, coarse])
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4)


def transposed(x: Tensor, kernel: Tensor) -> Tensor:
    """Transposed convolution (4x4, stride 2, padding 1) as a plain one on a map spread by zeros."""
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, 2 * height - 1, 2 * width - 1)
    spread[:, :, ::2, ::2] = x
    return F.conv2d(spread, kernel.flip(2, 3).transpose(0, 1), padding=2)


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)])
def test_the_norm_is_that_of_the_options(
    norm: Literal["batch", "group"], kind: type[nn.Module]
) -> None:
    neck = Deconv((8, 8, 8), 16, norm)
    found = [m for m in neck.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]
    assert [type(m) for m in found] == [kind] * 4


def test_batch_norm_is_the_default_and_widths_halve() -> None:
    modules = Deconv((8, 8, 8), 16).modules()
    widths = [m.num_features for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert widths == [32, 32, 16, 16]


def test_channels_that_group_norm_cannot_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by num_groups"):
        Deconv((8, 8), 12, "group")


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_reach_all_parts(norm: Literal["batch", "group"]) -> None:
    torch.manual_seed(0)
    inputs = (4, 6, 8, 10)
    neck, given = Deconv(inputs, 8, norm), halved(17, 11, inputs)
    for x in given:
        x.requires_grad_()
    (found,) = neck(given)
    found.square().mean().backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(x.grad is not None and x.grad.any() for x in given)


def test_initial_weights_are_uniform_within_xaviers_bound() -> None:
    torch.manual_seed(0)
    for name, weight in Deconv((16, 32, 64), 16).named_parameters():
        if weight.dim() > 1:
            inputs, outputs, *kernel = weight.shape
            bound = (6 / ((inputs + outputs) * torch.Size(kernel).numel())) ** 0.5
            assert 0.9 * bound < weight.abs().max() <= bound, name


def test_deformable_blocks_are_half_of_plain_ones_at_first() -> None:
    """Offsets are 0 and factors 0.5, although other weights are Xavier-uniform."""
    torch.manual_seed(0)
    inputs = (4, 6)
    deformable, plain = (Deconv(inputs, 8, "group", deformable=d) for d in (True, False))
    own = plain.state_dict()
    plain.load_state_dict({k: v for k, v in deformable.state_dict().items() if k in own})
    given = halved(9, 6, inputs)
    half = deformable.get_submodule("blocks.0.0")(given[1])
    torch.testing.assert_close(half, plain.get_submodule("blocks.0.0")(given[1]) / 2)
    # Group norm divides the factor out.
    torch.testing.assert_close(deformable(given)[0], plain(given)[0], rtol=1e-3, atol=1e-3)


def test_offsets_learn_and_move_what_is_read() -> None:
    torch.manual_seed(0)
    neck, given = Deconv((4, 6), 8, "group", deformable=True), halved(9, 6, (4, 6))
    before = neck(given)[0]
    before.square().mean().backward()
    weight = neck.get_parameter("blocks.0.0.offsets.weight")
    assert weight.grad is not None
    assert (weight.grad.abs().amax((1, 2, 3)) > 0).all()
    with torch.no_grad():
        neck.get_parameter("blocks.0.0.offsets.bias")[0] = 1.5
    assert not torch.allclose(neck(given)[0], before)


def test_channels_of_offsets_come_first_and_y_before_x() -> None:
    """As in detectron2 and mmcv: all cells read one column to the right, with factors of 0.5."""
    torch.manual_seed(0)
    conv, x = DeformConv(4, 6), torch.randn(1, 4, 5, 7)
    with torch.no_grad():
        conv.offsets.get_parameter("bias")[:18].copy_(torch.tensor([0.0, 1.0]).repeat(9))
    plain = F.conv2d(F.pad(x, (0, 2, 1, 1)), conv.weight) / 2
    torch.testing.assert_close(conv(x), plain, rtol=1e-4, atol=1e-5)


def test_parameters_that_deformable_convolutions_add() -> None:
    """27 channels of a 3x3 convolution per block (2048, 256 and 128 inputs): 0.59 million."""
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in Deconv((256, 512, 1024, 2048), 64, deformable=d).parameters())
            for d in (False, True)
        ]
    assert sizes[1] - sizes[0] == sum(27 * (9 * c + 1) for c in (2048, 256, 128)) == 591_057
