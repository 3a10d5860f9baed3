"""DETA and MS-DETR, compared with loops in Python."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given

from detectors.assigners.deta import Deta
from detectors.assigners.dual import Dual
from detectors.assigners.min_cost import MinCost
from detectors.assigners.ms_detr import MsDetr
from detectors.assigners.similar import SimilarRule
from detectors.engine import assign
from detectors.models.points import whole_image
from detectors.structures import Predictions, Progress, TargetBatch, Targets
from tests.detectors.assigners import loops
from tests.detectors.assigners.loops import Box, ious, points_of, sigmoid, targets_at
from tests.examples import examples

EACH: list[SimilarRule] = [
    Deta(),
    Deta(threshold=0.1, topk=2),
    Deta(threshold=0.05, topk=3, low_quality=False),
    MsDetr(),
    MsDetr(alpha=0.5, threshold=0.3, topk=2),
    MsDetr(low_quality=False),
]
NOW = Progress(0, 1, 0, 1)
CPU = torch.device("cpu")


def similarities(rule: SimilarRule, predicted: Predictions, boxes: list[Box]) -> list[list[float]]:
    iou = ious(predicted, boxes)
    if not isinstance(rule, MsDetr):
        return iou
    score = [[sigmoid(float(row[g % 3])) for row in predicted.logits] for g in range(len(boxes))]
    return [
        [(1 - rule.alpha) * p + rule.alpha * u for p, u in zip(*pair, strict=True)]
        for pair in zip(score, iou, strict=True)
    ]


def looped(rule: SimilarRule, predicted: Predictions, boxes: list[Box]) -> list[int]:
    """The matcher of detectron2 with one threshold, and the k best matches of each object."""
    value, found = similarities(rule, predicted, boxes), [-1] * len(predicted.boxes)
    if not boxes:
        return found
    columns = [list(column) for column in zip(*value, strict=True)]
    owner = [column.index(max(column)) for column in columns]
    positive = {n for n, column in enumerate(columns) if max(column) >= rule.threshold}
    if rule.low_quality:
        positive |= {own.index(max(own)) for own in value if max(own) > 0}
    for g, own in enumerate(value):
        mine = sorted((n for n in positive if owner[n] == g), key=lambda n: (-own[n], n))
        for n in mine[: rule.topk]:
            found[n] = g
    return found


@pytest.mark.parametrize("rule", EACH, ids=str)
@examples(15)
@given(loops.sizes, loops.boxes, loops.seeds)
def test_equals_the_loop(
    rule: SimilarRule, size: tuple[int, int], boxes: list[Box], seed: int
) -> None:
    points = points_of(*size)
    predicted = loops.random_predictions(points, seed)
    found = rule.assign(points, predicted, targets_at(boxes), NOW)
    assert found.object.tolist() == looped(rule, predicted, boxes)
    assert found.weight is None


def test_only_the_best_predictions_of_an_object_are_kept() -> None:
    """Seven predictions overlap the object by 0.5 to 0.95; the score has no influence on DETA."""
    object_ = torch.tensor([[0.0, 0.0, 20.0, 10.0]])
    widths = torch.tensor([10.0, 13.0, 14.0, 15.0, 17.0, 18.0, 19.0])
    boxes = torch.stack([0 * widths, 0 * widths, widths, 0 * widths + 10], 1)
    predicted = Predictions(torch.tensor([[-9.0], [9.0], *[[-9.0]] * 5]), boxes)
    points, targets = points_of(7, 1), Targets(object_, torch.tensor([0]))
    deta = Deta(topk=3).assign(points, predicted, targets, NOW).object.tolist()
    assert deta[:7] == [-1, -1, -1, -1, 0, 0, 0]
    least = Deta(topk=9, threshold=0.5).assign(points, predicted, targets, NOW).object
    assert least.tolist()[:7] == [0] * 7, "a similarity of exactly the threshold is enough"
    ms_detr = MsDetr(topk=2, threshold=0.6).assign(points, predicted, targets, NOW)
    assert ms_detr.object.tolist()[:7] == [-1, 0, -1, -1, -1, -1, 0]


@pytest.mark.parametrize("groups", [1, 2])
def test_deta_compares_the_boxes_that_predictions_started_from(groups: int) -> None:
    """For several heads together; MS-DETR compares what is predicted."""
    heads = [loops.random_predictions(points_of(5, 4), seed) for seed in (1, 2, 3)]
    first, *others = (Predictions(each.logits[None], each.boxes[None]) for each in heads)
    given = [replace(each, references=first.boxes) for each in others]
    points = replace(whole_image(32, 40, len(heads[0].boxes), CPU), groups=groups)
    objects: list[list[Box]] = [[(2.0, 3.0, 20.0, 22.0), (8.0, 1.0, 31.0, 30.0)]]
    targets = TargetBatch.of([targets_at(boxes) for boxes in objects], CPU)
    for rule in (Deta(threshold=0.1), MsDetr(threshold=0.1)):
        expected = assign(rule, points, [first, *others], targets, NOW)
        found = assign(rule, points, given, targets, NOW)
        for i in (0, 1):
            owner = expected[i + 1 if isinstance(rule, MsDetr) else 0].object
            assert torch.equal(found[i].object, owner)
    assert [int((each.object >= 0).sum()) for each in found] != [0, 0]


def test_they_need_no_positions() -> None:
    assert not Dual(o2o=MinCost(), o2m=MsDetr()).needs_positions
    assert not Dual(o2o=MinCost(), o2m=Deta()).needs_positions
