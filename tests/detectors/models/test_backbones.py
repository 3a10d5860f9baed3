import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from detectors.models.backbone_base import BackboneOptions
from detectors.models.backbones import BACKBONES, Tiny
from detectors.models.resnet import ResNet

KINDS: dict[str, BackboneOptions] = {
    "tiny": Tiny(),
    "resnet": ResNet(depth=18, frozen_bn=False, frozen_stages=0),
}


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([(8, 16), (16, 8, 24), (8, 8, 8, 16)])
)
def test_maps_of_any_size_are_rounded_up(
    height: int, width: int, channels: tuple[int, ...]
) -> None:
    trunk = Tiny(channels=channels).build()
    maps = trunk(torch.zeros(2, 3, height, width))
    assert trunk.channels == channels
    assert trunk.strides == (4, 8, 16, 32)[: len(channels)]
    expected = [
        (2, c, -(-height // s), -(-width // s))
        for c, s in zip(channels, trunk.strides, strict=True)
    ]
    assert [tuple(x.shape) for x in maps] == expected


@pytest.mark.parametrize("channels", [(8, 12), (0, 8), (-8, 16), (8, 7)])
def test_channels_fit_the_group_norm(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="must be positive multiples of 8, got"):
        Tiny(channels=channels)


def test_the_table_is_tested_whole() -> None:
    assert {name: type(options) for name, options in KINDS.items()} == BACKBONES
    assert all(options.model_dump()["name"] == name for name, options in KINDS.items())


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
class TestEveryBackbone:
    def test_states_its_channels_and_strides(self, options: BackboneOptions) -> None:
        trunk = options.build()
        maps = trunk(torch.zeros(1, 3, 64, 128))
        assert [x.shape[1] for x in maps] == list(trunk.channels)
        found = [(64 // x.shape[2], 128 // x.shape[3]) for x in maps]
        assert found == [(s, s) for s in trunk.strides]
        assert list(trunk.strides) == sorted(set(trunk.strides))

    def test_normalises_pixels(self, options: BackboneOptions) -> None:
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(256, (2, 3, 64, 64), generator=rng).to(torch.uint8)
        normalised = options.build().normalise(images)
        assert normalised.shape == images.shape
        assert normalised.mean().abs() < 0.3
        assert 0.9 < normalised.std() < 1.5

    def test_images_of_a_batch_do_not_see_each_other(self, options: BackboneOptions) -> None:
        torch.manual_seed(0)
        trunk, images = options.build().eval(), torch.randn(3, 3, 33, 47)
        whole, alone = trunk(images), trunk(images[1:2])
        for a, b in zip(whole, alone, strict=True):
            torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)
