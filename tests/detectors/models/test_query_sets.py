"""Queries of a one-to-many branch: additional ones, groups of them, and the same queries."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import detectors
from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Strategy
from detectors.data.shapes import Shapes
from detectors.losses import LossOptions
from detectors.models.dense import DenseDetector
from detectors.models.extractor import load_extractor
from detectors.structures import Predictions
from detectors.training import Training
from tests.detectors.queries import LOSS, MATCHING, QUERIES, build, images, small

EXTRA = 12
BOTH = ("o2o", "o2m")
FEW: dict[str, dict[str, Any]] = {
    "detr": {"decoder_layers": 2},
    "deformable_detr": {"decoder_layers": 2, "refine": True},
    "sparse_rcnn": {"stages": 2, "roi_side": 3},
}
"""Detectors whose additional queries are learned."""
TWO_STAGES = {"two_stage": True, **FEW["deformable_detr"]}
MIXED = {"o2m_from": "cross_attention", **FEW["deformable_detr"]}
HYBRID: dict[str, Any] = {
    "o2o": MATCHING.model_dump(),
    "o2m": {"name": "min_cost_many", "l1_of": "center_sides", "repeats": 2},
}
each_detector = pytest.mark.parametrize(("name", "few"), FEW.items(), ids=FEW)


def dual(**changes: Any) -> Strategy:
    return ASSIGNERS["dual"].model_validate({"name": "dual", **HYBRID, **changes})


def learned(detector: DenseDetector, count: int, more: bool) -> Mapping[str, Tensor]:
    """Return the learned parameters of the additional queries, or of the others."""
    held = detector.head.named_parameters()
    found = {n: p for n, p in held if ("o2m_" in n) == more and len(p) == count}
    assert found
    return found


def predict(detector: DenseDetector, *branches: str) -> dict[str, tuple[Predictions, ...]]:
    """Predict all layers, with the same random numbers for the first branch in every call."""
    torch.manual_seed(3)
    return dict(detector.train()(images(), branches=branches or None).branches)


def same(a: tuple[Predictions, ...], b: tuple[Predictions, ...]) -> bool:
    """Return whether predictions are equal to the last bit."""
    pairs = zip(a, b, strict=True)
    return all(torch.equal(x.logits, y.logits) and torch.equal(x.boxes, y.boxes) for x, y in pairs)


def move(parameters: Mapping[str, Tensor], rows: slice = slice(None)) -> None:
    """Change learned queries."""
    with torch.no_grad():
        for each in parameters.values():
            each[rows] += 0.1 * torch.rand(each[rows].shape)


@each_detector
def test_queries_are_invisible_to_those_of_other_branches_and_groups(
    name: str, few: dict[str, Any]
) -> None:
    detector = build(name, *BOTH, o2m_queries=EXTRA, o2m_groups=3, **few)
    before = predict(detector)
    move(learned(detector, QUERIES, False))
    without = predict(detector)
    assert same(without["o2m"], before["o2m"])
    assert not same(without["o2o"], before["o2o"])
    move(learned(detector, EXTRA, True), slice(4, 8))
    after = predict(detector)
    assert same(after["o2o"], without["o2o"])
    for x, y in zip(before["o2m"], after["o2m"], strict=True):
        for rows, equal in ((slice(0, 4), True), (slice(4, 8), False), (slice(8, 12), True)):
            assert torch.equal(x.logits[:, rows], y.logits[:, rows]) == equal
            assert torch.equal(x.boxes[:, rows], y.boxes[:, rows]) == equal


@each_detector
def test_permuted_queries_of_a_group_permute_its_predictions(
    name: str, few: dict[str, Any]
) -> None:
    detector = build(name, *BOTH, o2m_queries=EXTRA, o2m_groups=2, **few)
    before = predict(detector)["o2m"][-1]
    order = torch.tensor([3, 0, 5, 1, 2, 4, 7, 8, 6, 11, 10, 9])
    with torch.no_grad():
        for parameter in learned(detector, EXTRA, True).values():
            parameter.copy_(parameter[order])
    after = predict(detector)["o2m"][-1]
    torch.testing.assert_close(after.logits, before.logits[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.boxes, before.boxes[:, order], rtol=1e-3, atol=0.02)


@pytest.mark.parametrize(
    ("name", "few"),
    [*FEW.items(), ("deformable_detr", TWO_STAGES), ("detr", FEW["detr"] | {"dropout": 0.5})],
    ids=[*FEW, "two stages", "dropout"],
)
def test_without_its_additional_queries_it_is_the_plain_detector(
    name: str, few: dict[str, Any]
) -> None:
    """In all bits: its weights, and what they predict in training and at inference."""
    plain = build(name, "o2o", **few)
    detector = build(name, *BOTH, o2m_queries=EXTRA, o2m_groups=3, **few)
    own, state = plain.state_dict(), detector.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in own.items())
    assert all("o2m_queries" in key or "o2m_boxes" in key for key in state.keys() - own.keys())
    assert same(predict(plain)["o2o"], predict(detector)["o2o"])
    at_inference = (each.eval()(images(), branches=("o2o",)) for each in (plain, detector))
    first, second = (output.branches for output in at_inference)
    assert list(second) == ["o2o"]
    assert same(first["o2o"], second["o2o"])


@each_detector
def test_it_starts_from_a_detector_without_additional_queries(
    name: str, few: dict[str, Any]
) -> None:
    plain, detector = build(name, "o2o", **few), build(name, *BOTH, o2m_queries=EXTRA, **few)
    move(learned(plain, QUERIES, False))
    load_extractor(detector, plain.state_dict(), "there")
    given = learned(plain, QUERIES, False)
    assert all(torch.equal(p, given[n]) for n, p in learned(detector, QUERIES, False).items())
    load_extractor(plain, detector.state_dict(), "there")


@each_detector
def test_branches_at_the_same_queries_have_the_same_boxes_and_classes_of_their_own(
    name: str, few: dict[str, Any]
) -> None:
    plain, detector = build(name, "o2o", **few), build(name, *BOTH, **few)
    added = detector.state_dict().keys() - plain.state_dict().keys()
    assert added
    assert all(key.startswith("head.predictors.o2m.") and ".cls." in key for key in added)
    assert added <= dict(detector.named_parameters()).keys(), "no layer shares them with another"
    found = predict(detector)
    for one, many in zip(found["o2o"], found["o2m"], strict=True):
        assert torch.equal(one.boxes, many.boxes)
        assert not torch.equal(one.logits, many.logits)
    assert same(predict(detector, "o2m")["o2m"], found["o2m"])


@pytest.mark.parametrize("few", [{}, {"two_stage": True}], ids=str)
def test_states_between_the_attentions_have_no_influence_on_the_one_to_one_branch(
    few: dict[str, Any],
) -> None:
    detector = build("deformable_detr", *BOTH, **MIXED, **few)
    assert [n for n, _ in detector.head.get_submodule("predictors").named_children()] == ["o2o"]
    before = predict(detector)
    own = {n: p for n, p in detector.named_parameters() if "o2m" in n}
    assert {n.split(".")[3] for n in own} == {"o2m_feed"}
    move(own)
    after = predict(detector)
    assert same(after["o2o"], before["o2o"])
    assert not same(after["o2m"], before["o2m"])
    assert same(predict(detector, "o2o")["o2o"], before["o2o"])
    assert same(predict(detector, "o2m")["o2m"], after["o2m"])


def test_queries_do_not_compete_before_self_attention() -> None:
    """Another query changes none of the one-to-many predictions of the first layer."""
    detector = build("deformable_detr", *BOTH, **MIXED)
    before = predict(detector)
    move(learned(detector, QUERIES, False), slice(0, 1))
    after = predict(detector)
    assert torch.equal(after["o2m"][0].logits[:, 1:], before["o2m"][0].logits[:, 1:])
    assert torch.equal(after["o2m"][0].boxes[:, 1:], before["o2m"][0].boxes[:, 1:])
    for branch, layer in (("o2o", 0), ("o2m", 1)):
        rest = after[branch][layer].logits[:, 1:]
        assert not torch.isclose(rest, before[branch][layer].logits[:, 1:]).all()


@pytest.mark.parametrize("assignment", ["min_cost", "min_cost_many"])
def test_states_between_the_attentions_need_a_second_branch(assignment: str) -> None:
    with pytest.raises(ValueError, match="o2m_from: needs an assignment with a one-to-one and"):
        detectors.build_detector(small("deformable_detr", **MIXED), ASSIGNERS[assignment](), 3)
    with pytest.raises(ValueError, match="o2m_from: cross_attention needs o2m_queries: 0"):
        small("deformable_detr", **MIXED, o2m_queries=EXTRA)


def test_proposals_of_lower_rank_are_the_additional_queries() -> None:
    """Those of the encoder's cells that are left, as many as the groups can share equally."""
    detector = build("deformable_detr", *BOTH, o2m_queries=300, o2m_groups=4, **TWO_STAGES)
    cells, ranks = 4 * 5 + 2 * 3 + 8 * 10, list[tuple[int, int]]()
    detector.head.get_submodule("initial").register_forward_hook(
        lambda _, given, found: ranks.append(given[1:])
    )
    output = detector.eval()(images())
    left = (cells - QUERIES) // 4 * 4
    assert ranks == [(0, QUERIES), (QUERIES, left)]
    assert len(output.points["o2m"]) == output.branches["o2m"][0].boxes.shape[1] == left
    assert (output.points["o2m"].groups, output.points["o2o"].groups) == (4, 1)
    head: Any = detector.head
    proposed = head.initial.propose(
        head._encoded(detector.neck(detector.backbone(detector.backbone.normalise(images()))))
    )
    whole = head.initial(proposed, 0, cells).reference
    assert torch.equal(head.initial(proposed, QUERIES, left).reference, whole[:, 7 : 7 + left])


def test_no_cells_may_be_left_for_additional_queries() -> None:
    """Small images train the one-to-one branch alone, in which all cells are queries."""
    data = Shapes(size=32, train_images=2, max_side=24)
    strategy, losses = dual(), list[dict[str, float]]()
    options = small("deformable_detr", **TWO_STAGES, queries=500, o2m_queries=4, o2m_groups=2)
    detector = detectors.build_detector(options, strategy, 4)
    learner = detectors.train(
        detector,
        strategy,
        data.load("train"),
        Training(epochs=1, batch=2, loss=LOSS),
        after_epoch=lambda _, parts: losses.append({**parts}),
    )
    assert losses[0]["o2o.cls"] > 0 == losses[0]["o2m.cls"]
    assert learner.positives("o2m") == (0.0, 1.0)
    assert {name.split(".")[0] for name in learner.scores()} == {"o2o"}


@pytest.mark.parametrize(
    ("name", "few", "extra"),
    [
        ("deformable_detr", TWO_STAGES, EXTRA),
        ("deformable_detr", {"two_stage": True, **MIXED}, 0),
        ("sparse_rcnn", FEW["sparse_rcnn"], 0),
    ],
)
def test_two_branches_train_and_are_measured(name: str, few: dict[str, Any], extra: int) -> None:
    data = Shapes(size=32, train_images=2, val_images=1, max_side=24)
    strategy = dual()
    options = small(name, o2m_queries=extra, **few)
    detector, losses = detectors.build_detector(options, strategy, 4), list[dict[str, float]]()
    training = Training(
        epochs=1, batch=2, warmup_steps=0, loss=LOSS, o2m_loss=LossOptions(normalizer="positives")
    )
    train = data.load("train")
    learner = detectors.train(
        detector, strategy, train, training, after_epoch=lambda _, parts: losses.append({**parts})
    )
    assert {key.split(".")[0] for key in losses[0]} == {"o2o", "o2m"}
    assert learner.positives("o2o")[0] == pytest.approx(1.0)
    assert 1 <= learner.positives("o2m")[0] <= 2
    assert not [n for n, p in detector.named_parameters() if p.grad is None]
    gaps = detectors.evaluate(detector, strategy, data.load("val"))
    assert list(gaps) == ["o2o", "o2m"]


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"o2m_queries": -1}, "o2m_queries"),
        ({"o2m_queries": 12, "o2m_groups": 5}, r"o2m_groups must divide o2m_queries \(12\), got 5"),
        ({"o2m_groups": 2}, "o2m_groups: only used with o2m_queries"),
        (
            {"attention_heads": 3, "o2m_queries": 4, "o2m_groups": 3},
            "attention_heads must divide .*; o2m_groups must divide",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(name: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(name, **wrong)


def test_the_first_boxes_of_every_group_are_a_grid() -> None:
    changes = {"first_boxes": "grid", "o2m_queries": 3 * QUERIES, "o2m_groups": 3}
    head = build("sparse_rcnn", *BOTH, **FEW["sparse_rcnn"], **changes).head
    groups = torch.split(head.get_parameter("o2m_boxes"), QUERIES)
    assert all(torch.equal(each, head.get_parameter("boxes")) for each in groups)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("assignment", ["min_cost", "min_cost_many"])
def test_additional_queries_need_a_second_branch(name: str, assignment: str) -> None:
    options = small(name, o2m_queries=EXTRA)
    with pytest.raises(ValueError, match="o2m_queries: needs an assignment with a one-to-one and"):
        detectors.build_detector(options, ASSIGNERS[assignment](), 3)
