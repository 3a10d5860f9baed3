"""What `gaplab bench` measures, with a tiny detector on tiny images."""

import sys
import types
from functools import partialmethod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors.engine import PARTS
from detectors.models import DETECTORS
from detectors.synchronisations import count_synchronisations
from gaplab.errors import UserError
from gaplab.trial.speed import torchvision_fcos
from gaplab.trial.speed.machine import MachineSpeed, measure_machine
from gaplab.trial.speed.peaks import peak_of
from gaplab.trial.speed.setups import SETUPS, Setup
from gaplab.trial.speed.steps import Load, StepBench, explained, noise_batch

LOAD = Load(torch.device("cpu"), side=64, batch=2, steps=1)
TINY = {"name": "tiny", "channels": (8, 16)}
SMALL = {
    "fcos": Setup(
        {"name": "fcos", "backbone": TINY, "channels": 16, "tower_convs": 1},
        {"name": "poto"},
    ),
    "detr": Setup(
        {"name": "detr", "backbone": TINY, "channels": 16, "feedforward": 16, "decoder_layers": 2},
        SETUPS["detr"].assignment,
        SETUPS["detr"].training,
    ),
}


@pytest.fixture(scope="module")
def found() -> MachineSpeed:
    return measure_machine(list(SMALL), ["fp32", "bf16"], LOAD, setups=SMALL)


class TestMeasureMachine:
    def test_every_detector_is_measured_in_every_precision(self, found: MachineSpeed) -> None:
        names = [(each.precision, each.name) for each in found.steps]
        assert names == [(p, name) for p in ("fp32", "bf16") for name in SMALL]
        for each in found.steps:
            assert each.steps == 1
            assert min(each.images_per_second, each.memory_mib, each.teraflops) > 0
            assert tuple(each.parts) == PARTS
            assert min(each.parts.values()) > 0
            assert sum(each.parts.values()) == pytest.approx(1)
            assert each.peak_share is None

    def test_the_loader_is_measured_alone_and_under_a_training(self, found: MachineSpeed) -> None:
        loading = found.loading
        assert (loading.processes, loading.images) == (0, LOAD.batch)
        assert loading.images_per_second > 0
        assert loading.trained == "fcos in fp32"
        assert loading.trained_per_second is not None

    def test_plain_has_versions_machine_and_load(self, found: MachineSpeed) -> None:
        plain = found.plain()
        assert plain["packages"]["torch"] == torch.__version__
        assert plain["machine"]["cores"] >= 1
        assert plain["load"] | {"seconds": 0} == {
            **{"device": "cpu", "side": 64, "size": [64, 106], "batch": 2, "steps": 1},
            "seconds": 0,
        }


@pytest.mark.parametrize("name", SMALL)
def test_synchronisations_are_those_of_a_step_that_reads_no_losses(
    name: str, found: MachineSpeed
) -> None:
    bench = StepBench(name, "fp32", LOAD, SMALL[name])
    bench.learner.log_every = sys.maxsize
    batch = noise_batch(LOAD)
    bench._step(batch)
    with count_synchronisations() as waits:
        bench._step(batch)
    measured = next(each for each in found.steps if each.name == name)
    assert measured.waits == dict(waits)
    assert measured.synchronisations == waits.total() == 1


def test_operations_are_those_of_the_convolutions() -> None:
    """Forward, and backward to weights and inputs: three times, without the first convolution."""
    bench = StepBench("fcos", "fp32", LOAD, SMALL["fcos"])
    sizes = dict[nn.Module, int]()

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        per_value = module.weight[0].numel()
        sizes[module] = sizes.get(module, 0) + 2 * per_value * output.numel()

    for module in bench.learner.bare.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    bench._step(noise_batch(LOAD))
    first = next(iter(sizes.values()))
    expected = 3 * sum(sizes.values()) - first
    sizes.clear()
    assert bench.measure().flops == expected


def test_a_compiled_detector_is_measured_beside_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(nn.Module, "compile", compiled)
    found = measure_machine(["fcos"], ["fp32"], LOAD, setups=SMALL, compiled=True).steps
    assert [each.compiled for each in found] == [False, True]
    assert found[0].waits == found[1].waits
    assert found[0].flops == found[1].flops


def test_what_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class FailedError(RuntimeError):
        pass

    monkeypatch.setattr(FailedError, "__module__", "torch._inductor.exc")
    with pytest.raises(UserError, match=r"^fcos: can't be compiled"), explained("fcos", LOAD):
        raise FailedError("no compiler\nfound")


def test_every_detector_is_measured_as_published() -> None:
    assert set(SETUPS) == {*DETECTORS, "fcos-poto"}
    assert all(detector.published for detector in DETECTORS.values())


@pytest.mark.parametrize("name", SETUPS)
def test_setups_fit_their_assignments(name: str) -> None:
    setup = SETUPS[name]
    recipe, strategy, options = setup.recipe(8, "bf16"), setup.strategy(), setup.options()
    codes = {str(branch): options.branch(branch).box for branch in strategy.branches()}
    assert recipe.unfit_losses(codes) == []
    assert options.located or recipe.unfit_queries(strategy) == []
    assert (recipe.precision, recipe.batch) == ("bf16", 8)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("Tesla T4", None),
    ],
)
def test_peaks(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_little_memory_is_one_line(error: RuntimeError) -> None:
    line = r"^fcos: memory is too small for 2 images of 64x106 on"
    with pytest.raises(UserError, match=line), explained("fcos", LOAD):
        raise error


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="sizes differ"), explained("fcos", LOAD):
        raise RuntimeError("sizes differ")


class Stub(nn.Module):
    """Has the interface of torchvision's FCOS."""

    def __init__(self) -> None:
        super().__init__()
        body = nn.Module()
        body.conv1, body.layer1 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        body.bn1, body.layer2 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
        self.backbone = nn.Module()
        self.backbone.body = body

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        assert self.training
        assert len(images) == len(targets) == LOAD.batch
        body: Any = self.backbone.body
        maps = body.layer2(body.layer1(body.bn1(body.conv1(torch.stack(images)))))
        return {"classification": maps.mean(), "bbox_regression": maps.square().mean()}


def test_torchvision_is_trained_with_the_same_fixed_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Stub()
    module: Any = types.ModuleType("torchvision.models.detection")
    module.fcos_resnet50_fpn = lambda **options: made if options["min_size"] == LOAD.side else None
    monkeypatch.setattr(torchvision_fcos, "import_module", lambda name: module)
    assert torchvision_fcos.importable() == ""
    assert torchvision_fcos.images_per_second("fp32", LOAD) > 0
    assert {n.split(".")[2] for n, p in made.named_parameters() if p.requires_grad} == {"layer2"}
    assert not dict(made.named_buffers())["backbone.body.bn1.num_batches_tracked"]


def test_why_torchvision_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms\n does not exist")

    monkeypatch.setattr(torchvision_fcos, "import_module", fail)
    assert torchvision_fcos.importable() == "operator torchvision::nms does not exist"
