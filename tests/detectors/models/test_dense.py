"""Tests of all detectors of the table, and of detectors with two branches."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors.assigners.base import Branch
from detectors.models import DETECTORS
from detectors.models.anchors import AnchorOptions
from detectors.models.backbones import Tiny
from detectors.models.base import DetectorOptions
from detectors.models.dense import DenseDetector
from detectors.models.fcos import FcosOptions
from detectors.models.gates import Centerness, MaxFilter
from detectors.models.onenet import OneNetOptions
from detectors.models.output import Output
from detectors.models.retinanet import RetinaNetOptions
from detectors.models.sparse_rcnn import SparseRcnnOptions

SMALL: dict[str, Any] = {"backbone": Tiny(channels=(8, 16)), "channels": 16, "tower_convs": 1}
NINE = AnchorOptions()
DUALS: dict[str, DetectorOptions] = {
    "plain": FcosOptions(**SMALL),
    "separate": FcosOptions(shared_towers=False, groups=4, **SMALL),
    "max_filter": FcosOptions(gate=MaxFilter(), centerness=True, **SMALL),
    "centerness": FcosOptions(gate=Centerness(convs=1, width=8), centerness=True, **SMALL),
    "date_r": FcosOptions(o2m_box="anchor", o2m_anchors=NINE, **SMALL),
    "retinanet": RetinaNetOptions(groups=0, **SMALL),
    "onenet": OneNetOptions(backbone=Tiny(channels=(8, 16)), channels=16, heads=3, infer_head=2),
    "sparse_rcnn": SparseRcnnOptions(
        backbone=Tiny(channels=(8, 16)), channels=16, queries=9, roi_cells=8.5
    ),
}
each_dual = pytest.mark.parametrize("options", DUALS.values(), ids=list(DUALS))


def build(options: DetectorOptions, *branches: Branch) -> DenseDetector:
    torch.manual_seed(0)
    detector = options.build(num_classes=3, branches=branches)
    assert isinstance(detector, DenseDetector)
    return detector


def images(height: int = 48, width: int = 40, count: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    shape = (count, 3, height, width)
    return torch.randint(256, shape, generator=rng, dtype=torch.int64).to(torch.uint8)


def assert_same(a: Output, b: Output, branch: str = "o2o") -> None:
    """Compare points and predictions bit by bit."""
    for x, y in zip(a.branches[branch], b.branches[branch], strict=True):
        for name, value in vars(x).items():
            other = getattr(y, name)
            assert (value is None) == (other is None)
            assert value is None or torch.equal(value, other)
    assert torch.equal(a.points[branch].anchors, b.points[branch].anchors)


@each_dual
def test_output_of_one_requested_branch_is_bit_identical(options: DetectorOptions) -> None:
    detector = build(options, "o2o", "o2m")
    both = detector(images())
    assert list(both.branches) == list(both.points) == ["o2o", "o2m"]
    for branch in ("o2o", "o2m"):
        alone = detector(images(), branches=[branch])
        assert list(alone.branches) == list(alone.points) == [branch]
        assert_same(both, alone, branch)


@each_dual
def test_a_detector_of_one_branch_equals_the_dual_one_without_the_other(
    options: DetectorOptions,
) -> None:
    """This holds for a new detector of the same seed, and for weights of a trained dual one."""
    dual, single = build(options, "o2o", "o2m"), build(options, "o2o")
    assert_same(dual(images()), single(images()))
    with torch.no_grad():
        for parameter in dual.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    kept = {k: v for k, v in dual.state_dict().items() if ".o2m." not in k}
    single.load_state_dict(kept)
    assert_same(dual(images()), single(images()))


@each_dual
def test_the_gradient_of_one_branch_does_not_reach_parameters_of_the_other(
    options: DetectorOptions,
) -> None:
    detector = build(options, "o2o", "o2m")
    stages = detector(images(), branches=["o2o"]).branches["o2o"]
    torch.stack([stage.logits.sum() + stage.boxes.sum() for stage in stages]).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is None) == (".o2m." in name or not parameter.requires_grad), name


@each_dual
def test_every_trainable_parameter_affects_the_output_in_training(options: DetectorOptions) -> None:
    """Otherwise processes that train together would wait for its gradient for ever."""
    detector = build(options, "o2o", "o2m").train()
    outputs = [
        value
        for stages in detector(images(64, 64)).branches.values()
        for stage in stages
        for value in vars(stage).values()
    ]
    sum(value.square().sum() for value in outputs if value is not None).backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_one_to_many_parts_can_be_dropped_after_training() -> None:
    detector = build(DUALS["date_r"], "o2o", "o2m")
    before = detector(images())
    del detector.head.get_submodule("predictors").o2m
    assert_same(before, detector(images(), branches=["o2o"]))


def test_nine_anchors_beside_one() -> None:
    """DATE-R: each branch has its own points."""
    detector = build(DUALS["date_r"], "o2o", "o2m")
    output = detector(images(48, 40))
    cells = 12 * 10 + 6 * 5
    sizes = {name: len(points) for name, points in output.points.items()}
    assert sizes == {"o2o": cells, "o2m": 9 * cells}
    for name, (predictions,) in output.branches.items():
        assert predictions.logits.shape == (2, sizes[name], 3)
        assert predictions.boxes.shape == (2, sizes[name], 4)
    o2m = output.points["o2m"]
    o2o = output.points["o2o"]
    assert torch.equal(o2m.xy[::9], o2o.xy - o2o.stride[:, None] / 2)
    side = o2m.anchors[:9, 2:] - o2m.anchors[:9, :2]
    assert side.prod(1).sqrt().tolist() == pytest.approx([16, 20.16, 25.4] * 3)
    assert (side[:, 1] / side[:, 0]).tolist() == pytest.approx([0.5] * 3 + [1] * 3 + [2] * 3)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("branches", [("o2f",), ("o2o", "o2m")])
def test_every_entry_of_the_table_builds_with_its_defaults(
    name: str, branches: Sequence[Branch]
) -> None:
    options = DETECTORS[name]()
    assert options.model_dump()["name"] == name
    detector = build(options, *branches)
    output = detector.eval()(images(64, 64))
    assert list(output.branches) == list(branches)
    for branch, (predictions,) in output.branches.items():
        shape = (2, len(output.points[branch]))
        assert predictions.logits.shape == (*shape, 3)
        assert predictions.boxes.shape == (*shape, 4)
        assert predictions.scores().mean().item() == pytest.approx(0.01, rel=0.8)


@pytest.mark.parametrize("name", [name for name in DETECTORS if DETECTORS[name].located])
def test_images_of_odd_sizes_have_points_for_all_their_cells(name: str) -> None:
    detector = build(DETECTORS[name](), "o2o")
    output = detector(images(50, 33))
    points, (predictions,) = output.points["o2o"], output.branches["o2o"]
    assert predictions.boxes.shape == (2, len(points), 4)
    anchors = len(detector.branches["o2o"].anchors)
    strides = detector.strides
    cells = [-(-50 // s) * -(-33 // s) * anchors for s in strides]
    assert points.level.bincount().tolist() == cells
    assert points.stride.unique().tolist() == [float(s) for s in strides]


def test_retinanet_has_the_same_anchors_in_every_branch() -> None:
    options = RetinaNetOptions(anchors=AnchorOptions(scales=(2.0,), ratios=(1.0, 3.0)))
    shapes = {branch: options.branch(branch) for branch in ("o2o", "o2m", "o2f")}
    assert len({str(shape) for shape in shapes.values()}) == 1
    assert shapes["o2o"].box == "deltas"
    assert [w * h for w, h in shapes["o2o"].anchors] == pytest.approx([4.0, 4.0])
    assert [h / w for w, h in shapes["o2o"].anchors] == pytest.approx([1.0, 3.0])
