"""OTA, compared with Sinkhorn's iteration in loops, and with a linear program."""

from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.optimize import linprog

from detectors.assigners.ota import Ota, sinkhorn
from detectors.structures import Points, Predictions, Progress
from tests.detectors.assigners import loops
from tests.detectors.assigners.loops import Box, inside, ious, points_of, sigmoid, targets_at
from tests.examples import examples

EACH = [Ota(iterations=10), Ota(iou_weight=3.0, topk=4, radius=1.0, epsilon=0.5, iterations=3)]


def focal(logits: list[float], label: int) -> float:
    total = 0.0
    for c, logit in enumerate(logits):
        p = sigmoid(logit)
        own = c == label
        total += -0.25 * (1 - p) ** 2 * log(p) if own else -0.75 * p**2 * log(1 - p)
    return total


def total(logarithms: list[float]) -> float:
    highest = max(logarithms)
    return highest + log(sum(exp(each - highest) for each in logarithms))


def transported(cost: list[list[float]], supply: list[int], rule: Ota) -> list[list[float]]:
    """Return the logarithm of the plan in loops."""
    rows, columns = range(len(cost)), range(len(cost[0]))
    u, v = [0.0] * len(cost), [0.0] * len(cost[0])
    for _ in range(rule.iterations):
        for n in columns:
            v[n] = -total([u[g] - cost[g][n] / rule.epsilon for g in rows])
        for g in rows:
            reach = total([v[n] - cost[g][n] / rule.epsilon for n in columns])
            u[g] = log(supply[g] + 1e-8) - reach
    return [[u[g] + v[n] - cost[g][n] / rule.epsilon for n in columns] for g in rows]


def looped(rule: Ota, points: Points, predicted: Predictions, boxes: list[Box]) -> list[int]:
    iou, count, logits = ious(predicted, boxes), len(points), predicted.logits.tolist()
    cost, supply = [], []
    for g, box in enumerate(boxes):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        reach = [rule.radius * stride for stride in points.stride.tolist()]
        xy, within = points.xy.tolist(), inside(points, box)
        square = [
            within[n] and max(abs(xy[n][0] - cx), abs(xy[n][1] - cy)) < reach[n]
            for n in range(count)
        ]
        cost.append(
            [
                focal(logits[n], g % 3)
                - rule.iou_weight * log(iou[g][n] + 1e-8)
                + (0 if square[n] else 1e6)
                for n in range(count)
            ]
        )
        best = sorted((iou[g][n] * square[n] for n in range(count)), reverse=True)[: rule.topk]
        supply.append(max(1, int(sum(best))))
    cost.append([focal(row, -1) for row in logits])
    supply.append(max(0, count - sum(supply)))
    plan, owner = transported(cost, supply, rule), []
    for n in range(count):
        column = [(row[n] - max(row), g < len(boxes), row[n]) for g, row in enumerate(plan)]
        best_row = column.index(max(column))
        owner.append(boxes.index(boxes[best_row]) if best_row < len(boxes) else -1)
    return owner


@pytest.mark.parametrize("rule", EACH, ids=str)
@examples(8)
@given(loops.sizes, loops.boxes, loops.seeds)
def test_equals_the_loop(rule: Ota, size: tuple[int, int], boxes: list[Box], seed: int) -> None:
    points, distinct = points_of(*size), list(dict.fromkeys(boxes))
    predicted = loops.random_predictions(points, seed)
    found = rule.assign(points, predicted, targets_at(distinct), Progress(0, 1, 0, 1))
    assert found.object.tolist() == looped(rule, points, predicted, distinct)


def problem(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    cost = 5 * torch.rand(1, 4, 12, generator=rng, dtype=torch.float64)
    return cost, torch.tensor([[1, 3, 2, 6]])


@pytest.mark.parametrize("seed", range(3))
def test_the_plan_meets_supply_and_demand(seed: int) -> None:
    cost, supply = problem(seed)
    plan = sinkhorn(cost, supply, 0.1, 500).exp()
    assert plan.sum(2).tolist() == [pytest.approx(supply[0].tolist())]
    assert plan.sum(1)[0].tolist() == pytest.approx([1.0] * 12, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_without_entropy_the_plan_is_the_one_of_lowest_cost(seed: int) -> None:
    cost, supply = problem(seed)
    plan = sinkhorn(cost, supply, 0.01, 3000).exp()
    rows = np.kron(np.eye(4), np.ones(12))
    columns = np.kron(np.ones(4), np.eye(12))
    demand = np.concatenate([supply[0].numpy(), np.ones(12)])
    best = linprog(cost.flatten().numpy(), A_eq=np.vstack([rows, columns]), b_eq=demand)
    assert float((plan * cost).sum()) == pytest.approx(best.fun, abs=0.05)
