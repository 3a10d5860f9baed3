"""PAA, compared with a loop over objects in which scikit-learn fits the mixtures."""

import warnings
from math import inf, log
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

from detectors.assigners.gaussians import fit, separate
from detectors.assigners.paa import Paa
from detectors.structures import Points, Predictions, Progress
from tests.detectors.assigners import loops
from tests.detectors.assigners.loops import Box, ious, points_of, scalar_iou, sigmoid, targets_at
from tests.examples import examples

mixture = pytest.importorskip("sklearn.mixture")
EACH = [Paa(), Paa(topk=3, min_iou=0.3, iou_weight=0.5, iterations=7)]


def fitted(costs: list[float], iterations: int) -> Any:
    """Fit two Gaussians as the released code of PAA does, with scikit-learn's defaults."""
    model = mixture.GaussianMixture(
        2,
        covariance_type="diag",
        weights_init=[0.5, 0.5],
        means_init=[[min(costs)], [max(costs)]],
        precisions_init=[[1.0], [1.0]],
        max_iter=iterations,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(np.array(costs)[:, None])


def selected(costs: list[float], iterations: int) -> list[int]:
    """Return positions in sorted costs of the first Gaussian, up to the likeliest one."""
    if len(costs) < 2:
        return list(range(len(costs)))
    model, column = fitted(costs, iterations), np.array(costs)[:, None]
    first = [k for k, own in enumerate(model.predict(column)) if own == 0]
    likelihood = model.score_samples(column)
    last = max(first, key=lambda k: (likelihood[k], -k), default=-1)
    return [k for k in first if k <= last]


def looped(rule: Paa, points: Points, predicted: Predictions, boxes: list[Box]) -> list[int]:
    anchors, levels = points.anchors.tolist(), points.level.tolist()
    overlap = [[scalar_iou(box, tuple(anchor)) for anchor in anchors] for box in boxes]
    iou, count = ious(predicted, boxes), len(points)
    lowest, found = [inf] * count, [-1] * count
    near = {
        n
        for row in overlap
        for n in range(count)
        if row[n] > 0 and (row[n] >= rule.min_iou or row[n] == max(row))
    }
    best = [
        max(range(len(boxes)), key=lambda g: (overlap[g][n], -g), default=-1) for n in range(count)
    ]
    owner = [best[n] if n in near else -1 for n in range(count)]
    for g in range(len(boxes)):
        cost = {
            n: -log(sigmoid(predicted.logits[n, g % 3].item()))
            - rule.iou_weight * log(iou[g][n] + 1e-8)
            for n in range(count)
            if owner[n] == g
        }
        kept: list[int] = []
        for level in set(levels):
            own = [n for n in cost if levels[n] == level]
            kept += sorted(own, key=lambda n: (cost[n], n))[: rule.topk]
        kept.sort(key=lambda n: (cost[n], n))
        for k in selected([cost[n] for n in kept], rule.iterations):
            if cost[kept[k]] < lowest[kept[k]]:
                lowest[kept[k]], found[kept[k]] = cost[kept[k]], g
    return found


@pytest.mark.parametrize("rule", EACH, ids=str)
@examples(12)
@given(loops.sizes, loops.boxes, loops.seeds)
def test_equals_the_loop(rule: Paa, size: tuple[int, int], boxes: list[Box], seed: int) -> None:
    points = points_of(*size)
    predicted = loops.random_predictions(points, seed)
    found = rule.assign(points, predicted, targets_at(boxes), Progress(0, 1, 0, 1))
    assert found.object.tolist() == looped(rule, points, predicted, boxes)


@pytest.mark.parametrize("iterations", [1, 5, 100])
def test_mixtures_are_those_of_scikit_learn(iterations: int) -> None:
    """Rows of different lengths, fitted together."""
    rng = torch.Generator().manual_seed(0)
    rows = [
        (torch.randn(n, generator=rng, dtype=torch.float64) + 4 * (torch.arange(n) > n / 3))
        .sort()
        .values
        for n in (2, 3, 9, 27)
    ]
    cost = torch.stack([torch.cat([row, torch.full((27 - len(row),), inf)]) for row in rows])
    there = cost.isfinite()
    found = fit(torch.where(there, cost, 0.0), there, iterations)
    for g, row in enumerate(rows):
        model = fitted(row.tolist(), iterations)
        expected = (model.weights_, model.means_[:, 0], model.covariances_[:, 0])
        for ours, theirs in zip(found, expected, strict=True):
            assert ours[g, :, 0].tolist() == pytest.approx(theirs.tolist(), rel=1e-8)


def test_two_groups_are_separated() -> None:
    """Up to the likeliest of the first group; a single value is returned as it is."""
    low, high = [1.0, 1.1, 1.2, 1.3], [9.0, 9.1, 9.2, 9.3, 9.4]
    rows = [low + high, [5.0] + [inf] * 8, [inf] * 9]
    found = separate(torch.tensor(rows, dtype=torch.float64), 100)
    assert found[0].nonzero()[:, 0].tolist() == selected(low + high, 100)
    assert 0 < found[0].sum() <= len(low)
    assert found[1].tolist() == [True] + [False] * 8
    assert not found[2].any()
