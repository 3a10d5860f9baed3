import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.models.max_filter import MaxFilter3d
from tests.examples import examples

SIZES = [(7, 6), (4, 3), (2, 2), (1, 1)]


def levels(count: int, channels: int = 4, seed: int = 1) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, h, w, generator=rng) for h, w in SIZES[:count]]


def looped(given: list[Tensor], own: int, tau: int, phi: int) -> Tensor:
    """003 Eq. 6: at every cell the maximum over a window of levels and cells."""
    height, width = given[own].shape[-2:]
    near = [
        F.interpolate(given[other], (height, width), mode="bilinear", align_corners=False)
        for other in range(len(given))
        if abs(other - own) <= tau // 2
    ]
    found = torch.empty_like(given[own])
    for y in range(height):
        for x in range(width):
            rows = range(max(0, y - phi // 2), min(height, y + phi // 2 + 1))
            columns = range(max(0, x - phi // 2), min(width, x + phi // 2 + 1))
            window = [level[:, :, i, j] for level in near for i in rows for j in columns]
            found[:, :, y, x] = torch.stack(window).amax(0)
    return found


@examples(25)
@given(
    st.integers(1, 4), st.sampled_from([0, 2, 4]), st.sampled_from([1, 3, 5]), st.integers(0, 99)
)
def test_is_the_maximum_over_neighbours_in_space_and_scale(
    count: int, tau: int, phi: int, seed: int
) -> None:
    """The first and last levels have neighbours on one side only."""
    given = levels(count, seed=seed)
    found = MaxFilter3d(4, tau, phi, groups=2).filter(given)
    for own in range(count):
        torch.testing.assert_close(found[own], looped(given, own, tau, phi))


@pytest.mark.parametrize("groups", [0, 2])
def test_without_a_window_it_is_convolution_residual_norm_and_relu(groups: int) -> None:
    """003 Table 6, tau 0 and phi 1."""
    module, given = MaxFilter3d(4, tau=0, phi=1, groups=groups), levels(3)
    norm = torch.nn.GroupNorm(groups, 4) if groups else torch.nn.Identity()
    for found, x in zip(module(given), given, strict=True):
        assert torch.equal(found, norm(module.conv(x) + x).relu())


@pytest.mark.parametrize("groups", [0, 2])
def test_it_is_the_normed_sum_of_input_and_filtered_convolution(groups: int) -> None:
    torch.manual_seed(0)
    module, given = MaxFilter3d(4, tau=2, phi=3, groups=groups), levels(4)
    if groups:
        assert isinstance(module.norm, torch.nn.GroupNorm)
        torch.nn.init.uniform_(module.norm.weight)
        torch.nn.init.uniform_(module.norm.bias)
    convolved = [module.conv(x) for x in given]
    for own, (found, x) in enumerate(zip(module(given), given, strict=True)):
        torch.testing.assert_close(found, module.norm(looped(convolved, own, 2, 3) + x).relu())


def test_a_single_level_of_one_cell() -> None:
    module, x = MaxFilter3d(4, tau=2, phi=3, groups=2), torch.randn(1, 4, 1, 1)
    assert torch.equal(module.filter([x])[0], x)
