from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import detectors
from detectors.assigners import ASSIGNERS
from detectors.cost import model_cost
from detectors.data.shapes import Shapes
from detectors.inference import CandidateRequest, predict
from detectors.losses import LossOptions
from detectors.models.backbones import Tiny
from detectors.models.dense import DenseDetector
from detectors.models.detr import DetrOptions
from detectors.models.resnet import ResNet
from detectors.training import Training
from detectors.world import LocalWorld

SMALL = DetrOptions(
    backbone=Tiny(channels=(8, 16)), channels=16, feedforward=32, queries=7, decoder_layers=2
)
PUBLISHED: Mapping[str, Any] = {
    "channels": 256,
    "attention_heads": 8,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "feedforward": 2048,
    "queries": 100,
    "dropout": 0.1,
}
LOSS = LossOptions(cls_weight=2, l1_weight=5, normalizer="objects")
MATCHING = ASSIGNERS["min_cost"].model_validate({"name": "min_cost", "l1_of": "center_sides"})


def build(*branches: Any, **changes: Any) -> DenseDetector:
    torch.manual_seed(0)
    options = DetrOptions.model_validate(SMALL.model_dump() | changes)
    detector = options.build(3, branches or ("o2o",))
    assert isinstance(detector, DenseDetector)
    return detector


def images(height: int = 32, width: int = 40, batch: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(256, (batch, 3, height, width), generator=rng).to(torch.uint8)


def test_parameters_are_those_that_detr_publishes() -> None:
    """41,302,368 with ResNet-50 and 92 outputs for classes; ours are COCO's 80, without others."""
    options = DetrOptions(backbone=ResNet(depth=50, weights="resnet50.pth"), **PUBLISHED)
    cost = model_cost(options, 80, ("o2o",), (800, 1066))
    assert cost.trainable == 41_302_368 - (92 - 80) * (256 + 1)


def test_every_decoder_layer_predicts_in_training_and_the_last_one_at_inference() -> None:
    detector = build(decoder_layers=3).train()
    found = detector(images()).branches["o2o"]
    (last,) = detector.eval()(images()).branches["o2o"]
    assert len(found) == 3
    assert torch.equal(found[-1].logits, last.logits)
    assert torch.equal(found[-1].boxes, last.boxes)
    assert not torch.allclose(found[0].boxes, last.boxes)


def test_boxes_are_relative_to_the_input_and_queries_are_one_cell() -> None:
    output = build()(images(32, 40))
    points, boxes = output.points["o2o"], output.branches["o2o"][-1].boxes
    assert (len(points), points.located, points.extent) == (7, False, (40.0, 32.0))
    assert points.anchors[:1].tolist() == [[0.0, 0.0, 40.0, 32.0]]
    assert points.level.tolist() == [0] * 7
    assert not points.take(torch.tensor([1])).to("cpu").located
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert ((center > 0) & (center < torch.tensor([40.0, 32.0]))).all()
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_permuted_queries_permute_the_predictions() -> None:
    detector = build().eval()
    (before,) = detector(images()).branches["o2o"]
    order = torch.tensor([3, 0, 6, 1, 2, 5, 4])
    with torch.no_grad():
        queries = detector.head.get_parameter("queries")
        queries.copy_(queries[order])
    (after,) = detector(images()).branches["o2o"]
    torch.testing.assert_close(after.logits, before.logits[:, order])
    torch.testing.assert_close(after.boxes, before.boxes[:, order])


def test_a_batch_predicts_what_its_images_do() -> None:
    detector = build().eval()
    (batch,) = detector(images(batch=3)).branches["o2o"]
    for i in range(3):
        (one,) = detector(images(batch=3)[i : i + 1]).branches["o2o"]
        torch.testing.assert_close(one.boxes[0], batch.boxes[i])


def test_branches_share_the_transformer_and_have_a_predictor_each() -> None:
    one, two = (build(*names).state_dict() for names in (("o2o",), ("o2o", "o2m")))
    added = two.keys() - one.keys()
    assert all(name.startswith("head.predictors.o2m.") for name in added)
    assert sum(two[n].numel() for n in added) == 16 * 3 + 3 + 2 * (16 * 16 + 16) + 16 * 4 + 4


def test_it_trains_and_is_measured_like_every_detector() -> None:
    data = Shapes(size=32, train_images=16, val_images=4, max_side=24)
    detector = detectors.build_detector(SMALL, MATCHING, 4)
    losses = list[float]()
    detectors.train(
        detector,
        MATCHING,
        data.load("train"),
        Training(epochs=3, batch=4, lr=1e-3, loss=LOSS),
        after_epoch=lambda _, parts: losses.append(sum(parts.values())),
    )
    assert losses[-1] < losses[0]
    gap = detectors.evaluate(detector, MATCHING, data.load("val"))["o2o"]
    assert {"ap", "ap_nms", "gap"} <= gap.metrics.keys()
    request = CandidateRequest(("o2o",), 1000)
    found = predict(detector, data.load("val"), request, LocalWorld())["o2o"]
    assert found.image.bincount().tolist() == [7 * 4] * 4
    assert set(found.level_points.tolist()) == {7}
    assert found.points.isfinite().all()
    assert (found.strides > 0).all()


def test_without_class_cost_the_matching_differs_and_classes_are_trained() -> None:
    plain = MATCHING.model_copy(update={"classification": False})
    assert not plain.needs_positions
    detector = detectors.build_detector(SMALL, plain, 4)
    data = Shapes(size=32, train_images=4, max_side=24).load("train")
    parts = dict[str, float]()
    training = Training(epochs=1, batch=4, loss=LOSS)
    detectors.train(detector, plain, data, training, after_epoch=lambda _, p: parts.update(p))
    assert parts.keys() == {"o2o.cls", "o2o.box", "o2o.l1"}
    weight = detector.get_parameter("head.predictors.o2o.cls.weight")
    assert weight.grad is not None
    assert weight.grad.any()


@pytest.mark.parametrize("name", ASSIGNERS)
def test_only_the_cost_of_predictions_assigns_queries(name: str) -> None:
    data = Shapes(size=32, train_images=4, max_side=24).load("train")
    strategy, training = ASSIGNERS[name](), Training(epochs=1, batch=4)
    if name == "min_cost":
        assert training.unfit_queries(strategy) == []
        return
    detector = detectors.build_detector(SMALL, strategy, 4)
    with pytest.raises(ValueError, match="queries do not have; choose assignment"):
        detectors.train(detector, strategy, data, training)


@pytest.mark.parametrize(
    ("changes", "fit"),
    [
        ({"location": "points"}, False),
        ({"location": "anchors"}, False),
        ({"level_range": True}, False),
        ({"level_range": False}, True),
        ({"classification": False, "solver": "argmin"}, True),
    ],
)
def test_which_options_of_the_cost_need_positions(changes: dict[str, Any], fit: bool) -> None:
    assert MATCHING.model_copy(update=changes).needs_positions != fit


def test_losses_of_positions_and_of_encoded_boxes_are_refused() -> None:
    weighted = Training(loss=LossOptions(box_by="centerness"))
    (problem,) = weighted.unfit_queries(MATCHING)
    assert problem.startswith("box_by: centerness needs the positions of points")
    encoded = Training(loss=LossOptions(box="deltas"))
    (problem,) = encoded.unfit_losses({"o2o": SMALL.branch("o2o").box})
    assert "needs a detector that predicts deltas, not relative" in problem


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attention_heads": 3}, r"attention_heads must divide channels \(16\), got 3"),
        ({"queries": 0}, "queries"),
        ({"dropout": 1.0}, "dropout"),
        ({"channels": 20}, "channels"),
        ({"anchor_scale": 4.0}, "anchor_scale"),
    ],
)
def test_options_out_of_range_or_unknown_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DetrOptions.model_validate(SMALL.model_dump() | wrong)
