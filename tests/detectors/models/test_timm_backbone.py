import sys
import types
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from detectors.data.base import DataError
from detectors.models.timm_backbone import Timm, TimmBackbone
from detectors.optimizer import make_optimizer
from detectors.training import Training
from tests.examples import examples

SWIN = "swin_tiny_patch4_window7_224"


def refusal(options: Timm) -> str:
    with pytest.raises(DataError) as caught:
        options.build()
    (problem,) = caught.value.problems
    assert "\n" not in problem
    return problem


# Without timm ------------------------------------------------------------------------------------


def test_a_missing_timm_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    message = refusal(Timm())
    assert message.startswith("backbone timm: timm can't be imported (")
    assert message.endswith("); pip install 'gaplab[timm]'")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist\\nmore')", "operator torch"),
        ("raise AttributeError('partially initialized module')", "partially initialized module"),
        ("import a_library_that_is_not_there", "No module named 'a_library_that_is_not_there'"),
    ],
)
def test_a_timm_that_fails_to_import_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    (tmp_path / "timm.py").write_text(code)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    message = refusal(Timm())
    assert message.startswith(f"backbone timm: timm can't be imported ({reason}")
    assert "more" not in message


# With a stand-in that has timm's interface -------------------------------------------------------


class FakeNet(nn.Module):
    """Averages of 8, 16 and 32 pixels; sizes are rounded down, as in some of timm's CNNs."""

    def __init__(self, output_fmt: str | None, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.feature_info = types.SimpleNamespace(
            channels=lambda: [3] * 3,
            reduction=lambda: list(strides),
            info=[{"module": "first.0"}, {"module": "first.1"}, {"module": "hooked"}],
        )
        self.stem, self.first_0, self.first_1 = (nn.Dropout() for _ in range(3))
        self.last = output_fmt == "NHWC"
        self.gain = nn.Parameter(torch.ones(1))
        if output_fmt:
            self.output_fmt = output_fmt

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [F.avg_pool2d(images, s) * self.gain for s in (8, 16, 32)]
        return [x.permute(0, 2, 3, 1) for x in maps] if self.last else maps


class Fixed(FakeNet):
    def forward(self, images: Tensor) -> list[Tensor]:
        assert images.shape[-2:] == (224, 224), "Input height doesn't match model (224)."
        return super().forward(images)


def no_maps() -> nn.Module:
    raise RuntimeError("features_only not implemented for Mixer models.")


def two_maps() -> nn.Module:
    raise IndexError("list index out of range")


FAKES: dict[str, Any] = {
    "plain": lambda: FakeNet(None, (8, 16, 32)),
    "first": lambda: FakeNet("NCHW", (8, 16, 32)),
    "swin_last": lambda: FakeNet("NHWC", (8, 16, 32)),
    "coarse": lambda: FakeNet("NCHW", (16, 16, 16)),
    "fixed": lambda: Fixed("NCHW", (8, 16, 32)),
    "mixer": no_maps,
    "few": two_maps,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Install a stand-in for timm; return the arguments of its calls."""
    calls: list[dict[str, Any]] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        calls.append(options)
        net: nn.Module = FAKES[name]()
        return net

    fake = types.ModuleType("timm")
    vars(fake).update(is_model=FAKES.__contains__, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)
    return calls


def test_only_swin_is_asked_to_accept_any_size(asked: list[dict[str, Any]]) -> None:
    maps = {"features_only": True, "out_indices": (-3, -2, -1), "drop_path_rate": 0.2}
    Timm(model="plain").build()
    Timm(model="swin_last").build()
    assert asked == [maps, maps | {"strict_img_size": False, "always_partition": True}]


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("model", ["plain", "first", "swin_last"])
def test_maps_are_padded_ordered_and_cut_back(model: str) -> None:
    backbone = Timm(model=model).build()
    assert backbone.training
    assert (backbone.channels, backbone.strides) == ((3, 3, 3), (8, 16, 32))
    images = torch.randn(2, 3, 33, 50, generator=torch.Generator().manual_seed(0))
    maps = backbone(images)
    assert [x.shape for x in maps] == [(2, 3, 5, 7), (2, 3, 3, 4), (2, 3, 2, 2)]
    whole = F.avg_pool2d(images[..., :32, :48], 8)
    corner = F.pad(images, (0, 14, 0, 31))[..., 32:64, 32:64].sum((2, 3)) / 32**2
    if model == "swin_last":
        assert [name for name, _ in backbone.named_parameters() if "norms.2" in name] == [
            "norms.2.weight",
            "norms.2.bias",
        ]
        whole = F.layer_norm(whole.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2)
        corner = F.layer_norm(corner, (3,))
    torch.testing.assert_close(maps[0][..., :4, :6], whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps[2][..., 1, 1], corner, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nothing", "nothing: timm has no such model"),
        ("mixer", "mixer: it has no three feature maps (features_only not implemented for Mi"),
        ("few", "few: it has no three feature maps (list index out of range)"),
        ("coarse", "coarse: its last maps have strides (16, 16, 16), not (8, 16, 32)"),
        ("fixed", "fixed: it can't take images of any size (Input height doesn't match model (22"),
    ],
)
def test_models_that_cannot_be_a_backbone_are_refused(model: str, message: str) -> None:
    found = refusal(Timm(model=model))
    assert found.startswith(f"backbone timm: {message}")
    assert found.endswith("; correct `model`")


@pytest.mark.usefixtures("asked")
def test_weights_must_fit_exactly(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"gain": torch.tensor([3.0])}, path)
    backbone = Timm(model="swin_last", weights=str(path)).build()
    assert backbone.state_dict()["net.gain"].tolist() == [3.0]
    torch.save({"layers.0.gain": torch.tensor([3.0])}, path)
    message = refusal(Timm(model="swin_last", weights=str(path)))
    assert "missing gain; unexpected layers.0.gain; correct `weights`" in message


@pytest.mark.parametrize("rate", [0.0, 0.3, None])
def test_stochastic_depth_is_given_to_the_model(
    asked: list[dict[str, Any]], rate: float | None
) -> None:
    Timm(model="plain", drop_path_rate=rate).build()
    assert [options.get("drop_path_rate") for options in asked] == [rate]
    assert ("drop_path_rate" in asked[0]) == (rate is not None)


@pytest.mark.usefixtures("asked")
def test_a_model_without_stochastic_depth_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected() -> nn.Module:
        raise TypeError("VGG.__init__() got an unexpected keyword argument 'drop_path_rate'")

    monkeypatch.setitem(FAKES, "vgg", unexpected)
    message = refusal(Timm(model="vgg"))
    assert message.startswith("backbone timm: vgg: VGG.__init__() got an unexpected keyword")
    assert message.endswith("; set drop_path_rate: null or correct `model`")


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(("stages", "frozen"), [(1, 2), (2, 3)])
def test_frozen_stages_stay_in_eval_mode_with_everything_before(
    tmp_path: Path, stages: int, frozen: int
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"gain": torch.tensor([3.0])}, path)
    backbone = Timm(model="plain", weights=str(path), frozen_stages=stages).build()
    for mode in (True, False, True):
        backbone.train(mode)
        parts = [backbone.get_submodule(f"net.{p}") for p in ("stem", "first_0", "first_1")]
        assert [part.training for part in parts] == [False] * frozen + [mode] * (3 - frozen)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("stages", [3, 4])
def test_stages_that_cannot_be_frozen_are_refused(tmp_path: Path, stages: int) -> None:
    """The third one is inside of another part, the fourth one does not exist."""
    path = tmp_path / "weights.pth"
    torch.save({"gain": torch.tensor([3.0])}, path)
    found = refusal(Timm(model="plain", weights=str(path), frozen_stages=stages))
    expected = f"plain: has no stage {stages} that can be frozen; correct `frozen_stages`"
    assert found == f"backbone timm: {expected}"


def test_frozen_stages_need_weights() -> None:
    with pytest.raises(ValidationError, match="frozen_stages needs weights"):
        Timm(frozen_stages=1)


# With timm itself, where it is installed ---------------------------------------------------------


class Lenient(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class Stub(types.ModuleType):
    """A module that has a class of every name."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Lenient(name, (), {})


def stub_torchvision(patch: pytest.MonkeyPatch) -> None:
    """Return stubs for what timm imports from torchvision; its backbones use none of it."""
    for name in ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets"):
        module = Stub(f"torchvision{name}")
        patch.setitem(sys.modules, module.__name__, module)
        parent, _, child = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def forget_timm() -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "timm"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    """Import timm, with a stub in place of torchvision if that cannot be imported."""
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    with pytest.MonkeyPatch.context() as patch:
        try:
            import_module("torchvision")
        except (ImportError, RuntimeError, AttributeError):
            stub_torchvision(patch)
        import timm

        yield timm
        forget_timm()


@pytest.fixture(scope="module")
def swin(timm: Any) -> TimmBackbone:
    torch.manual_seed(0)
    backbone = Timm(model=SWIN, drop_path_rate=0.2).build()
    assert isinstance(backbone, TimmBackbone)
    return backbone.eval()


def test_swin_t_has_the_published_size(swin: TimmBackbone) -> None:
    """28,288,354 parameters, without the classifier and the norm before it."""
    expected = 28_288_354 - (768 * 1000 + 1000) - 2 * 768
    assert sum(p.numel() for p in swin.net.parameters()) == expected
    assert swin.channels == (192, 384, 768)


@examples(5)
@given(height=st.integers(1, 130), width=st.integers(1, 130))
def test_swin_takes_images_of_any_size(swin: TimmBackbone, height: int, width: int) -> None:
    with torch.no_grad():
        maps = swin(torch.randn(1, 3, height, width))
    sizes = [(-(-height // s), -(-width // s)) for s in (8, 16, 32)]
    expected = [(1, c, *size) for c, size in zip(swin.channels, sizes, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected


def test_swin_equals_timms_own_of_that_size(timm: Any, swin: TimmBackbone) -> None:
    fixed = timm.create_model(
        SWIN, features_only=True, img_size=(96, 128), always_partition=True
    ).eval()
    fixed.load_state_dict(swin.net.state_dict())
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = swin(images), fixed(images)[1:]
    for a, b in zip(found, expected, strict=True):
        reference = F.layer_norm(b, b.shape[-1:]).permute(0, 3, 1, 2)
        torch.testing.assert_close(a, reference, rtol=1e-3, atol=1e-4)


def test_gradients_reach_every_part_of_swin(swin: TimmBackbone) -> None:
    maps = swin(torch.randn(1, 3, 64, 64))
    loss = torch.stack([x[..., 0].square().mean() for x in maps]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert [n for n, p in swin.named_parameters() if p.grad is None] == []


def test_swin_weights_are_loaded_by_timms_names(timm: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    recipe = timm.create_model(SWIN, features_only=True, out_indices=(-3, -2, -1))
    path = tmp_path / "swin.pth"
    torch.save(recipe.state_dict(), path)
    loaded = Timm(weights=str(path)).build().state_dict()
    assert all(torch.equal(v, loaded[f"net.{k}"]) for k, v in recipe.state_dict().items())
    classifier = timm.create_model(SWIN).state_dict()
    torch.save(classifier, path)
    assert "unexpected layers.0.blocks.0.norm1.weight, " in refusal(Timm(weights=str(path)))
    path.unlink()


def test_swin_as_in_the_code_of_002(timm: Any, tmp_path: Path) -> None:
    """Stochastic depth up to 0.2, stage 1 frozen, no weight decay of norms and position tables."""
    path = tmp_path / "swin.pth"
    recipe = timm.create_model(SWIN, features_only=True, out_indices=(-3, -2, -1))
    torch.save(recipe.state_dict(), path)
    backbone = Timm(weights=str(path), frozen_stages=1).build()
    path.unlink()
    rates: list[Any] = [m.drop_prob for m in backbone.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.2)
    names = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    assert {name.split(".")[1] for name in names} == {"patch_embed", "layers_0"}
    assert "layers_1" not in "".join(names)
    training = Training(weight_decay=0.05, weight_decay_bias=0.05)
    groups = make_optimizer(backbone, training).param_groups
    free = {id(p) for g in groups if not g["weight_decay"] for p in g["params"]}
    trained = {name: id(p) for name, p in backbone.named_parameters() if p.requires_grad}
    undecayed = {name for name, i in trained.items() if i in free}
    tables = {name for name in trained if "relative_position_bias_table" in name}
    assert len(tables) == 10
    assert undecayed == tables | {name for name in trained if "norm" in name}


@pytest.mark.parametrize("model", ["resnet18", "convnext_atto", "swinv2_cr_tiny_224"])
@pytest.mark.usefixtures("timm")
def test_other_families_of_timm(model: str) -> None:
    backbone = Timm(model=model).build().eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 65, 97))
    assert [x.shape[-2:] for x in maps] == [(9, 13), (5, 7), (3, 4)]
    assert tuple(x.shape[1] for x in maps) == backbone.channels


@pytest.mark.usefixtures("timm")
def test_timm_models_that_cannot_be_a_backbone_are_refused() -> None:
    assert "strides (16, 16, 16)" in refusal(Timm(model="vit_tiny_patch16_224"))
    assert "images of any size" in refusal(Timm(model="coat_tiny"))
    assert "no such model" in refusal(Timm(model="hf-hub:timm/resnet18.a1_in1k"))
