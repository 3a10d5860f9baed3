from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.models.pyramid import FeaturePyramid, TopDown
from tests.examples import examples

SIZES = [(9, 7), (5, 4), (3, 2)]
SOURCES: Any = ("p5", "c5")


def maps(seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    channels = (4, 6, 8)
    return [
        torch.randn(2, c, h, w, generator=rng, requires_grad=True)
        for c, (h, w) in zip(channels, SIZES, strict=True)
    ]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("extra", [0, 1, 2, 3])
def test_sizes_of_all_levels(extra: int, source: Literal["p5", "c5"]) -> None:
    levels = FeaturePyramid((4, 6, 8), 16, extra, source)(maps())
    expected = [*SIZES, (2, 1), (1, 1), (1, 1)][: 3 + extra]
    assert [tuple(x.shape) for x in levels] == [(2, 16, h, w) for h, w in expected]


@examples(25)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(0, 3),
    st.sampled_from(SOURCES),
)
def test_sizes_of_any_maps(
    height: int, width: int, count: int, extra: int, source: Literal["p5", "c5"]
) -> None:
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(count + extra)]
    given = [torch.zeros(1, 3 + i, *sizes[i]) for i in range(count)]
    inputs = [x.shape[1] for x in given]
    levels = FeaturePyramid(inputs, 8, extra, source)(given)
    assert [tuple(x.shape) for x in levels] == [(1, 8, *size) for size in sizes]
    (finest,) = TopDown(inputs, 8)(given)
    assert finest.shape == levels[0].shape


def enlarged(x: Tensor, height: int, width: int) -> Tensor:
    rows = torch.arange(height) * x.shape[2] // height
    columns = torch.arange(width) * x.shape[3] // width
    return x[:, :, rows][:, :, :, columns]


@pytest.mark.parametrize("source", SOURCES)
def test_equals_its_sums_one_by_one(source: Literal["p5", "c5"]) -> None:
    torch.manual_seed(1)
    pyramid, (fine, middle, coarse) = FeaturePyramid((4, 6, 8), 16, 2, source), maps()
    lateral, output, extra = pyramid.laterals, pyramid.outputs, pyramid.extras
    m3 = lateral[2](coarse)
    m2 = lateral[1](middle) + enlarged(m3, 5, 4)
    m1 = lateral[0](fine) + enlarged(m2, 9, 7)
    p3 = output[2](m3)
    p4 = extra[0](p3 if source == "p5" else coarse)
    expected = [output[0](m1), output[1](m2), p3, p4, extra[1](F.relu(p4))]
    for found, reference in zip(pyramid([fine, middle, coarse]), expected, strict=True):
        torch.testing.assert_close(found, reference)


def test_a_level_depends_on_coarser_maps_and_not_on_finer_ones() -> None:
    given = maps()
    levels = FeaturePyramid((4, 6, 8), 16, 0)(given)
    for i, level in enumerate(levels):
        seen = torch.autograd.grad(level.sum(), given, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in seen] == [j >= i for j in range(3)]


@pytest.mark.parametrize(("source", "more"), [("p5", 16), ("c5", 8)])
def test_sizes_of_the_weights(source: Literal["p5", "c5"], more: int) -> None:
    pyramid = FeaturePyramid((4, 6, 8), 16, 2, source)
    merging, outputs = (4 + 6 + 8 + 3) * 16, 3 * (9 * 16 * 16 + 16)
    extras = 9 * more * 16 + 16 + 9 * 16 * 16 + 16
    assert sum(p.numel() for p in pyramid.parameters()) == merging + outputs + extras
    alone = sum(p.numel() for p in TopDown((4, 6, 8), 16).parameters())
    assert alone == merging + outputs // 3


def test_the_source_of_extra_levels_changes_neither_the_others_nor_their_initial_weights() -> None:
    levels = []
    for source in SOURCES:
        torch.manual_seed(0)
        levels.append(FeaturePyramid((4, 6, 8), 16, 1, source)(maps()))
    assert all(torch.equal(a, b) for a, b in zip(levels[0][:3], levels[1][:3], strict=True))
    assert not torch.equal(levels[0][3], levels[1][3])


def test_extra_levels_from_the_backbone_do_not_train_the_pyramid() -> None:
    pyramid, given = FeaturePyramid((4, 6, 8), 16, 1, "c5"), maps()
    pyramid(given)[3].square().sum().backward()
    trained = {name for name, p in pyramid.named_parameters() if p.grad is not None}
    assert trained == {"extras.0.weight", "extras.0.bias"}
    assert [x.grad is not None for x in given] == [False, False, True]


def test_top_down_is_the_pyramids_finest_level() -> None:
    torch.manual_seed(0)
    pyramid, neck, given = FeaturePyramid((4, 6, 8), 16, 0), TopDown((4, 6, 8), 16), maps()
    neck.laterals.load_state_dict(pyramid.laterals.state_dict())
    neck.output.load_state_dict(pyramid.outputs[0].state_dict())
    (found,) = neck(given)
    assert torch.equal(found, pyramid(given)[0])
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in neck.parameters())
    assert all(x.grad is not None and x.grad.any() for x in given)
