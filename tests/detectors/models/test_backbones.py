import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from detectors.models.backbone_base import BackboneOptions
from detectors.models.backbones import BACKBONES, Tiny
from detectors.models.resnet import ResNet
from detectors.models.timm_backbone import Timm
from tests.examples import examples

KINDS: dict[str, BackboneOptions] = {
    "tiny": Tiny(),
    "deeper": Tiny(blocks=2),
    "resnet": ResNet(depth=18, bn="trained", frozen_stages=0),
    "resnext": ResNet(
        depth=50, groups=2, width_per_group=4, bn="trained", frozen_stages=0, finest=4
    ),
}
"""Those that build without a further library; for `timm` see test_timm_backbone."""


@examples(25)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([(8, 16), (16, 8, 24), (8, 8, 8, 16)]),
    st.integers(1, 3),
)
def test_maps_of_any_size_are_rounded_up(
    height: int, width: int, channels: tuple[int, ...], blocks: int
) -> None:
    backbone = Tiny(channels=channels, blocks=blocks).build()
    maps = backbone(torch.zeros(2, 3, height, width))
    assert backbone.channels == channels
    assert backbone.strides == (4, 8, 16, 32)[: len(channels)]
    expected = [
        (2, c, -(-height // s), -(-width // s))
        for c, s in zip(channels, backbone.strides, strict=True)
    ]
    assert [tuple(x.shape) for x in maps] == expected


@pytest.mark.parametrize("channels", [(8, 12), (0, 8), (-8, 16), (8, 7)])
def test_channels_fit_the_group_norm(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="must be positive multiples of 8, got"):
        Tiny(channels=channels)


def drawn(blocks: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Tiny(blocks=blocks).build().state_dict()


@pytest.mark.parametrize("blocks", [2, 4])
def test_a_deeper_tiny_backbone_contains_the_default_one(blocks: int) -> None:
    plain, deeper = drawn(1), drawn(blocks)
    assert all(torch.equal(value, deeper[name]) for name, value in plain.items())
    more = deeper.keys() - plain.keys()
    assert {name.split(".")[0] for name in more} == {"further"}
    assert {tuple(map(int, name.split(".")[1:3])) for name in more} == {
        (stage, block) for stage in range(3) for block in range(blocks - 1)
    }
    # Two 3x3 convolutions and two norms per block; the shortcut is the input.
    expected = sum(2 * 9 * c * c + 4 * c for c in (16, 32, 48)) * (blocks - 1)
    assert sum(deeper[name].numel() for name in more) == expected


def test_parameters_of_the_default_tiny_backbone() -> None:
    assert list(drawn(1))[:3] == ["stem.0.0.weight", "stem.0.1.weight", "stem.0.1.bias"]
    assert "blocks.2.shortcut.0.weight" in drawn(1)
    assert not [name for name in drawn(1) if not name.startswith(("stem.", "blocks."))]


def test_an_extra_block_is_residual() -> None:
    backbone = Tiny(channels=(8, 16), blocks=2).build()
    for name, parameter in backbone.named_parameters():
        if name.startswith("further") and ".second.1." in name:
            torch.nn.init.zeros_(parameter)
    shallow = Tiny(channels=(8, 16)).build()
    shallow.load_state_dict(backbone.state_dict(), strict=False)
    images = torch.randn(1, 3, 33, 20, generator=torch.Generator().manual_seed(0))
    for deep, plain in zip(backbone(images), shallow(images), strict=True):
        assert torch.equal(deep, plain)


def test_every_entry_of_the_table_is_tested() -> None:
    tested = {options.model_dump()["name"]: type(options) for options in (*KINDS.values(), Timm())}
    assert tested == BACKBONES


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
class TestEveryBackbone:
    def test_channels_and_strides_are_those_of_its_maps(self, options: BackboneOptions) -> None:
        backbone = options.build()
        maps = backbone(torch.zeros(1, 3, 64, 128))
        assert [x.shape[1] for x in maps] == list(backbone.channels)
        found = [(64 // x.shape[2], 128 // x.shape[3]) for x in maps]
        assert found == [(s, s) for s in backbone.strides]
        assert list(backbone.strides) == sorted(set(backbone.strides))
        assert options.finest_stride == backbone.strides[0]

    def test_gradients_reach_every_parameter(self, options: BackboneOptions) -> None:
        torch.manual_seed(0)
        backbone = options.build()
        maps = backbone(torch.randn(2, 3, 64, 64))
        loss = torch.stack([x.square().mean() for x in maps]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in backbone.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_normalises_pixels(self, options: BackboneOptions) -> None:
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(256, (2, 3, 64, 64), generator=rng).to(torch.uint8)
        normalised = options.build().normalise(images)
        assert normalised.shape == images.shape
        assert normalised.mean().abs() < 0.3
        assert 0.9 < normalised.std() < 1.5

    def test_images_of_a_batch_do_not_affect_each_other(self, options: BackboneOptions) -> None:
        torch.manual_seed(0)
        backbone, images = options.build().eval(), torch.randn(3, 3, 33, 47)
        whole, alone = backbone(images), backbone(images[1:2])
        for a, b in zip(whole, alone, strict=True):
            torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)
