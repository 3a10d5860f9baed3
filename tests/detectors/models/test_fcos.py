from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Branch
from detectors.assigners.geometry import ltrb
from detectors.models import DETECTORS
from detectors.models.backbones import Tiny
from detectors.models.fcos import FcosDetector, FcosOptions, Output, decode
from detectors.models.points import pyramid_points
from detectors.models.resnet import ResNet
from detectors.structures import Targets

SMALL = FcosOptions(backbone=Tiny(channels=(8, 16)), channels=16, tower_convs=1, groups=4)


def build(branches: Sequence[Branch] = ("o2o",), options: FcosOptions = SMALL) -> FcosDetector:
    torch.manual_seed(0)
    detector = options.build(num_classes=3, branches=branches)
    assert isinstance(detector, FcosDetector)
    return detector


def images(height: int = 48, width: int = 40, count: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    shape = (count, 3, height, width)
    return torch.randint(256, shape, generator=rng, dtype=torch.int64).to(torch.uint8)


def same(a: Output, b: Output, branch: str) -> bool:
    x, y = a.branches[branch], b.branches[branch]
    return torch.equal(x.logits, y.logits) and torch.equal(x.boxes, y.boxes)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 3))
def test_points_of_any_image_size(height: int, width: int, extra: int) -> None:
    detector = build(options=SMALL.model_copy(update={"extra_levels": extra}))
    output = detector(images(height, width))
    strides = [4, 8, 16, 32, 64][: 2 + extra]
    counts = [-(-height // s) * -(-width // s) for s in strides]
    assert detector.strides == tuple(strides)
    assert output.points.level.bincount(minlength=len(strides)).tolist() == counts
    assert [s for s, n in zip(strides, counts, strict=True) for _ in range(n)] == (
        output.points.stride.tolist()
    )
    found = output.branches["o2o"]
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
    assert detector(images(height, width)).points.level.bincount().tolist() == counts


def test_decode_undoes_the_distances_to_the_sides() -> None:
    points = pyramid_points([(4, 5), (2, 3)], (4, 8), torch.device("cpu"))
    boxes = torch.tensor([[1.0, 2.0, 9.0, 7.0], [-3.0, 0.5, 20.25, 16.0], [4.0, 4.0, 4.0, 4.0]])
    distances = ltrb(points, Targets(boxes, torch.zeros(3, dtype=torch.int64)))
    assert torch.equal(decode(points, distances), boxes[:, None].expand(-1, len(points), -1))


def test_asking_for_one_branch_leaves_its_output_bit_identical() -> None:
    detector = build(("o2o", "o2m"))
    both, alone = detector(images()), detector(images(), branches=["o2o"])
    assert list(both.branches) == ["o2o", "o2m"]
    assert list(alone.branches) == ["o2o"]
    assert same(both, alone, "o2o")


def test_one_to_many_predictor_can_be_dropped_after_training() -> None:
    detector = build(("o2o", "o2m"))
    before = detector(images())
    del detector.head.predictors["o2m"]
    after = detector(images())
    assert list(after.branches) == ["o2o"]
    assert same(before, after, "o2o")


def test_weights_of_a_dual_detector_fit_a_single_one_without_the_second_predictor() -> None:
    dual, single = build(("o2o", "o2m")), build(("o2o",), SMALL)
    kept = {k: v for k, v in dual.state_dict().items() if ".o2m." not in k}
    single.load_state_dict(kept)
    assert same(dual(images()), single(images()), "o2o")


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
        "pyramid.laterals.1.bias",
        "pyramid.outputs.0.weight",
        "pyramid.extras.0.weight",
        "head.cls_tower.0.0.0.weight",
        "head.box_tower.0.0.1.bias",
        "head.scales",
        "head.predictors.o2o.cls.bias",
        "head.predictors.o2m.box.weight",
    ):
        assert expected in names
    assert {name.split(".")[0] for name in names} == {"backbone", "pyramid", "head"}
    assert not list(detector.buffers())


def test_every_parameter_shapes_the_output() -> None:
    detector = build(("o2o", "o2m"), SMALL.model_copy(update={"extra_levels": 2}))
    output = detector(images(64, 64))
    total = sum(
        (p.logits.square().sum() + p.boxes.square().sum()) for p in output.branches.values()
    )
    total.backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_images_are_independent_of_their_batch() -> None:
    detector, batch = build(), images(count=3)
    whole, alone = detector(batch).branches["o2o"], detector(batch[1:2]).branches["o2o"]
    torch.testing.assert_close(whole.logits[1:2], alone.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.boxes[1:2], alone.boxes, rtol=1e-4, atol=1e-4)


def test_memory_layout_of_the_images_does_not_matter() -> None:
    detector, batch = build(), images()
    a = detector(batch).branches["o2o"]
    b = detector(batch.to(memory_format=torch.channels_last)).branches["o2o"]
    torch.testing.assert_close(a.logits, b.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_entry_of_the_table_builds_with_its_defaults(name: str) -> None:
    options = DETECTORS[name]()
    assert options.model_dump()["name"] == name
    detector = options.build(num_classes=2, branches=("o2f",))
    output = detector(images(64, 64))
    scores = output.branches["o2f"].logits.sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.2)


def test_backbone_is_chosen_by_name_and_an_unknown_one_is_refused() -> None:
    chosen = FcosOptions.model_validate({"backbone": {"name": "tiny", "channels": [8, 8]}})
    assert chosen.backbone == Tiny(channels=(8, 8))
    trunk = {"name": "resnet", "depth": 18, "frozen_bn": False, "frozen_stages": 0}
    assert FcosOptions.model_validate({"backbone": trunk}).backbone == ResNet.model_validate(trunk)
    with pytest.raises(ValidationError, match="tiny"):
        FcosOptions.model_validate({"backbone": {"name": "huge"}})


@pytest.mark.parametrize("groups", [5, 16, 64])
def test_groups_must_divide_channels(groups: int) -> None:
    with pytest.raises(ValidationError, match=rf"groups must divide channels \(24\), got {groups}"):
        FcosOptions(channels=24, groups=groups)


def test_a_resnet_gives_the_papers_strides() -> None:
    trunk = ResNet(depth=18, frozen_bn=False, frozen_stages=0)
    detector = build(options=FcosOptions(backbone=trunk, extra_levels=2))
    output = detector(images(65, 130))
    assert detector.strides == (8, 16, 32, 64, 128)
    counts = [-(-65 // s) * -(-130 // s) for s in detector.strides]
    assert output.points.level.bincount().tolist() == counts
