"""SimOTA, compared with loops in Python."""

from math import log

import pytest
import torch
from hypothesis import given

from detectors.assigners.simota import SimOta
from detectors.structures import Points, Predictions, Progress
from tests.detectors.assigners import loops
from tests.detectors.assigners.loops import Box, inside, ious, points_of, sigmoid, targets_at
from tests.examples import examples

EACH = [SimOta(), SimOta(iou_weight=0.5, topk=3, radius=1.0)]


def assign(rule: SimOta, points: Points, predicted: Predictions, boxes: list[Box]) -> list[int]:
    found = rule.assign(points, predicted, targets_at(boxes), Progress(0, 1, 0, 1))
    assert found.weight is None
    objects: list[int] = found.object.tolist()
    return objects


def near(points: Points, box: Box, radius: float) -> list[bool]:
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    pairs = zip(points.xy.tolist(), points.stride.tolist(), strict=True)
    return [max(abs(x - cx), abs(y - cy)) < radius * stride for (x, y), stride in pairs]


def cross_entropy(logits: list[float], label: int) -> float:
    scores = [sigmoid(logit) for logit in logits]
    return -sum(log(p if c == label else 1 - p) for c, p in enumerate(scores))


def looped(rule: SimOta, points: Points, predicted: Predictions, boxes: list[Box]) -> list[int]:
    iou, count = ious(predicted, boxes), len(points)
    areas = [(inside(points, box), near(points, box, rule.radius)) for box in boxes]
    candidates = [n for n in range(count) if any(a[n] or b[n] for a, b in areas)]
    costs, chosen = [], []
    for g, (within, close) in enumerate(areas):
        cost = {}
        for n in candidates:
            entropy = cross_entropy(predicted.logits[n].tolist(), g % 3)
            cost[n] = entropy - rule.iou_weight * log(iou[g][n] + 1e-8)
            cost[n] += 0.0 if within[n] and close[n] else 1e5
        most = sorted((iou[g][n] for n in candidates), reverse=True)[: rule.topk]
        best = sorted(candidates, key=lambda n: (cost[n], n))[: max(1, int(sum(most)))]
        costs.append(cost)
        chosen.append(set(best))
    owner = [-1] * count
    for n in candidates:
        choosing = [g for g, best in enumerate(chosen) if n in best]
        competing = range(len(boxes)) if len(choosing) > 1 else choosing
        owner[n] = min(competing, key=lambda g: (costs[g][n], g), default=-1)
    return owner


@pytest.mark.parametrize("rule", EACH, ids=str)
@examples(15)
@given(loops.sizes, loops.boxes, loops.seeds)
def test_equals_the_loop(rule: SimOta, size: tuple[int, int], boxes: list[Box], seed: int) -> None:
    points = points_of(*size)
    predicted = loops.random_predictions(points, seed)
    assert assign(rule, points, predicted, boxes) == looped(rule, points, predicted, boxes)


def test_a_contested_point_may_belong_to_an_object_that_did_not_choose_it() -> None:
    """Two objects choose the first point. It costs a third one less, which chose the second."""
    points = points_of(16, 16, (8,))
    boxes: list[Box] = [(0.0, 0.0, 14.0, 14.0), (0.0, 0.0, 14.0, 14.0), (0.0, 0.0, 13.0, 5.0)]
    rows = [[0.0, 0.0, 13.0, 6.0], [0.0, 0.0, 13.0, 5.0], [0.0] * 4, [0.0] * 4]
    predicted = Predictions(torch.zeros(4, 3), torch.tensor(rows))
    assert assign(SimOta(), points, predicted, boxes) == [2, 2, -1, -1]


@pytest.mark.parametrize(("shares", "count"), [([0.9] * 3, 2), ([0.5], 1), ([1.0] * 12, 10)])
def test_the_number_of_points_is_the_sum_of_the_best_ious(shares: list[float], count: int) -> None:
    points, box = points_of(64, 64), (0.0, 0.0, 64.0, 64.0)
    predicted = Predictions(torch.zeros(len(points), 3), torch.zeros(len(points), 4))
    for n, share in enumerate(shares):
        predicted.boxes[n] = torch.tensor([0.0, 0.0, 64.0, 64 * share])
    assert assign(SimOta(), points, predicted, [box]).count(0) == count


def test_points_of_its_own_area_come_first() -> None:
    """The prediction is perfect far from the centre, where the point of another object lies."""
    points = points_of(64, 64, (4,))
    boxes: list[Box] = [(0.0, 0.0, 12.0, 12.0), (44.0, 44.0, 64.0, 64.0)]
    predicted = Predictions(torch.zeros(len(points), 3), points.xy.repeat(1, 2))
    far = len(points) - 1
    predicted.boxes[far] = torch.tensor(boxes[0])
    own = [n for n, g in enumerate(assign(SimOta(), points, predicted, boxes)) if g == 0]
    assert len(own) == 1
    assert points.xy[own[0]].max() < 12


def test_only_candidates_count() -> None:
    """Four points in the box have an IoU of 0.25 each, all others of 1."""
    points, box = points_of(32, 32, (8,)), (0.0, 0.0, 16.0, 16.0)
    rows = [[0.0, 0.0, 8.0, 8.0] if within else [*box] for within in inside(points, box)]
    predicted = Predictions(torch.zeros(len(points), 3), torch.tensor(rows))
    assert sum(inside(points, box)) == 4
    owner = assign(SimOta(radius=1.0), points, predicted, [box])
    assert owner.count(0) == 1
