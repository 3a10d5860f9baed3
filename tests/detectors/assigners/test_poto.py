from math import exp, hypot

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from detectors.assigners.poto import Poto
from detectors.models.points import pyramid_points
from detectors.structures import Assignment, Points, Predictions, Progress, Targets
from tests.detectors.assigners.ordering import check_order
from tests.examples import examples

Box = tuple[float, float, float, float]
Matching = dict[int, int]

STRIDES, CLASSES = (4, 8, 16), 3
SMALL = pyramid_points([(2, 2), (1, 1), (1, 1)], STRIDES, torch.device("cpu"))
LARGE = pyramid_points([(16, 16), (8, 8), (4, 4)], STRIDES, torch.device("cpu"))
half = st.integers(-4, 20).map(lambda n: n / 2)
side = st.integers(1, 40).map(lambda n: n / 2)
any_box = st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
seeds = st.integers(0, 10_000)


def predictions(points: Points, seed: int) -> Predictions:
    rng = torch.Generator().manual_seed(seed)
    reach = 0.1 + 2 * torch.rand(len(points), 4, generator=rng) * points.stride[:, None]
    boxes = torch.cat([points.xy - reach[:, :2], points.xy + reach[:, 2:]], dim=1)
    return Predictions(3 * torch.randn(len(points), CLASSES, generator=rng), boxes)


def targets(boxes: list[Box]) -> Targets:
    labels = torch.arange(len(boxes)) % CLASSES
    return Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels)


def scalar_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - overlap)


class Equations:
    """003 Eq. 4 per pair in plain Python: quality inside the prior, distance, the prior."""

    def __init__(
        self, poto: Poto, points: Points, predicted: Predictions, boxes: list[Box]
    ) -> None:
        shape = (len(boxes), len(points))
        self.quality, self.distance = np.zeros(shape), np.zeros(shape)
        self.prior = np.zeros(shape, dtype=bool)
        rows = zip(points.xy.tolist(), points.stride.tolist(), strict=True)
        for n, ((x, y), stride) in enumerate(rows):
            for g, box in enumerate(boxes):
                cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                inside = box[0] < x < box[2] and box[1] < y < box[3]
                near = max(abs(x - cx), abs(y - cy)) < poto.radius * stride
                self.prior[g, n] = {"center": inside and near, "box": inside, "global": True}[
                    poto.prior
                ]
                self.distance[g, n] = hypot(x - cx, y - cy)
                score = 1 / (1 + exp(-predicted.logits[n, g % CLASSES].item()))
                x0, y0, x1, y1 = predicted.boxes[n].tolist()
                iou = scalar_iou(box, (x0, y0, x1, y1))
                self.quality[g, n] = score ** (1 - poto.alpha) * iou**poto.alpha
                if poto.combine == "add":
                    self.quality[g, n] = (1 - poto.alpha) * score + poto.alpha * iou

    def check(self, found: Matching) -> None:
        """Assert Eq. 3: most objects inside their prior, then most quality, then least distance."""
        candidate, quality, distance = (
            getattr(self, name).__getitem__ for name in ("prior", "quality", "distance")
        )
        check_order(found.items(), self.prior.shape, candidate, quality, distance, 1e-5)


def assign(poto: Poto, points: Points, predicted: Predictions, boxes: list[Box]) -> Assignment:
    return poto.assign(points, predicted, targets(boxes), Progress(0, 1, 0, 1))


def matching(found: Assignment) -> Matching:
    return {g: n for n, g in enumerate(found.object.tolist()) if g >= 0}


@examples(30)
@given(st.lists(any_box, max_size=4), seeds, st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_no_permutation_is_better(boxes: list[Box], seed: int, alpha: float) -> None:
    poto, predicted = Poto(alpha=alpha), predictions(SMALL, seed)
    equations = Equations(poto, SMALL, predicted, boxes)
    equations.check(matching(assign(poto, SMALL, predicted, boxes)))


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("prior", ["center", "box", "global"])
@examples(10)
@given(boxes=st.lists(any_box, max_size=4), seed=seeds)
def test_no_permutation_is_better_with_other_priors_and_qualities(
    prior: str, combine: str, boxes: list[Box], seed: int
) -> None:
    poto = Poto.model_validate({"alpha": 0.5, "prior": prior, "combine": combine, "radius": 1.0})
    predicted = predictions(SMALL, seed)
    equations = Equations(poto, SMALL, predicted, boxes)
    equations.check(matching(assign(poto, SMALL, predicted, boxes)))


@pytest.mark.parametrize("prior", ["center", "box", "global"])
@examples(10)
@given(boxes=st.lists(any_box, max_size=8), seed=seeds)
def test_argmax_gives_each_object_its_best_point_unless_another_rates_it_higher(
    prior: str, boxes: list[Box], seed: int
) -> None:
    poto = Poto.model_validate({"prior": prior, "solver": "argmax"})
    predicted = predictions(LARGE, seed)
    equations = Equations(poto, LARGE, predicted, boxes)
    rated = np.where(equations.prior, equations.quality, -1.0)
    best = {g: int(row.argmax()) for g, row in enumerate(rated) if row.max() > 1e-6}
    found = matching(assign(poto, LARGE, predicted, boxes))
    for g, n in best.items():
        rivals = [h for h, m in best.items() if m == n]
        highest = max(rated[h, n] for h in rivals)
        if g in found:
            assert rated[g, found[g]] == pytest.approx(rated[g, n], abs=1e-5)
            assert rated[g, found[g]] >= highest - 1e-5
        else:
            assert len(rivals) > 1
            assert rated[g, n] <= highest + 1e-5
    assert all(equations.prior[pair] for pair in found.items())


@pytest.mark.parametrize("count", [1, 7, 25])
@pytest.mark.parametrize("radius", [1.5, 100.0])
def test_total_quality_equals_that_of_another_solver(count: int, radius: float) -> None:
    """Every box contains a point of its own, so that Eq. 3 alone decides."""
    poto, predicted = Poto(radius=radius), predictions(LARGE, count)
    rng = np.random.default_rng(count)
    corner = rng.uniform(0, 44, (count, 2))
    extent = rng.uniform(9, 20, (count, 2))
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corner, extent, strict=True)]
    equations = Equations(poto, LARGE, predicted, boxes)
    inside = np.where(equations.prior, equations.quality, -len(boxes))
    rows, columns = min_weight_full_bipartite_matching(csr_array(inside - 99), maximize=True)
    assert equations.prior[rows, columns].all()
    found = matching(assign(poto, LARGE, predicted, boxes))
    assert all(equations.prior[pair] for pair in found.items())
    total = sum(equations.quality[pair] for pair in found.items())
    assert total == pytest.approx(inside[rows, columns].sum(), abs=1e-4)


def test_an_object_between_all_points_gets_the_nearest_one_of_any_quality() -> None:
    boxes: list[Box] = [(31.0, 31.0, 32.5, 32.5)]
    predicted = predictions(LARGE, 1)
    equations = Equations(Poto(), LARGE, predicted, boxes)
    assert not equations.prior.any()
    chosen = matching(assign(Poto(), LARGE, predicted, boxes))[0]
    assert equations.distance[0, chosen] == pytest.approx(equations.distance[0].min())


def test_a_shared_point_goes_to_the_higher_quality_and_the_loser_takes_the_nearest() -> None:
    boxes: list[Box] = [(4.5, 4.5, 7.5, 7.5), (5.0, 5.0, 7.5, 7.5)]
    predicted = predictions(SMALL, 2)
    equations = Equations(Poto(), SMALL, predicted, boxes)
    shared = [n for n in range(len(SMALL)) if equations.prior[:, n].any()]
    assert [SMALL.xy[n].tolist() for n in shared] == [[6.0, 6.0]]
    found = matching(assign(Poto(), SMALL, predicted, boxes))
    (winner,) = (g for g, n in found.items() if n == shared[0])
    loser = 1 - winner
    assert equations.quality[winner, shared[0]] > equations.quality[loser, shared[0]]
    assert equations.distance[loser, found[loser]] == sorted(equations.distance[loser])[1]


def test_levels_compete_by_quality_not_by_size() -> None:
    box: Box = (8.0, 8.0, 24.0, 24.0)
    logits = torch.full((len(LARGE), CLASSES), -4.0)
    boxes = torch.tensor([box]).repeat(len(LARGE), 1)
    for best in (i for i, xy in enumerate(LARGE.xy.tolist()) if xy in ([14, 14], [12, 20])):
        sharper = logits.clone()
        sharper[best, 0] = 2.0
        assert matching(assign(Poto(), LARGE, Predictions(sharper, boxes), [box])) == {0: best}


def test_only_the_score_of_the_objects_own_class_counts() -> None:
    box: Box = (8.0, 8.0, 24.0, 24.0)
    boxes = torch.tensor([box]).repeat(len(LARGE), 1)
    own, other = (LARGE.xy.tolist().index(xy) for xy in ([14.0, 14.0], [18.0, 18.0]))
    logits = torch.full((len(LARGE), CLASSES), -4.0)
    logits[own, 0], logits[other, 1] = 1.0, 9.0
    assert matching(assign(Poto(), LARGE, Predictions(logits, boxes), [box])) == {0: own}


LEVEL = pyramid_points([(4, 4)], (8,), torch.device("cpu"))
RIVALS: list[Box] = [(10.0, 10.0, 14.0, 14.0), (9.0, 9.0, 19.5, 19.5)]
"""Both have (12, 12) as the only point in their centre squares; the next point of both is far."""


@pytest.mark.parametrize(
    ("alpha", "scores", "box"),
    [
        (0.0, (0.47, 0.50), (8.0, 8.0, 16.0, 16.0)),
        (0.8, (0.50, 0.50), (9.5, 9.5, 16.14, 16.14)),
        (0.0, (1e-12, 2e-12), (8.0, 8.0, 16.0, 16.0)),
    ],
)
def test_the_only_candidate_of_two_goes_to_the_higher_quality_however_far_the_other_is(
    alpha: float, scores: tuple[float, float], box: Box
) -> None:
    contested, far = (LEVEL.xy.tolist().index(xy) for xy in ([12.0, 12.0], [12.0, 4.0]))
    logits = torch.full((len(LEVEL), 2), 0.01).logit()
    boxes = torch.cat([LEVEL.xy - 4, LEVEL.xy + 4], dim=1)
    logits[contested] = torch.tensor(scores, dtype=torch.float64).logit().float()
    boxes[contested] = torch.tensor(box)
    for order in ((0, 1), (1, 0)):
        of = Targets(torch.tensor(RIVALS)[list(order)], torch.tensor(order))
        progress, predicted = Progress(0, 1, 0, 1), Predictions(logits, boxes)
        found = Poto(alpha=alpha).assign(LEVEL, predicted, of, progress)
        places = {order[g]: n for n, g in enumerate(found.object.tolist()) if g >= 0}
        assert places == {0: far, 1: contested}
