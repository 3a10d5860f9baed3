"""Task-aligned assignment, and the dual assignments built on it, compared with loops in Python."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.assigners.aligned_dual import AlignedDual, TalMany, TalOne
from detectors.assigners.consistent_dual import ConsistentDual
from detectors.assigners.progressive_dual import ProgressiveDual
from detectors.assigners.tal import Aligned, Tal
from detectors.structures import Points, Predictions, Progress
from tests.detectors.assigners import loops
from tests.detectors.assigners.loops import Box, inside, ious, points_of, sigmoid, targets_at
from tests.examples import examples

PROGRESS = Progress(0, 1, 0, 1)
Found = tuple[list[int], list[float]]
EACH: list[Aligned] = [
    Tal(),
    Tal(alpha=0.5, topk=2),
    Tal(beta=1.0, topk=4, grow_small=True),
    TalOne(),
    TalOne(topk=7, alpha=0.5, grow_small=True),
    TalMany(),
]


def assign(rule: Aligned, points: Points, predicted: Predictions, boxes: list[Box]) -> Found:
    found = rule.assign(points, predicted, targets_at(boxes), PROGRESS)
    assert found.weight is None
    return found.object.tolist(), found.degree.tolist()


def widened(box: Box, finest: float) -> Box:
    """Return the box of YOLO26's inside test: short sides are twice the finest stride."""
    x0, y0, x1, y1 = box
    if x1 - x0 < finest:
        x0, x1 = (x0 + x1) / 2 - finest, (x0 + x1) / 2 + finest
    if y1 - y0 < finest:
        y0, y1 = (y0 + y1) / 2 - finest, (y0 + y1) / 2 + finest
    return x0, y0, x1, y1


def looped(rule: Aligned, points: Points, predicted: Predictions, boxes: list[Box]) -> Found:
    count, iou = len(points), ious(predicted, boxes)
    score = [[sigmoid(row[g % 3]) for row in predicted.logits.tolist()] for g in range(len(boxes))]
    aligned = [
        [s**rule.alpha * u**rule.beta for s, u in zip(score[g], iou[g], strict=True)]
        for g in range(len(boxes))
    ]

    def best(members: list[int], g: int, most: int | None) -> list[int]:
        return sorted(members, key=lambda n: (-aligned[g][n], n))[:most]

    owner, degree = [-1] * count, [0.0] * count
    for g, box in enumerate(boxes):
        within = inside(points, widened(box, 4.0) if rule.grow_small else box)
        members = [n for n in range(count) if within[n] and aligned[g][n] > 0]
        for n in best(members, g, rule.topk):
            if owner[n] < 0 or iou[g][n] > iou[owner[n]][n]:
                owner[n] = g
    for g in range(len(boxes)):
        kept = best([n for n in range(count) if owner[n] == g], g, rule.kept)
        for n in kept:
            highest = max(aligned[g][m] for m in kept), max(iou[g][m] for m in kept)
            degree[n] = aligned[g][n] / highest[0] * highest[1]
    return [g if d > 0 else -1 for g, d in zip(owner, degree, strict=True)], degree


@pytest.mark.parametrize("rule", EACH, ids=str)
@examples(15)
@given(loops.sizes, loops.boxes, loops.seeds)
def test_equals_the_loop(rule: Aligned, size: tuple[int, int], boxes: list[Box], seed: int) -> None:
    points = points_of(*size)
    predicted = loops.random_predictions(points, seed)
    owner, degree = assign(rule, points, predicted, boxes)
    expected = looped(rule, points, predicted, boxes)
    assert owner == expected[0]
    assert degree == pytest.approx(expected[1], rel=1e-9)


@given(st.sampled_from(EACH), loops.boxes, loops.seeds)
@examples(15)
def test_the_highest_degree_of_an_object_is_its_highest_iou(
    rule: Aligned, boxes: list[Box], seed: int
) -> None:
    """TOOD section 3.2."""
    points = points_of(32, 32)
    predicted = loops.random_predictions(points, seed)
    owner, degree = assign(rule, points, predicted, boxes)
    for g, iou in enumerate(ious(predicted, boxes)):
        own = [n for n, each in enumerate(owner) if each == g]
        if own:
            assert max(degree[n] for n in own) == pytest.approx(max(iou[n] for n in own))


def test_a_box_between_points_has_points_only_if_it_is_grown() -> None:
    """Of the points inside the square of 8 pixels about its centre, four are of stride 4."""
    points, box = points_of(32, 32), (6.5, 6.5, 7.5, 7.5)
    around = torch.tensor([[6.0, 6.0, 10.0, 10.0]]).repeat(len(points), 1)
    predicted = Predictions(torch.zeros(len(points), 3), around)
    assert set(assign(Tal(), points, predicted, [box])[0]) == {-1}
    owner, _ = assign(Tal(grow_small=True), points, predicted, [box])
    positive = {tuple(points.xy[n].tolist()) for n, g in enumerate(owner) if g == 0}
    fine = {(6.0, 6.0), (6.0, 10.0), (10.0, 6.0), (10.0, 10.0)}
    assert positive == {*fine, (4.0, 4.0), (8.0, 8.0)}


def test_the_loser_of_a_contested_best_point_keeps_its_second_only_among_several() -> None:
    """One point per object to compete for (YOLOv10), or seven (YOLO26)."""
    points = points_of(16, 16, (8,))
    boxes: list[Box] = [(0.0, 0.0, 16.0, 12.0), (0.0, 0.0, 16.0, 16.0)]
    rows = [
        [0.0, 0.0, 16.0, 14.0],
        [0.0, 0.0, 8.0, 12.0],
        [0.0, 0.0, 1.0, 1.0],
        [0.0, 0.0, 1.0, 1.0],
    ]
    predicted = Predictions(torch.zeros(4, 3), torch.tensor(rows))
    assert assign(TalOne(), points, predicted, boxes)[0] == [1, -1, -1, -1]
    assert assign(TalOne(topk=7), points, predicted, boxes)[0] == [1, 0, -1, -1]


class TestConsistentDual:
    def test_both_branches_have_the_same_metric(self) -> None:
        dual = ConsistentDual(alpha=0.25, beta=4.0, grow_small=True)
        one, many = (each.assigner for each in dual.branches().values())
        assert one == TalOne(alpha=0.25, beta=4.0, topk=1, grow_small=True)
        assert many == TalMany(alpha=0.25, beta=4.0, topk=10, grow_small=True)
        assert list(dual.branches()) == ["o2o", "o2m"]

    @pytest.mark.parametrize("dual", [ConsistentDual(), ProgressiveDual()])
    def test_both_branches_have_the_cross_entropy_of_yolo(self, dual: AlignedDual) -> None:
        """Of a positive point to its degree, of all others to 0; without alpha and gamma."""
        one, many = (each.assigner for each in dual.branches().values())
        assert one.loss == many.loss == "cross_entropy"
        assert Tal.loss == "quality_focal"

    def test_weights_reach_their_branch(self) -> None:
        dual = ConsistentDual(lambda_o2o=2.0, lambda_o2m=0.5)
        assert [each.weight for each in dual.branches().values()] == [2.0, 0.5]

    @examples(10)
    @given(loops.boxes, loops.seeds)
    def test_the_point_of_the_one_to_one_branch_is_the_best_of_the_other(
        self, boxes: list[Box], seed: int
    ) -> None:
        """YOLOv10 section 3.1: for equal predictions, if no other object takes the point."""
        points = points_of(32, 32)
        predicted = loops.random_predictions(points, seed)
        one, many = (each.assigner for each in ConsistentDual().branches().values())
        assert isinstance(one, Aligned)
        assert isinstance(many, Aligned)
        chosen, (owner, degree) = (
            assign(one, points, predicted, boxes[:1]),
            (assign(many, points, predicted, boxes[:1])),
        )
        assert [n for n, g in enumerate(chosen[0]) if g == 0] == [
            n for n, d in enumerate(degree) if d and d == max(degree) and owner[n] == 0
        ]
