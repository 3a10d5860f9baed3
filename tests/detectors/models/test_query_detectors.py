"""Tests of all detectors of the table that predict at queries."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import detectors
from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Assigner
from detectors.assigners.positions import need_positions
from detectors.data.shapes import Shapes
from detectors.inference import CandidateRequest, predict
from detectors.structures import Predictions, Progress, Targets
from detectors.training import Training
from detectors.world import LocalWorld
from tests.detectors.queries import LOSS, MATCHING, NAMES, QUERIES, build, images, small

each_detector = pytest.mark.parametrize("name", NAMES)


def test_there_are_such_detectors() -> None:
    assert {"detr", "deformable_detr", "sparse_rcnn"} <= set(NAMES)


@each_detector
def test_every_layer_predicts_in_training_and_the_last_one_at_inference(name: str) -> None:
    detector = build(name).train()
    found = detector(images()).branches["o2o"]
    (last,) = detector.eval()(images()).branches["o2o"]
    assert len(found) == 3
    torch.testing.assert_close(found[-1].logits, last.logits)
    torch.testing.assert_close(found[-1].boxes, last.boxes)
    assert not torch.allclose(found[0].logits, last.logits)


@each_detector
def test_queries_are_one_cell_that_covers_the_input(name: str) -> None:
    output = build(name)(images(32, 40))
    points, boxes = output.points["o2o"], output.branches["o2o"][-1].boxes
    assert (len(points), points.located, points.extent) == (QUERIES, False, (40.0, 32.0))
    assert points.anchors[:1].tolist() == [[0.0, 0.0, 40.0, 32.0]]
    assert points.level.tolist() == [0] * QUERIES
    assert not points.take(torch.tensor([1])).to("cpu").located
    assert (boxes[..., 2:] > boxes[..., :2]).all()


@each_detector
def test_all_scores_start_at_one_percent(name: str) -> None:
    """The bias of every class layer, also of those of a further branch."""
    state = build(name, "o2o", "o2m").state_dict().items()
    biases = [p for key, p in state if ".cls." in key and key.endswith("bias") and len(p) == 3]
    assert len(biases) >= 2
    torch.testing.assert_close(torch.cat(biases).sigmoid(), torch.full((3 * len(biases),), 0.01))


@pytest.mark.parametrize("name", ["detr", "deformable_detr"])
def test_weights_of_class_layers_start_from_a_small_normal_distribution(name: str) -> None:
    (weight,) = [p for key, p in build(name).named_parameters() if key.endswith(".cls.weight")]
    assert weight.std().item() == pytest.approx(0.01, rel=0.3)


@each_detector
def test_permuted_queries_permute_the_predictions(name: str) -> None:
    detector = build(name).eval()
    (before,) = detector(images()).branches["o2o"]
    order = torch.tensor([3, 0, 6, 1, 2, 5, 4])
    learned = [p for p in detector.head.parameters() if len(p) == QUERIES]
    assert learned
    with torch.no_grad():
        for parameter in learned:
            parameter.copy_(parameter[order])
    (after,) = detector(images()).branches["o2o"]
    torch.testing.assert_close(after.logits, before.logits[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.boxes, before.boxes[:, order], rtol=1e-3, atol=0.02)


@each_detector
def test_a_batch_predicts_what_its_images_do(name: str) -> None:
    detector = build(name).eval()
    (batch,) = detector(images(batch=3)).branches["o2o"]
    for i in range(3):
        (one,) = detector(images(batch=3)[i : i + 1]).branches["o2o"]
        torch.testing.assert_close(one.boxes[0], batch.boxes[i], rtol=1e-3, atol=0.02)


@each_detector
def test_it_trains_and_is_measured_like_every_detector(name: str) -> None:
    data = Shapes(size=32, train_images=16, val_images=4, max_side=24)
    detector = detectors.build_detector(small(name), MATCHING, 4)
    losses = list[float]()
    detectors.train(
        detector,
        MATCHING,
        data.load("train"),
        Training(epochs=3, batch=4, lr=1e-3, warmup_steps=2, loss=LOSS),
        after_epoch=lambda _, parts: losses.append(sum(parts.values())),
    )
    assert losses[-1] < losses[0]
    assert not [key for key, p in detector.named_parameters() if p.grad is None]
    gap = detectors.evaluate(detector, MATCHING, data.load("val"))["o2o"]
    assert {"ap", "ap_nms", "gap"} <= gap.metrics.keys()
    request = CandidateRequest(("o2o",), 1000)
    found = predict(detector, data.load("val"), request, LocalWorld())["o2o"]
    assert found.image.bincount().tolist() == [QUERIES * 4] * 4
    assert set(found.level_points.tolist()) == {QUERIES}
    assert found.points.isfinite().all()
    assert (found.strides > 0).all()


@each_detector
def test_without_class_cost_classes_are_trained(name: str) -> None:
    plain = MATCHING.model_copy(update={"classification": False})
    detector = detectors.build_detector(small(name), plain, 4)
    data = Shapes(size=32, train_images=4, max_side=24).load("train")
    parts = dict[str, float]()
    training = Training(epochs=1, batch=4, loss=LOSS)
    detectors.train(detector, plain, data, training, after_epoch=lambda _, p: parts.update(p))
    assert parts.keys() == {"o2o.cls", "o2o.box", "o2o.l1"}
    weights = [p for key, p in detector.named_parameters() if ".o2o." in key and ".cls." in key]
    assert weights
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)


def test_a_class_cost_of_weight_0_is_none() -> None:
    rng = torch.Generator().manual_seed(0)
    points = build("detr")(images()).points["o2o"]
    corner = 20 * torch.rand(1, QUERIES, 2, generator=rng)
    predicted = Predictions(
        torch.randn(QUERIES, 3, generator=rng) * 4, (corner + 1).repeat(1, 1, 2)[0]
    )
    predicted.boxes[:, 2:] += 9 * torch.rand(QUERIES, 2, generator=rng)
    objects = Targets(
        predicted.boxes[:4] + torch.randn(4, 4, generator=rng), torch.tensor([0, 1, 2, 0])
    )
    found = list[Tensor]()
    for change in ({}, {"cls_weight": 0.0}, {"classification": False}):
        strategy = MATCHING.model_copy(update=change)
        assert isinstance(strategy, Assigner)
        found.append(strategy.assign(points, predicted, objects, Progress(0, 1, 0, 1)).object)
    with_cost, *without = found
    assert torch.equal(*without)
    assert not torch.equal(with_cost, without[0])


FIT: dict[str, list[dict[str, Any]]] = {
    "min_cost": [{}],
    "min_cost_many": [{}],
    "ms_detr": [{}],
    "deta": [{}],
    "poto": [{"prior": "global"}],
    "o2f": [{"prior": "global"}],
    "dual": [{"o2o": {"name": "min_cost"}, "o2m": {"name": "min_cost_many"}}],
    "hybrid": [{"first": {"name": "min_cost_many"}, "then": {"name": "min_cost"}}],
    "mixture": [{"main": {"name": "min_cost"}, "aux": {"name": "min_cost_many"}}],
}
"""Options with which assignments need no positions."""


@pytest.mark.parametrize("assignment", ASSIGNERS)
def test_which_assignments_fit_queries(assignment: str) -> None:
    entry = ASSIGNERS[assignment]
    fitting = [
        entry.model_validate({"name": assignment, **each}) for each in FIT.get(assignment, ())
    ]
    assert all(need_positions(each) == [] for each in fitting)
    plain = entry()
    assert (need_positions(plain) == []) == (plain in fitting)


@each_detector
def test_an_assignment_that_needs_positions_is_refused_before_training(name: str) -> None:
    data = Shapes(size=32, train_images=4, max_side=24).load("train")
    strategy = ASSIGNERS["dual"]()
    detector = build(name, *strategy.branches())
    with pytest.raises(ValueError, match="o2m: fcos needs the positions of points"):
        detectors.train(detector, strategy, data, Training(epochs=1, batch=4))


@pytest.mark.parametrize("assignment", ["poto", "o2f"])
def test_assignments_by_quality_train_queries(assignment: str) -> None:
    strategy = ASSIGNERS[assignment].model_validate({"name": assignment, "prior": "global"})
    data = Shapes(size=32, train_images=4, max_side=24).load("train")
    detector = detectors.build_detector(small("detr"), strategy, 4)
    learner = detectors.train(detector, strategy, data, Training(epochs=1, batch=4, loss=LOSS))
    (branch,) = strategy.branches()
    assert learner.positives(branch)[0] >= 1


@each_detector
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
def test_options_out_of_range_or_unknown_are_refused(
    name: str, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        small(name, **wrong)
