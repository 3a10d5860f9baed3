import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from detectors.models.gates import GATES, Centerness, GateOptions, MaxFilter, NoGate, gated
from tests.examples import examples

SIZES = [(6, 5), (3, 3), (2, 2), (1, 1)]
ordinary = st.floats(-12, 12)


def levels(channels: int = 16) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(2, channels, h, w, generator=rng) for h, w in SIZES]


def built(options: GateOptions, anchors: int) -> nn.Module:
    torch.manual_seed(0)
    module = options.build(16, 4, anchors)
    assert module is not None
    return module


@examples(30)
@given(st.lists(st.tuples(ordinary, ordinary), min_size=1, max_size=8))
def test_gated_is_the_logit_of_the_product(pairs: list[tuple[float, float]]) -> None:
    logits, gate = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    product = logits.sigmoid() * gate.sigmoid()
    torch.testing.assert_close(gated(logits, gate), (product / (1 - product)).log())
    single = gated(logits.float(), gate.float())
    torch.testing.assert_close(single.double(), gated(logits, gate), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x", [-1e4, -80.0, 0.0, 80.0, 1e4])
@pytest.mark.parametrize("g", [-1e4, -80.0, 0.0, 80.0, 1e4])
def test_gated_and_its_gradients_are_finite_at_any_size(
    x: float, g: float, dtype: torch.dtype
) -> None:
    logits = torch.tensor([x], dtype=dtype, requires_grad=True)
    gate = torch.tensor([g], dtype=dtype, requires_grad=True)
    found = gated(logits, gate)
    found.backward()  # type: ignore[no-untyped-call]
    assert found.isfinite()
    assert found.dtype == dtype
    for values in (logits, gate):
        assert values.grad is not None
        assert 0 <= values.grad.item() <= 1


def test_gated_gradients_are_those_of_the_product() -> None:
    logits = torch.linspace(-6, 6, 7, dtype=torch.float64, requires_grad=True)
    gate = torch.linspace(5, -5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gated, (logits, gate))
    p, q = logits.sigmoid(), gate.sigmoid()
    (log_odds,) = torch.autograd.grad((p * q / (1 - p * q)).log().sum(), logits)
    (found,) = torch.autograd.grad(gated(logits, gate).sum(), logits)
    torch.testing.assert_close(found, log_odds)


def test_an_open_gate_keeps_the_score_and_a_closed_one_makes_it_zero() -> None:
    logits = torch.tensor([-3.0, 0.0, 4.0])
    torch.testing.assert_close(gated(logits, torch.full((3,), 60.0)), logits)
    assert (gated(logits, torch.full((3,), -200.0)).sigmoid() == 0).all()


@pytest.mark.parametrize("anchors", [1, 3])
@pytest.mark.parametrize(
    "options", [Centerness(), Centerness(convs=0), MaxFilter(), MaxFilter(tau=4, norm=False)]
)
def test_a_gate_has_a_logit_for_every_anchor_of_every_level(
    options: GateOptions, anchors: int
) -> None:
    found = built(options, anchors)(levels())
    assert [tuple(x.shape) for x in found] == [(2, anchors, h, w) for h, w in SIZES]


@pytest.mark.parametrize("options", [Centerness(width=8), MaxFilter()])
def test_a_gate_starts_near_one_half_and_every_weight_affects_it(options: GateOptions) -> None:
    gate = built(options, 1)
    found = gate(levels())
    assert max(x.abs().max().item() for x in found) < 1
    sum(x.square().sum() for x in found).backward()
    for name, parameter in gate.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_centerness_is_computed_on_each_level_separately() -> None:
    """002 Fig. 3: `convs` narrow ones, each with norm and ReLU, then one number."""
    gate, given = built(Centerness(convs=2, width=8), 1), levels()
    convs = [m for m in gate.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in gate.modules() if isinstance(m, nn.GroupNorm)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(16, 8), (8, 8), (8, 1)]
    assert {norm.num_groups for norm in norms} == {4}
    for found, x in zip(gate(given), given, strict=True):
        for conv, norm in zip(convs, norms, strict=False):
            x = norm(conv(x)).relu()
        torch.testing.assert_close(found, convs[-1](x))


def test_the_table_has_every_gate_under_its_name() -> None:
    assert {name: entry().model_dump()["name"] for name, entry in GATES.items()} == {
        name: name for name in GATES
    }
    assert NoGate().build(16, 4, 1) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tau": 1}, "tau.*\n.*must be even, got 1"),
        ({"phi": 2}, "phi.*\n.*must be odd, got 2"),
        ({"tau": -2}, "tau"),
    ],
)
def test_a_window_must_be_odd(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MaxFilter.model_validate(wrong)
