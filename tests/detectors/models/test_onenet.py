from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from detectors.models.backbones import Tiny
from detectors.models.decode import DECODERS
from detectors.models.deconv import Deconv
from detectors.models.deform import DeformConv
from detectors.models.dense import DenseDetector
from detectors.models.onenet import OneNetOptions
from detectors.models.pyramid import TopDown
from detectors.structures import Predictions

SMALL = OneNetOptions(backbone=Tiny(channels=(8, 16)), channels=16)


def build(**changes: Any) -> DenseDetector:
    torch.manual_seed(0)
    options = OneNetOptions.model_validate(SMALL.model_dump() | changes)
    detector = options.build(num_classes=3, branches=("o2o",))
    assert isinstance(detector, DenseDetector)
    return detector


def images(height: int = 32, width: int = 40) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(256, (2, 3, height, width), generator=rng).to(torch.uint8)


def stages(detector: DenseDetector) -> tuple[Predictions, ...]:
    found = detector(images()).branches["o2o"]
    assert isinstance(found, tuple)
    return found


def written_out(detector: DenseDetector, heads: int) -> list[tuple[Tensor, Tensor]]:
    """001 section 4.1: F_j from F_0 beside F_{j-1}; class and box convolutions are the same."""
    base = detector.neck(detector.backbone(detector.backbone.normalise(images())))[0]
    features, found = base, []
    predictor = detector.head.get_submodule("predictors.o2o")
    points = detector(images()).points["o2o"]
    for j in range(heads):
        conv = detector.head.get_submodule(f"stages.{j}")
        features = conv(torch.cat([base, features], 1) if heads > 1 else base).relu()
        cls, raw = (
            predictor.get_submodule(part)(features).permute(0, 2, 3, 1).flatten(1, 2)
            for part in ("cls", "box")
        )
        found.append((cls, DECODERS["pixels"](raw, points)))
    return found


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("neck", ["top_down", "deconv"])
def test_training_returns_a_prediction_of_every_head(heads: int, neck: str) -> None:
    detector = build(heads=heads, neck=neck, neck_norm="group", box="pixels")
    assert isinstance(detector.neck, TopDown if neck == "top_down" else Deconv)
    found = stages(detector.train())
    assert len(found) == heads
    for predictions, (logits, boxes) in zip(found, written_out(detector, heads), strict=True):
        assert torch.equal(predictions.logits, logits)
        assert torch.equal(predictions.boxes, boxes)


@pytest.mark.parametrize("infer_head", [1, 2, 3])
def test_eval_returns_the_inference_head_and_later_ones_cost_nothing(infer_head: int) -> None:
    detector = build(heads=3, infer_head=infer_head, box="pixels")
    reference = stages(detector.train())[infer_head - 1]
    ran: list[int] = []
    for j in range(3):
        detector.head.get_submodule(f"stages.{j}").register_forward_hook(
            lambda *_, j=j: ran.append(j)
        )
    (found,) = stages(detector.eval())
    assert torch.equal(found.logits, reference.logits)
    assert torch.equal(found.boxes, reference.boxes)
    assert ran == list(range(infer_head))
    (found.logits.sum() + found.boxes.sum()).backward()  # type: ignore[no-untyped-call]
    for j in range(3):
        weight = detector.head.get_parameter(f"stages.{j}.weight")
        assert (weight.grad is None) == (j >= infer_head)


def test_heads_share_their_class_and_box_convolutions() -> None:
    one, three = (build(heads=heads).state_dict() for heads in (1, 3))
    more = set(three) - set(one)
    assert more == {f"head.stages.{j}.{kind}" for j in (1, 2) for kind in ("weight", "bias")}
    widths = [three[f"head.stages.{j}.weight"].shape for j in range(3)]
    assert widths == [(16, 32, 3, 3)] * 3
    assert one["head.stages.0.weight"].shape == (16, 16, 3, 3)


def test_the_neck_is_deformable_on_request() -> None:
    for deformable in (False, True):
        neck = build(neck="deconv", neck_norm="group", neck_deformable=deformable).neck
        found = [isinstance(module, DeformConv) for module in neck.modules()]
        assert sum(found) == deformable


@pytest.mark.parametrize("neck", ["top_down", "deconv"])
def test_there_is_one_map_of_stride_four(neck: str) -> None:
    detector = build(neck=neck, neck_norm="group")
    output = detector(images(33, 50))
    points = output.points["o2o"]
    assert len(points) == 9 * 13
    assert points.stride.unique().tolist() == [4.0]
    assert points.extent == (52.0, 36.0)
    assert output.branches["o2o"][0].logits.shape == (2, 9 * 13, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 2, "infer_head": 3}, r"infer_head: at most heads \(2\), got 3"),
        ({"heads": 0}, "heads"),
        ({"backbone": {"name": "resnet", "bn": "trained", "frozen_stages": 0}}, "finest: 4"),
        ({"box": "exp"}, "softplus"),
        ({"neck_deformable": True}, "neck_deformable: true needs neck: deconv"),
    ],
)
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OneNetOptions.model_validate(wrong)
