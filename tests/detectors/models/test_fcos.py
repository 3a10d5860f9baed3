from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Branch
from detectors.models.anchors import AnchorOptions
from detectors.models.backbones import Tiny
from detectors.models.decode import DECODERS
from detectors.models.dense import DenseDetector
from detectors.models.fcos import FcosOptions
from detectors.models.gates import Centerness, MaxFilter, NoGate
from detectors.models.output import Output
from detectors.models.resnet import ResNet
from detectors.models.retinanet import RetinaNetOptions
from tests.examples import examples

SMALL = FcosOptions(backbone=Tiny(channels=(8, 16)), channels=16, tower_convs=1, groups=4)


def build(branches: Sequence[Branch] = ("o2o",), options: FcosOptions = SMALL) -> DenseDetector:
    torch.manual_seed(0)
    detector = options.build(num_classes=3, branches=branches)
    assert isinstance(detector, DenseDetector)
    return detector


def images(height: int = 48, width: int = 40, count: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    shape = (count, 3, height, width)
    return torch.randint(256, shape, generator=rng, dtype=torch.int64).to(torch.uint8)


def same(a: Output, b: Output, branch: str) -> bool:
    (x,), (y,) = a.branches[branch], b.branches[branch]
    return torch.equal(x.logits, y.logits) and torch.equal(x.boxes, y.boxes)


@examples(25)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 3))
def test_points_of_any_image_size(height: int, width: int, extra: int) -> None:
    detector = build(options=SMALL.model_copy(update={"extra_levels": extra}))
    output = detector(images(height, width))
    strides = [4, 8, 16, 32, 64][: 2 + extra]
    counts = [-(-height // s) * -(-width // s) for s in strides]
    assert detector.strides == tuple(strides)
    points = output.points["o2o"]
    assert points.level.bincount(minlength=len(strides)).tolist() == counts
    assert [s for s, n in zip(strides, counts, strict=True) for _ in range(n)] == (
        points.stride.tolist()
    )
    assert points.extent == (-(-width // 4) * 4, -(-height // 4) * 4)
    (found,) = output.branches["o2o"]
    assert found.logits.shape == (2, sum(counts), 3)
    assert found.boxes.shape == (2, sum(counts), 4)
    assert (found.boxes[..., 2:] >= found.boxes[..., :2]).all()


@pytest.mark.parametrize(
    ("height", "width", "extra", "counts"),
    [(33, 17, 0, [9 * 5, 5 * 3]), (65, 64, 2, [17 * 16, 9 * 8, 5 * 4, 3 * 2]), (1, 1, 1, [1] * 3)],
)
def test_points_of_odd_sizes_by_hand(
    height: int, width: int, extra: int, counts: list[int]
) -> None:
    detector = build(options=SMALL.model_copy(update={"extra_levels": extra}))
    points = detector(images(height, width)).points["o2o"]
    assert points.level.bincount().tolist() == counts


def test_same_seed_same_weights_for_all_strategies_but_for_the_branch_names() -> None:
    """Comparisons of assignments start from one point: the first predictor is drawn first."""
    weights = [
        list(build(tuple(strategy().branches())).state_dict().values())
        for strategy in ASSIGNERS.values()
    ]
    for others in weights[1:]:
        assert all(torch.equal(a, b) for a, b in zip(weights[0], others, strict=False))


def test_parameters_are_named_by_part_level_and_branch() -> None:
    detector = build(("o2o", "o2m"), SMALL.model_copy(update={"extra_levels": 1}))
    names = [name for name, _ in detector.named_parameters()]
    for expected in (
        "backbone.stem.0.0.weight",
        "backbone.blocks.1.shortcut.0.weight",
        "neck.laterals.1.bias",
        "neck.outputs.0.weight",
        "neck.extras.0.weight",
        "head.towers.shared.cls.0.0.0.weight",
        "head.towers.shared.box.0.0.1.bias",
        "head.scales",
        "head.predictors.o2o.cls.bias",
        "head.predictors.o2m.box.weight",
    ):
        assert expected in names
    assert {name.split(".")[0] for name in names} == {"backbone", "neck", "head"}
    assert not list(detector.buffers())


def test_images_are_independent_of_their_batch() -> None:
    detector, batch = build(), images(count=3)
    whole, alone = (detector(b).branches["o2o"][0] for b in (batch, batch[1:2]))
    torch.testing.assert_close(whole.logits[1:2], alone.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.boxes[1:2], alone.boxes, rtol=1e-4, atol=1e-4)


def test_memory_layout_of_the_images_does_not_matter() -> None:
    detector, batch = build(), images()
    (a,) = detector(batch).branches["o2o"]
    (b,) = detector(batch.to(memory_format=torch.channels_last)).branches["o2o"]
    torch.testing.assert_close(a.logits, b.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-4, atol=1e-4)


def test_backbone_is_chosen_by_name_and_an_unknown_one_is_refused() -> None:
    chosen = FcosOptions.model_validate({"backbone": {"name": "tiny", "channels": [8, 8]}})
    assert chosen.backbone == Tiny(channels=(8, 8))
    backbone = {"name": "resnet", "depth": 18, "bn": "trained", "frozen_stages": 0}
    assert FcosOptions.model_validate({"backbone": backbone}).backbone == ResNet.model_validate(
        backbone
    )
    with pytest.raises(ValidationError, match="tiny"):
        FcosOptions.model_validate({"backbone": {"name": "huge"}})


@pytest.mark.parametrize("groups", [5, 16, 64])
def test_groups_must_divide_channels(groups: int) -> None:
    with pytest.raises(ValidationError, match=rf"groups must divide channels \(24\), got {groups}"):
        FcosOptions(channels=24, groups=groups)


def test_a_resnet_gives_the_papers_strides() -> None:
    backbone = ResNet(depth=18, bn="trained", frozen_stages=0)
    detector = build(options=FcosOptions(backbone=backbone, extra_levels=2))
    output = detector(images(65, 130))
    assert detector.strides == (8, 16, 32, 64, 128)
    counts = [-(-65 // s) * -(-130 // s) for s in detector.strides]
    assert output.points["o2o"].level.bincount().tolist() == counts


def test_what_each_branch_predicts() -> None:
    """A gate belongs to the branches that are read without NMS, centerness to the other."""
    gate = MaxFilter(tau=0)
    options = FcosOptions(gate=gate, centerness=True, centerness_from="cls", box="exp")
    for name in ("o2o", "o2f"):
        branch = options.branch(name)
        assert (branch.gate, branch.centerness, branch.box) == (gate, False, "exp")
    branch = options.branch("o2m")
    assert (branch.gate, branch.centerness, branch.centerness_from) == (NoGate(), True, "cls")
    assert {options.branch(name).anchors for name in ("o2o", "o2m")} == {((4.0, 4.0),)}
    assert FcosOptions(anchor_scale=8).branch("o2m").anchors == ((8.0, 8.0),)


@pytest.mark.parametrize("branch", ["o2o", "o2f", "o2m"])
@pytest.mark.parametrize("gate", [Centerness(width=8), MaxFilter()])
def test_a_gate_is_built_for_its_branches_only(
    gate: Centerness | MaxFilter, branch: Branch
) -> None:
    detector = build((branch,), SMALL.model_copy(update={"gate": gate, "centerness": True}))
    (found,) = detector(images()).branches[branch]
    parts = {name.split(".")[3] for name in detector.state_dict() if "predictors" in name}
    own = "centerness" if branch == "o2m" else "gate"
    assert parts == {"cls", "box", own}
    assert (found.ungated is None) == (found.centerness is not None) == (branch == "o2m")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gate": {"name": "centerness", "width": 20}}, r"gate.width must be a multiple of groups"),
        ({"gate": {"name": "dcn"}}, "max_filter"),
        ({"box": "pixels"}, "softplus"),
        ({"o2m_anchors": {"scales": []}}, "scales"),
        ({"o2m_anchors": {"ratios": [1.0, 0.0]}}, r"must be positive, got \[1.0, 0.0\]"),
        ({"anchor_scale": 0.0}, "anchor_scale"),
    ],
)
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FcosOptions.model_validate(wrong)


def test_anchor_variant_of_003_predicts_unscaled_deltas_to_one_square_per_point() -> None:
    """One anchor of 32 pixels at (i + 0.5) * 8, and so on; the head starts near its anchors."""
    options = SMALL.model_copy(update={"box": "deltas"})
    detector = build(options=options)
    output = detector(images())
    points, (found,) = output.points["o2o"], output.branches["o2o"]
    sides = (points.anchors[:, 2:] - points.anchors[:, :2]) / points.stride[:, None]
    assert torch.equal(sides, torch.full_like(sides, 4.0))
    assert torch.equal((points.anchors[:, 2:] + points.anchors[:, :2]) / 2, points.xy)
    assert points.xy[0].tolist() == [2.0, 2.0]
    assert found.encoded is not None
    torch.testing.assert_close(found.boxes, DECODERS["deltas"](found.encoded, points))
    with torch.no_grad():
        detector.get_parameter("head.scales").fill_(3.0)
    assert torch.equal(detector(images()).branches["o2o"][0].boxes, found.boxes)
    assert not detector.get_parameter("head.scales").requires_grad


def test_date_r_multiplies_its_deltas_by_the_scales_that_both_branches_share() -> None:
    options = SMALL.model_copy(update={"o2m_box": "anchor"})
    detector = build(("o2o", "o2m"), options)
    before = detector(images()).branches
    with torch.no_grad():
        detector.get_parameter("head.scales").copy_(torch.tensor([2.0, 0.5]))
    after, levels = detector(images()).branches, detector(images()).points["o2m"].level
    scales = torch.tensor([2.0, 0.5])[levels][:, None]
    old, new = before["o2m"][0].encoded, after["o2m"][0].encoded
    assert old is not None
    assert new is not None
    torch.testing.assert_close(new, old * scales)
    assert not torch.equal(before["o2o"][0].boxes, after["o2o"][0].boxes)


def test_anchors_of_retinanet_and_date_r_are_at_multiples_of_the_stride() -> None:
    for offset in (0.0, 0.5):
        anchors = AnchorOptions(offset=offset)
        shapes = [
            RetinaNetOptions(anchors=anchors).branch("o2o"),
            FcosOptions(o2m_box="anchor", o2m_anchors=anchors).branch("o2m"),
        ]
        assert [shape.offset for shape in shapes] == [offset, offset]
    assert RetinaNetOptions().branch("o2m").offset == 0
    assert FcosOptions().branch("o2m").offset == 0.5
