from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors.models.gates import Centerness, MaxFilter
from detectors.models.head import TowerHead, TowerShape
from detectors.models.points import pyramid_points
from detectors.models.predictor import BranchShape
from detectors.models.towers import tower
from detectors.structures import Points, Predictions

SIZES, STRIDES = [(4, 5), (2, 3)], (4, 8)
SQUARE = BranchShape(((4.0, 4.0),), "relu")
POINTS = pyramid_points(SIZES, STRIDES, torch.device("cpu"))


def head(
    *branches: str, groups: int = 4, shared: bool = True, seed: int = 0, bias: bool = True
) -> TowerHead:
    torch.manual_seed(seed)
    shape = TowerShape(channels=16, convs=2, groups=groups, bias=bias, shared=shared)
    return TowerHead(shape, dict.fromkeys(branches, SQUARE), levels=2, num_classes=3)


def levels(seed: int = 1) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 16, h, w, generator=rng) for h, w in SIZES]


def asked(of: TowerHead, *branches: str) -> dict[str, Predictions]:
    found: dict[str, tuple[Predictions, ...]] = of(levels(), dict.fromkeys(branches, POINTS))
    return {name: single for name, (single,) in found.items()}


def same(a: Predictions, b: Predictions) -> bool:
    return torch.equal(a.logits, b.logits) and torch.equal(a.boxes, b.boxes)


each_sharing = pytest.mark.parametrize("shared", [True, False])


@each_sharing
def test_shapes_of_each_requested_branch(shared: bool) -> None:
    found = asked(head("o2o", "o2m", shared=shared), "o2m")
    assert list(found) == ["o2m"]
    assert found["o2m"].logits.shape == (2, 26, 3)
    assert found["o2m"].boxes.shape == (2, 26, 4)


@pytest.mark.parametrize("groups", [0, 4])
@each_sharing
def test_equals_towers_and_predictor_one_by_one(groups: int, shared: bool) -> None:
    """A tower has two convolutions, each with its norm, if there is one, and ReLU."""
    built = head("o2o", "o2m", groups=groups, shared=shared, bias=groups == 4)
    with torch.no_grad():
        built.scales.copy_(torch.tensor([0.5, 2.0]))
    for branch, found in asked(built, "o2o", "o2m").items():
        prefix = f"towers.{'shared' if shared else branch}"
        maps = []
        for x in levels():
            pair = []
            for side in ("cls", "box"):
                y = x
                for i in range(2):
                    y = built.get_submodule(f"{prefix}.{side}.{i}.0")(y).relu()
                pair.append(y)
            maps.append((pair[0], pair[1]))
        reference = built.predictors[branch](maps, built.scales, POINTS)
        assert same(found, reference)
    norms = [m for m in built.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == (0 if not groups else 4 if shared else 8)


@each_sharing
def test_output_of_a_branch_does_not_depend_on_the_other_requested_ones(shared: bool) -> None:
    built = head("o2o", "o2m", shared=shared)
    both = asked(built, "o2o", "o2m")
    for branch in ("o2o", "o2m"):
        assert same(asked(built, branch)[branch], both[branch])


@each_sharing
def test_a_branch_that_is_not_requested_costs_nothing(shared: bool) -> None:
    """None of its modules runs, and its parameters get no gradient."""
    built = head("o2o", "o2m", shared=shared)
    ran: set[str] = set()

    def note(name: str, *_: Any) -> None:
        ran.add(name)

    for name, module in built.named_modules():
        module.register_forward_hook(partial(note, name))
    found = asked(built, "o2o")["o2o"]
    (found.logits.sum() + found.boxes.sum()).backward()  # type: ignore[no-untyped-call]
    assert not [name for name in ran if "o2m" in name]
    tower = "shared" if shared else "o2o"
    assert {"predictors.o2o", "predictors.o2o.cls", f"towers.{tower}.box"} <= ran
    for name, parameter in built.named_parameters():
        assert (parameter.grad is None) == ("o2m" in name), name


@each_sharing
def test_a_detached_branch_trains_what_it_alone_has(shared: bool) -> None:
    """Its predictions are the same, and the pyramid gets no gradient from it."""
    plain = head("o2o", "o2m", shared=shared)
    shape = TowerShape(channels=16, convs=2, groups=4, shared=shared, detached=("o2o",))
    built = TowerHead(shape, dict.fromkeys(["o2o", "o2m"], SQUARE), levels=2, num_classes=3)
    built.load_state_dict(plain.state_dict())
    maps = [each.requires_grad_() for each in levels()]
    both = dict.fromkeys(["o2o", "o2m"], POINTS)
    found, expected = built(maps, both), plain(levels(), both)
    for name, (single,) in found.items():
        assert same(single, expected[name][0])
    (one,), (many,) = found["o2o"], found["o2m"]
    torch.autograd.backward(one.logits.sum() + one.boxes.sum())
    assert all(each.grad is None for each in maps)
    for name, parameter in built.named_parameters():
        assert (parameter.grad is not None) == (".o2o." in name), name
    torch.autograd.backward(many.logits.sum() + many.boxes.sum())
    assert all(each.grad is not None for each in maps)
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_with_shared_towers_a_branch_owns_only_a_predictor() -> None:
    one, two = head("o2o").state_dict(), head("o2o", "o2m").state_dict()
    assert all(torch.equal(two[name], weight) for name, weight in one.items())
    own = {
        f"predictors.o2m.{part}.{kind}" for part in ("cls", "box") for kind in ("weight", "bias")
    }
    assert set(two) - set(one) == own


def test_separate_towers_belong_to_the_branch_but_scales_do_not() -> None:
    one, two = (head(*of, shared=False).state_dict() for of in (["o2o"], ["o2o", "o2m"]))
    assert all(torch.equal(two[name], weight) for name, weight in one.items())
    more = set(two) - set(one)
    assert all(".o2m." in name for name in more)
    assert {name.replace(".o2m.", ".o2o.") for name in more} == set(one) - {"scales"}
    assert not torch.equal(two["towers.o2o.cls.0.0.0.weight"], two["towers.o2m.cls.0.0.0.weight"])


@pytest.mark.parametrize("seed", range(2))
@each_sharing
def test_a_head_without_the_other_branches_has_the_same_initial_weights(
    shared: bool, seed: int
) -> None:
    dual = asked(head("o2o", "o2m", shared=shared, seed=seed), "o2o")["o2o"]
    assert same(asked(head("o2o", shared=shared, seed=seed), "o2o")["o2o"], dual)


def test_branches_may_have_different_numbers_of_anchors() -> None:
    shapes = ((4.0, 4.0), (3.0, 5.0), (5.0, 3.0))
    branches = {"o2o": SQUARE, "o2m": BranchShape(shapes, "deltas")}
    built = TowerHead(TowerShape(16, 1, 4), branches, 2, num_classes=3)
    points: dict[str, Points] = {
        name: pyramid_points(SIZES, STRIDES, torch.device("cpu"), branch.anchors)
        for name, branch in branches.items()
    }
    found = built(levels(), points)
    assert found["o2o"][0].logits.shape == (2, 26, 3)
    assert found["o2m"][0].boxes.shape == (2, 78, 4)


@pytest.mark.parametrize(("bias", "weights"), [(True, 86_703), (False, 86_447)])
def test_number_of_weights_of_the_published_head(bias: bool, weights: int) -> None:
    """DeFCN's head with 3D max filtering: 32 channels, 4 convolutions, 5 classes, 5 levels."""
    branch = BranchShape(((4.0, 4.0),), "relu", MaxFilter())
    built = TowerHead(TowerShape(32, 4, 32, bias), {"o2o": branch}, levels=5, num_classes=5)
    assert sum(p.numel() for p in built.parameters()) == weights


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [0, 4])
def test_weights_of_a_published_tower_load_in_their_order(groups: int, bias: bool) -> None:
    """DeFCN: convolution, norm, ReLU, and so on, in one `Sequential`."""
    torch.manual_seed(3)
    published = nn.Sequential()
    for _ in range(2):
        published.append(nn.Conv2d(16, 16, 3, 1, 1, bias=bias))
        if groups:
            published.append(nn.GroupNorm(groups, 16))
        published.append(nn.ReLU())
    own = tower(16, 16, 2, groups, bias=bias)
    names, weights = own.state_dict().keys(), published.state_dict().values()
    own.load_state_dict(dict(zip(names, weights, strict=True)))
    for x in levels():
        torch.testing.assert_close(own(x), published(x))


@pytest.mark.parametrize("bias", [True, False])
def test_biases_before_a_norm_start_at_zero_also_in_the_centerness_path(bias: bool) -> None:
    branch = BranchShape(((4.0, 4.0),), "relu", Centerness(convs=2, width=8))
    built = TowerHead(TowerShape(16, 2, 4, bias), {"o2f": branch}, levels=2, num_classes=3)
    pairs = [m for m in built.modules() if isinstance(m, nn.Sequential) and len(m) == 2]
    convs = [m[0] for m in pairs if isinstance(m[0], nn.Conv2d) and isinstance(m[1], nn.GroupNorm)]
    assert len(convs) == 2 * 2 + 2
    for conv in convs:
        assert (conv.bias is not None) == bias
        assert conv.bias is None or not any(conv.bias.tolist())
