from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from detectors.assigners.poto import Poto
from detectors.engine import Learner
from detectors.models.backbone_base import MEAN, STD
from detectors.models.deform import DeformConv
from detectors.models.resnet import ResNet, ResNetBackbone
from detectors.models.weights import WeightsError
from detectors.optimizer import make_optimizer
from detectors.training import Training
from detectors.world import LocalWorld

Weights = dict[str, Tensor]


def backbone(options: ResNet) -> ResNetBackbone:
    built = options.build()
    assert isinstance(built, ResNetBackbone)
    return built


def fresh(depth: Any = 18, **options: Any) -> ResNetBackbone:
    torch.manual_seed(0)
    return backbone(ResNet(depth=depth, bn="trained", frozen_stages=0, **options))


@pytest.fixture(scope="module")
def trained() -> Weights:
    """Build a state dict like that of a trained torchvision resnet18."""
    rng = torch.Generator().manual_seed(1)
    weights = fresh().state_dict()
    for key, value in weights.items():
        if ".bn" in f".{key}" or ".downsample.1." in key:
            if value.is_floating_point():
                value.copy_(0.5 + torch.rand(value.shape, generator=rng))
            else:
                value.fill_(77)
    return weights | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.fixture
def checkpoint(tmp_path: Path, trained: Weights) -> Path:
    torch.save(trained, tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


# Deformable convolutions -------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 3])
def test_the_last_stages_are_deformable(stages: int) -> None:
    """A predictor of 27 channels for each 3x3 convolution of ResNet-50's 3, 4, 6 and 3 blocks."""
    with torch.device("meta"):
        built = fresh(50, deformable_stages=stages)
    deformable = [name for name, part in built.named_modules() if isinstance(part, DeformConv)]
    names = {name.split(".")[0] for name in deformable}
    assert names == {f"layer{i}" for i in range(5 - stages, 5)}
    assert all(name.endswith(".conv2") for name in deformable)
    each = [count * 27 * (9 * c + 1) for count, c in [(3, 64), (4, 128), (6, 256), (3, 512)]]
    added = sum(p.numel() for p in built.parameters()) - 23_508_032
    assert added == sum(each[4 - stages :])


def test_deformable_stages_start_from_plain_weights(tmp_path: Path) -> None:
    """The offsets of a fresh network are 0: its 3x3 convolutions give half of the plain ones."""
    shape = {"groups": 4, "width_per_group": 2}
    path = tmp_path / "resnext.pth"
    weights = fresh(50, **shape).state_dict()
    torch.save(weights, path)
    built = ResNet.model_validate({"weights": str(path), **shape, "deformable_stages": 3}).build()
    loaded = built.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    added = {key: value for key, value in loaded.items() if key not in weights}
    assert all(".conv2.offsets." in key and not value.any() for key, value in added.items())
    assert len(added) == 2 * (4 + 6 + 3)
    plain = fresh(50, **shape)
    plain.load_state_dict(weights)
    name = "layer2.0.conv2"
    features = torch.randn(2, plain.get_parameter(f"{name}.weight").shape[0], 9, 8)
    found, other = (net.get_submodule(name)(features) for net in (built, plain))
    torch.testing.assert_close(found, other / 2)
    torch.save(loaded, path)
    with pytest.raises(WeightsError, match=r"unexpected layer2\.0\.conv2\.offsets\.weight"):
        ResNet.model_validate({"weights": str(path), **shape}).build()
    path.unlink()


# Architecture ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "parameters", "entries"),
    [
        (18, 11_176_512, 120),
        (34, 21_284_672, 216),
        (50, 23_508_032, 318),
        (101, 42_500_160, 624),
    ],
)
def test_sizes_are_those_published_by_torchvision(
    depth: int, parameters: int, entries: int
) -> None:
    with torch.device("meta"):
        built = fresh(depth)
    assert sum(p.numel() for p in built.parameters()) == parameters
    assert len(built.state_dict()) == entries


@pytest.mark.parametrize(
    ("depth", "groups", "width", "with_classifier"),
    [
        (50, 32, 4, 25_028_904),
        (101, 32, 8, 88_791_336),
        (101, 64, 4, 83_455_272),
        (50, 1, 128, 68_883_240),
        (101, 1, 128, 126_886_696),
    ],
    ids=["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide50_2", "wide101_2"],
)
def test_sizes_with_groups_are_those_published_by_torchvision(
    depth: int, groups: int, width: int, with_classifier: int
) -> None:
    with torch.device("meta"):
        built = fresh(depth, groups=groups, width_per_group=width)
    classifier = 2048 * 1000 + 1000
    assert sum(p.numel() for p in built.parameters()) == with_classifier - classifier
    # As many entries as without groups: 18 per block, 6 per stem or downsampling.
    assert len(built.state_dict()) == {50: 16, 101: 33}[depth] * 18 + 5 * 6


def test_names_and_shapes_are_torchvisions() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in fresh(50).state_dict().items()}
    for key, shape in {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.num_batches_tracked": (),
        "layer2.3.bn2.bias": (128,),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "layer4.2.conv2.weight": (512, 512, 3, 3),
    }.items():
        assert shapes[key] == shape
    assert not [key for key in shapes if key.startswith(("layer1.1.downsample", "layer4.3", "_"))]
    basic = fresh(18).state_dict()
    assert "layer1.0.downsample.0.weight" not in basic
    assert basic["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    with torch.device("meta"):
        grouped = fresh(101, groups=32, width_per_group=8).state_dict()
        plain = fresh(101).state_dict()
    assert grouped.keys() == plain.keys()
    for key, shape in {
        "layer1.0.conv1.weight": (256, 64, 1, 1),
        "layer1.0.conv2.weight": (256, 8, 3, 3),
        "layer1.0.conv3.weight": (256, 256, 1, 1),
        "layer3.22.conv1.weight": (1024, 1024, 1, 1),
        "layer4.0.conv2.weight": (2048, 64, 3, 3),
        "layer4.2.bn2.weight": (2048,),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
    }.items():
        assert grouped[key].shape == shape


@pytest.mark.parametrize(("stride_in", "strided_conv"), [("3x3", "conv2"), ("1x1", "conv1")])
def test_the_stride_of_a_bottleneck_is_in_one_convolution(
    stride_in: Any, strided_conv: str
) -> None:
    strided = {
        name
        for name, module in fresh(50, stride_in=stride_in).named_modules()
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2)
    }
    layers = (2, 3, 4)
    assert strided == (
        {"conv1"}
        | {f"layer{i}.0.{strided_conv}" for i in layers}
        | {f"layer{i}.0.downsample.0" for i in layers}
    )


def norm(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.batch_norm(
        x,
        w[f"{name}.running_mean"],
        w[f"{name}.running_var"],
        w[f"{name}.weight"],
        w[f"{name}.bias"],
    )


def by_hand(x: Tensor, w: Weights, counts: tuple[int, ...], convs: int) -> list[Tensor]:
    """Compute ResNet step by step, with `convs` per block; the one of size 3 has the stride."""
    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], stride=2, padding=3), w, "bn1"))
    x, maps = F.max_pool2d(x, 3, 2, 1), []
    for layer, count in enumerate(counts, start=1):
        for block in range(count):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = x
            for i in range(1, convs + 1):
                kernel = w[f"{at}.conv{i}.weight"]
                moves = stride if i == (1 if convs == 2 else 2) else 1
                groups = y.shape[1] // kernel.shape[1]
                y = F.conv2d(y, kernel, stride=moves, padding=kernel.shape[-1] // 2, groups=groups)
                y = norm(y, w, f"{at}.bn{i}")
                y = F.relu(y) if i < convs else y
            if f"{at}.downsample.0.weight" in w:
                x = F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride)
                x = norm(x, w, f"{at}.downsample.1")
            x = F.relu(x + y)
        maps.append(x)
    return maps


@pytest.mark.parametrize(
    ("depth", "options", "counts", "convs"),
    [
        (18, {}, (2, 2, 2, 2), 2),
        (18, {"finest": 4}, (2, 2, 2, 2), 2),
        (50, {}, (3, 4, 6, 3), 3),
        (50, {"groups": 4, "width_per_group": 8, "finest": 4}, (3, 4, 6, 3), 3),
    ],
)
def test_maps_are_those_of_the_formula(
    depth: int, options: dict[str, int], counts: tuple[int, ...], convs: int
) -> None:
    built, skipped = fresh(depth, **options).eval(), 0 if "finest" in options else 1
    images = torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        maps, expected = built(images), by_hand(images, built.state_dict(), counts, convs)[skipped:]
    assert [m.shape[-2:] for m in maps] == [(17, 25), (9, 13), (5, 7), (3, 4)][skipped:]
    assert built.strides == (4, 8, 16, 32)[skipped:]
    assert built.channels == tuple(m.shape[1] for m in expected)
    for found, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4)


def test_pixels_are_normalised_as_torchvisions_weights_expect() -> None:
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(1, 3, 2, 3)
    found = fresh().normalise(images)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (len(MEAN), len(STD)) == (3, 3)


# Freezing ----------------------------------------------------------------------------------------

STAGES = ("conv1 bn1", "layer1", "layer2", "layer3", "layer4")


def frozen(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if not p.requires_grad}


def norms(module: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    return ((n, m) for n, m in module.named_modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("stages", range(6))
def test_frozen_stages_learn_nothing(checkpoint: Path, stages: int) -> None:
    options = ResNet(depth=18, weights=str(checkpoint), frozen_stages=stages, bn="trained")
    built = backbone(options).train()
    heads = tuple(part for stage in STAGES[:stages] for part in stage.split())
    expected = {n for n, _ in built.named_parameters() if n.split(".")[0] in heads}
    assert frozen(built) == expected
    before = {key: value.clone() for key, value in built.state_dict().items()}
    loss = torch.stack([m.square().mean() for m in built(torch.randn(2, 3, 64, 64))]).sum()
    if stages < 5:
        loss.backward()  # type: ignore[no-untyped-call]
        torch.optim.SGD([p for p in built.parameters() if p.requires_grad], lr=0.1).step()
    changed = {
        key for key, value in built.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {key for key in before if key.split(".")[0] not in heads}
    assert {name for name, p in built.named_parameters() if p.grad is None} == expected


@pytest.mark.parametrize("stages", [0, 2])
def test_frozen_norms_keep_statistics_and_affine(checkpoint: Path, stages: int) -> None:
    options = ResNet(depth=18, weights=str(checkpoint), frozen_stages=stages)
    built = backbone(options)
    for mode in (True, False, True):
        built.train(mode)
        assert not any(module.training for _, module in norms(built))
        assert built.training is mode
        assert built.layer4.training is mode
        assert built.layer1.training is (mode and stages < 2)
    parameters = {f"{name}.{p}" for name, _ in norms(built) for p in ("weight", "bias")}
    assert parameters <= frozen(built)
    before = {key: value.clone() for key, value in built.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(built(images), built.eval()(images))
    assert all(torch.equal(value, before[key]) for key, value in built.state_dict().items())


def test_norms_that_are_not_frozen_learn(checkpoint: Path) -> None:
    built = backbone(ResNet(depth=18, weights=str(checkpoint), bn="trained")).train()
    at = {name: module.training for name, module in norms(built)}
    assert at == {name: not name.startswith(("bn1", "layer1.")) for name in at}


@pytest.mark.parametrize("stages", [0, 2])
def test_norms_of_fixed_statistics_train_scale_and_shift(checkpoint: Path, stages: int) -> None:
    options = ResNet(
        depth=18, weights=str(checkpoint), bn="statistics", frozen_stages=stages, finest=4
    )
    built = backbone(options)
    stems = tuple(part for stage in STAGES[:stages] for part in stage.split())
    assert frozen(built) == {n for n, _ in built.named_parameters() if n.split(".")[0] in stems}
    for mode in (True, False, True):
        built.train(mode)
        assert not any(module.training for _, module in norms(built))
        assert built.layer4.training is mode
    before = {key: value.clone() for key, value in built.state_dict().items()}
    loss = torch.stack([m.square().mean() for m in built(torch.randn(2, 3, 64, 64))]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD([p for p in built.parameters() if p.requires_grad], lr=0.1).step()
    changed = {
        key for key, value in built.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {n for n, p in built.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "bn: frozen needs weights: .* set bn: trained; frozen_stages needs weights"),
        ({"bn": "statistics", "frozen_stages": 0}, "bn: statistics needs weights"),
        ({"bn": "trained"}, "frozen_stages needs weights.* got 2"),
        ({"bn": False, "weights": "x"}, "bn"),
        ({"depth": 34, "groups": 32, "weights": "x"}, "need bottlenecks: .* got 34"),
        ({"depth": 18, "width_per_group": 4, "weights": "x"}, "need bottlenecks: .* got 18"),
        ({"groups": 0, "weights": "x"}, "groups"),
        ({"finest": 16, "weights": "x"}, "finest"),
        ({"frozen_stages": 6, "weights": "x"}, "frozen_stages"),
        ({"depth": 152, "weights": "x"}, "depth"),
        ({"deformable_stages": 5, "weights": "x"}, "deformable_stages"),
        ({"depth": 34, "deformable_stages": 1, "weights": "x"}, "deformable_stages needs bottle"),
        ({"deformable_stages": 4, "weights": "x"}, "set frozen_stages to at most 1, got 2"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ResNet.model_validate(options)


def test_an_average_of_weights_has_the_same_counters(checkpoint: Path) -> None:
    built = backbone(ResNet(depth=18, weights=str(checkpoint), bn="trained"))
    learner = Learner.create(built, Poto(), Training(ema=0.9), LocalWorld())
    for _ in range(3):
        built(torch.randn(2, 3, 32, 32))
        learner.averaged.update_parameters(built)
    found, current = learner.averaged.module.state_dict(), built.state_dict()
    assert current["layer2.0.bn1.num_batches_tracked"] == 77 + 3
    for key, value in current.items():
        if key.endswith("num_batches_tracked"):
            assert torch.equal(found[key], value)
    statistics = "layer2.0.bn1.running_mean"
    assert not torch.equal(found[statistics], current[statistics])
    groups = make_optimizer(built, Training()).param_groups
    optimised = {id(p) for group in groups for p in group["params"]}
    assert optimised == {id(p) for p in built.parameters() if p.requires_grad}


# Weights -----------------------------------------------------------------------------------------


def refusal(path: Path, depth: Any = 18) -> str:
    with pytest.raises(WeightsError) as caught:
        ResNet(depth=depth, weights=str(path)).build()
    (problem,) = caught.value.problems
    assert isinstance(caught.value, ValueError)
    assert problem == str(caught.value)
    assert "\n" not in problem
    assert problem.startswith(f"{path}: ")
    assert problem.endswith("; correct `weights`")
    return problem


def test_all_weights_but_the_classifier_are_loaded(checkpoint: Path, trained: Weights) -> None:
    loaded = ResNet(depth=18, weights=str(checkpoint)).build().state_dict()
    assert loaded.keys() == {key for key in trained if not key.startswith("fc.")}
    assert all(torch.equal(value, trained[key]) for key, value in loaded.items())


def test_old_checkpoints_without_counters_load(tmp_path: Path, trained: Weights) -> None:
    old = {k: v for k, v in trained.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loaded = ResNet(depth=18, weights=str(tmp_path / "old.pth")).build().state_dict()
    assert all(torch.equal(loaded[key], old[key]) for key in old if not key.startswith("fc."))


def test_other_names_are_refused_and_the_first_five_listed(
    tmp_path: Path, trained: Weights
) -> None:
    wrapped = {f"module.{key}": value for key, value in trained.items()}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    message = refusal(tmp_path / "wrapped.pth")
    missing = "conv1.weight, bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var"
    assert f"missing {missing}, and {100 - 5} more; " in message
    assert "unexpected module.conv1.weight, " in message
    assert f", and {122 - 5} more; " in message


def test_a_single_difference_is_named(tmp_path: Path, trained: Weights) -> None:
    weights = dict(trained)
    weights["extra"] = weights.pop("layer3.1.bn2.bias")
    weights["conv1.weight"] = weights["conv1.weight"][:, :1]
    torch.save(weights, tmp_path / "odd.pth")
    message = refusal(tmp_path / "odd.pth")
    assert "missing layer3.1.bn2.bias; unexpected extra; " in message
    assert "of another shape conv1.weight [64, 1, 7, 7] not [64, 3, 7, 7]; " in message


def test_another_depth_is_refused(checkpoint: Path) -> None:
    assert "missing layer1.0.conv3.weight" in refusal(checkpoint, depth=50)


def test_weights_of_a_backbone_with_groups_fit_only_that_backbone(tmp_path: Path) -> None:
    shape = {"groups": 4, "width_per_group": 2}
    path = tmp_path / "resnext.pth"
    weights = fresh(50, **shape).state_dict()
    torch.save(weights | {"fc.weight": torch.zeros(10, 2048)}, path)
    loaded = ResNet.model_validate({"weights": str(path), **shape}).build().state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())
    message = refusal(path, depth=50)
    assert "missing" not in message
    assert "unexpected" not in message
    assert "of another shape conv1" not in message
    assert "of another shape layer1.0.conv1.weight [8, 64, 1, 1] not [64, 64, 1, 1], " in message
    # The first two convolutions of a block and what the third takes: 3, and 2 norms of 4 each.
    assert f", and {16 * (3 + 8) - 5} more; " in message
    path.unlink()


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"PK\x03\x04 torn", b"\x80\x02}q\x00.", None]
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pth"
    if content is None:
        assert "no such file" in refusal(path)
        path.mkdir()
        assert "no such file" in refusal(path)
        return
    path.write_bytes(content)
    assert "can't be read (" in refusal(path)


def test_a_truncated_checkpoint_is_refused(checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "can't be read (" in refusal(checkpoint)


class Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harm"),))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Harmful()}, tmp_path / "evil.pth")
    assert "can't be read (" in refusal(tmp_path / "evil.pth")
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": {"conv1.weight": torch.zeros(1)}}, {1: 2}]
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert "holds no state dict" in refusal(tmp_path / "other.pth")
