from typing import Any

import pytest
import torch
from pydantic import ValidationError

import detectors
from detectors.cost import model_cost
from detectors.criterion import of_one_class
from detectors.data.shapes import Shapes
from detectors.models.deformable import Cells, DeformableAttention, ring
from detectors.models.deformable_detr import DeformableDetector, DeformableDetrOptions
from detectors.models.initial_queries import ProposedQueries
from detectors.models.parts import parts_of
from detectors.models.resnet import ResNet
from detectors.optimizer import make_optimizer
from detectors.structures import TargetBatch, Targets
from detectors.training import Training
from tests.detectors import queries
from tests.detectors.queries import LOSS, MATCHING, images, small

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "refined": {"refine": True},
    "two stages": {"refine": True, "two_stage": True},
}
each_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
each_other = pytest.mark.parametrize("changes", [*VARIANTS.values()][1:], ids=[*VARIANTS][1:])
"""Variants that are not tested among the detectors of the table."""


def build(**changes: Any) -> DeformableDetector:
    detector = queries.build("deformable_detr", **{"decoder_layers": 2} | changes)
    assert isinstance(detector, DeformableDetector)
    return detector


def test_parameters_are_those_that_deformable_detr_publishes() -> None:
    """39,847,265 with ResNet-50 and 91 outputs for classes (40 M); ours are COCO's 80."""
    backbone = ResNet(depth=50, weights="resnet50.pth")
    options = DeformableDetrOptions(backbone=backbone, **DeformableDetrOptions.published)
    cost = model_cost(options, 80, ("o2o",), (800, 1066))
    assert options.queries == 300
    assert cost.trainable == 39_847_265 - (91 - 80) * (256 + 1)


@each_variant
def test_every_decoder_layer_predicts_in_training_and_the_last_one_at_inference(
    changes: dict[str, Any],
) -> None:
    detector = build(**changes).train()
    output = detector(images())
    (last,) = detector.eval()(images()).branches["o2o"]
    found = output.branches["o2o"]
    assert len(found) == 2
    assert torch.equal(found[-1].logits, last.logits)
    assert torch.equal(found[-1].boxes, last.boxes)
    assert len(output.points["o2o"]) == 7 == last.boxes.shape[1]
    assert list(output.proposals) == (["o2o"] if "two_stage" in changes else [])
    assert not detector(images()).proposals


@each_variant
def test_boxes_start_at_their_references(changes: dict[str, Any]) -> None:
    """Learned queries start with sides of sigmoid(-2); all layers predict the same at first."""
    detector = build(**changes).train()
    first, second = detector(images()).branches["o2o"]
    torch.testing.assert_close(first.boxes, second.boxes, rtol=1e-3, atol=1e-2)
    if "two_stage" not in changes:
        side = torch.tensor(-2.0).sigmoid() * torch.tensor([40.0, 32.0])
        sides = first.boxes[..., 2:] - first.boxes[..., :2]
        torch.testing.assert_close(sides, side.expand_as(sides), rtol=1e-3, atol=1e-3)


def test_permuted_queries_permute_the_predictions() -> None:
    detector = build(refine=True).eval()
    (before,) = detector(images()).branches["o2o"]
    order = torch.tensor([3, 0, 6, 1, 2, 5, 4])
    with torch.no_grad():
        queries = detector.get_parameter("head.initial.queries")
        queries.copy_(queries[order])
    (after,) = detector(images()).branches["o2o"]
    torch.testing.assert_close(after.logits, before.logits[:, order])
    torch.testing.assert_close(after.boxes, before.boxes[:, order])


@each_other
def test_a_batch_predicts_what_its_images_do(changes: dict[str, Any]) -> None:
    detector = build(**changes).eval()
    (batch,) = detector(images(batch=3)).branches["o2o"]
    for i in range(3):
        (one,) = detector(images(batch=3)[i : i + 1]).branches["o2o"]
        torch.testing.assert_close(one.boxes[0], batch.boxes[i], rtol=1e-4, atol=1e-3)


def test_refinement_has_predictors_for_each_layer_and_no_gradient_between() -> None:
    detector = build(refine=True).train()
    _, second = detector(images()).branches["o2o"]
    second.boxes.sum().backward()
    weights = [detector.get_parameter(f"head.predictors.o2o.{i}.box.4.bias") for i in (0, 1)]
    assert weights[0].grad is None
    assert weights[1].grad is not None


def test_the_best_valid_cells_become_queries_without_gradients() -> None:
    detector = build(refine=True, two_stage=True).train()
    cells = detector.head._encoded(detector.neck(detector.backbone(images().float() / 64 - 2)))
    initial = detector.head.initial
    assert isinstance(initial, ProposedQueries)
    proposed = initial.propose(cells)
    ranks = proposed.logits.detach()[..., 0].masked_fill(~proposed.valid, -torch.inf)
    start = initial(proposed, 0, 7)
    assert not start.reference.requires_grad
    for image in range(2):
        best = sorted(range(ranks.shape[1]), key=lambda i: -float(ranks[image, i]))
        assert torch.equal(start.reference[image], proposed.boxes[image, best[:7]])
        again = initial(proposed, 5, 4).reference[image]
        assert torch.equal(again, proposed.boxes[image, best[5:9]])


def test_cells_near_the_border_and_too_large_ones_propose_nothing() -> None:
    """Centres closer to it than 0.01, and sides above 0.99: the first and last of 60, level 6."""
    torch.manual_seed(0)
    initial, sizes = ProposedQueries(8), ((1, 60), *[(1, 1)] * 5)
    cells = Cells(torch.randn(1, 65, 8), sizes)
    proposed = initial.propose(cells)
    wrong = [0, 59, 64]
    assert (~proposed.valid).nonzero()[:, 0].tolist() == wrong
    x = (torch.arange(1, 59) + 0.5) / 60
    anchors = torch.stack([x, 0 * x + 0.5, 0 * x + 0.05, 0 * x + 0.05], 1)
    torch.testing.assert_close(proposed.boxes[0, 1:59], anchors)
    other = cells.features.clone()
    other[:, wrong] += 1
    assert torch.equal(initial.propose(Cells(other, sizes)).logits, proposed.logits)
    ranked = proposed._replace(logits=torch.arange(65.0).view(1, 65, 1))
    best = initial(ranked, 0, 6).reference
    assert torch.equal(best, proposed.boxes[:, [63, 62, 61, 60, 58, 57]])


def test_deformable_attention_starts_from_rings_and_equal_weights() -> None:
    """Although other weights of the transformer are Xavier-uniform (section A.3)."""
    layers = [m for m in build().head.modules() if isinstance(m, DeformableAttention)]
    assert len(layers) == 2 + 2
    for layer in layers:
        for part in (layer.sampling_offsets, layer.attention_weights):
            assert not part.weight.any()
        assert torch.equal(layer.sampling_offsets.bias, ring(*layer.shape).flatten())


def test_boxes_are_given_with_the_anchors_and_proposals_that_they_started_from() -> None:
    """Cells near the border propose (1, 1, 1, 1), as in the released code."""
    detector = build(refine=True, two_stage=True).train()
    output = detector(images(8, 256))
    proposed, first = output.proposals["o2o"][1], output.branches["o2o"][0].references
    assert first is not None
    assert not first.requires_grad
    assert all(each.references is first for each in output.branches["o2o"])
    found, anchors = proposed.boxes.detach(), proposed.references
    assert anchors is not None
    for image in range(2):
        assert all((found[image] == box).all(1).any() for box in first[image])
    columns, corner = 64, torch.tensor([128.0, 4.0, 384.0, 12.0])
    side = 0.05 * torch.tensor([256.0, 8.0])
    for cell in range(2 * columns):
        center = torch.tensor([cell % columns * 4.0 + 2, cell // columns * 4.0 + 2])
        expected = torch.cat([center - side / 2, center + side / 2])
        near = cell % columns in (0, columns - 1)
        torch.testing.assert_close(anchors[0, cell], corner if near else expected)
        assert torch.equal(found[0, cell], corner) == near
    assert all(each.references is None for each in build().train()(images()).branches["o2o"])


def test_there_are_no_more_proposals_than_cells() -> None:
    detector = build(refine=True, two_stage=True, queries=500)
    output = detector.train()(images(8, 8))
    assert len(output.points["o2o"]) == output.branches["o2o"][0].boxes.shape[1] == 4 + 1 + 1
    assert len(output.proposals["o2o"][0]) == 6


def test_objects_of_one_class_keep_their_boxes() -> None:
    objects = Targets(torch.rand(2, 4), torch.tensor([3, 1]))
    found = of_one_class(TargetBatch.of([objects], torch.device("cpu")))
    assert found.labels.tolist() == [[0, 0]] == [found.images[0].labels.tolist()]
    assert torch.equal(found.images[0].boxes, objects.boxes)


@each_other
def test_it_trains_and_is_measured_like_every_detector(changes: dict[str, Any]) -> None:
    data = Shapes(size=32, train_images=16, val_images=4, max_side=24)
    options = small("deformable_detr", decoder_layers=2, **changes)
    detector, losses = detectors.build_detector(options, MATCHING, 4), list[float]()
    learner = detectors.train(
        detector,
        MATCHING,
        data.load("train"),
        Training(epochs=3, batch=4, lr=1e-3, warmup_steps=2, loss=LOSS),
        after_epoch=lambda _, parts: losses.append(sum(parts.values())),
    )
    assert losses[-1] < losses[0]
    assert learner.positives("o2o")[0] == pytest.approx(1.0)
    missing = [name for name, p in detector.named_parameters() if p.grad is None]
    assert not missing
    gap = detectors.evaluate(detector, MATCHING, data.load("val"))["o2o"]
    assert {"ap", "ap_nms", "gap"} <= gap.metrics.keys()


def test_sampling_has_a_learning_rate_of_its_own() -> None:
    detector = build()
    optimizer = make_optimizer(detector, Training(backbone_lr=0.5, sampling_lr=0.1))
    shares = {id(p): group["share"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in detector.named_parameters():
        slow = "sampling_offsets" in name or "reference_points" in name
        expected = 0.5 if name.startswith("backbone.") else 0.1 if slow else 1.0
        assert shares[id(parameter)] == expected, name
    plain = make_optimizer(detector, Training())
    assert {group["share"] for group in plain.param_groups} == {1.0}


def test_its_parts_can_be_frozen() -> None:
    parts = parts_of(build(refine=True))
    assert parts["cls_predictor"] == [f"head.predictors.o2o.{i}.cls" for i in (0, 1)]
    assert {"backbone", "neck", "level_embed", "encoder", "initial", "decoder"} <= parts.keys()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attention_heads": 3}, r"attention_heads must divide channels \(16\), got 3"),
        ({"two_stage": True}, "two_stage: true needs refine: true"),
        ({"samples": 0}, "samples"),
        ({"extra_levels": 4}, "extra_levels"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small("deformable_detr", **wrong)
