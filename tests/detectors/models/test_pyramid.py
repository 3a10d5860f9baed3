import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.models.pyramid import FeaturePyramid

SIZES = [(9, 7), (5, 4), (3, 2)]


def maps(seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    channels = (4, 6, 8)
    return [
        torch.randn(2, c, h, w, generator=rng, requires_grad=True)
        for c, (h, w) in zip(channels, SIZES, strict=True)
    ]


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_sizes_of_all_levels(extra: int) -> None:
    levels = FeaturePyramid((4, 6, 8), 16, extra)(maps())
    expected = [*SIZES, (2, 1), (1, 1)][: 3 + extra]
    assert [tuple(x.shape) for x in levels] == [(2, 16, h, w) for h, w in expected]


def test_equals_the_sums_written_out() -> None:
    torch.manual_seed(1)
    pyramid, (fine, middle, coarse) = FeaturePyramid((4, 6, 8), 16, 2), maps()
    lateral, output, extra = pyramid.laterals, pyramid.outputs, pyramid.extras

    def enlarged(x: Tensor, height: int, width: int) -> Tensor:
        rows = torch.arange(height) * x.shape[2] // height
        columns = torch.arange(width) * x.shape[3] // width
        return x[:, :, rows][:, :, :, columns]

    m3 = lateral[2](coarse)
    m2 = lateral[1](middle) + enlarged(m3, 5, 4)
    m1 = lateral[0](fine) + enlarged(m2, 9, 7)
    p3 = output[2](m3)
    p4 = extra[0](p3)
    expected = [output[0](m1), output[1](m2), p3, p4, extra[1](F.relu(p4))]
    for found, wanted in zip(pyramid([fine, middle, coarse]), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_level_sees_coarser_maps_and_not_finer_ones() -> None:
    given = maps()
    levels = FeaturePyramid((4, 6, 8), 16, 0)(given)
    for i, level in enumerate(levels):
        seen = torch.autograd.grad(level.sum(), given, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in seen] == [j >= i for j in range(3)]
