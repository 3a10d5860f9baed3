from math import exp, isclose
from unittest import mock

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from detectors.assigners import o2f as module
from detectors.assigners.geometry import matching_quality
from detectors.assigners.o2f import O2F
from detectors.models.points import pyramid_points
from detectors.structures import Assignment, Points, Predictions, Progress, Targets
from tests.detectors.assigners.rounding import shaken
from tests.detectors.batching import batched, packed
from tests.examples import examples

Box = tuple[float, float, float, float]
Positives = dict[int, tuple[int, float]]
"""point -> (object, degree)"""

CLASSES = 3
POINTS = pyramid_points([(8, 8), (4, 4), (2, 2)], (4, 8, 16), torch.device("cpu"))
half = st.integers(-8, 56).map(lambda n: n / 2)
side = st.integers(1, 60).map(lambda n: n / 2)
boxes = st.lists(
    st.tuples(half, half, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    max_size=8,
)
seeds = st.integers(0, 10_000)


def predictions(seed: int) -> Predictions:
    rng = torch.Generator().manual_seed(seed)
    reach = 0.1 + 3 * torch.rand(len(POINTS), 4, generator=rng) * POINTS.stride[:, None]
    around = torch.cat([POINTS.xy - reach[:, :2], POINTS.xy + reach[:, 2:]], dim=1)
    return Predictions(3 * torch.randn(len(POINTS), CLASSES, generator=rng), around)


def targets(of: list[Box]) -> Targets:
    labels = torch.arange(len(of)) % CLASSES
    return Targets(torch.tensor(of, dtype=torch.float32).reshape(-1, 4), labels)


def at_epoch(epoch: int, epochs: int) -> Progress:
    return Progress(step=5 * epoch, steps=5 * epochs, epoch=epoch, epochs=epochs)


def scalar_iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - overlap)


LOCATIONS: list[tuple[float, float]] = [(x, y) for x, y in POINTS.xy.tolist()]
STRIDES: list[float] = POINTS.stride.tolist()


def in_prior(o2f: O2F, n: int, box: Box) -> bool:
    (x, y), reach = LOCATIONS[n], o2f.radius * STRIDES[n]
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside = box[0] < x < box[2] and box[1] < y < box[3]
    near = max(abs(x - cx), abs(y - cy)) < reach
    return {"center": inside and near, "box": inside, "global": True}[o2f.prior]


def scores(predicted: Predictions) -> list[list[float]]:
    """Compute the class scores of every point."""
    return [[1 / (1 + exp(-v)) for v in row] for row in predicted.logits.tolist()]


def equation(o2f: O2F, score: float, iou: float) -> float:
    """Compute 002 Eq. 1 without the prior."""
    if o2f.combine == "add":
        return (1 - o2f.alpha) * score + o2f.alpha * iou
    return float(score ** (1 - o2f.alpha) * iou**o2f.alpha)


def qualities(o2f: O2F, predicted: Predictions, of: list[Box]) -> Tensor:
    """Compute the qualities that are ranked, and compare them with the equation in plain Python.

    The loops below rank these numbers, not those of the equation: points or objects whose
    qualities differ by no more than rounding may be ranked in either order.
    """
    batch, objects = batched(predicted), packed(targets(of))
    found = matching_quality(batch, objects, o2f.alpha, o2f.combine)[0, : len(of)]
    score, drawn = scores(predicted), predicted.boxes.tolist()
    for g, box in enumerate(of):
        row = [
            equation(o2f, score[n][g % CLASSES], scalar_iou(box, (x0, y0, x1, y1)))
            for n, (x0, y0, x1, y1) in enumerate(drawn)
        ]
        assert found[g].tolist() == pytest.approx(row, rel=1e-4, abs=1e-9)
    return found


def looped(
    o2f: O2F, predicted: Predictions, of: list[Box], t: float, quality_GN: Tensor
) -> Positives:
    """Rank the points of each object by 002 Eq. 3 in loops; of equal qualities the first wins."""
    score, quality = scores(predicted), quality_GN.tolist()
    rated: list[dict[int, float]] = []
    for g, box in enumerate(of):
        inside = [n for n in range(len(POINTS)) if in_prior(o2f, n, box) and quality[g][n] > 0]
        ranked = o2f.k if o2f.k_includes_certain else 1 + o2f.k
        best = sorted(inside, key=lambda n: -quality[g][n])[:ranked]
        rated.append({n: quality[g][n] for n in best})
    result = {}
    for g, mine in enumerate(rated):
        kept = [n for n in mine if g == max(range(len(of)), key=lambda h: rated[h].get(n, 0.0))]
        highest = max((score[n][g % CLASSES] for n in kept[1:]), default=0.0)
        for rank, n in enumerate(kept):
            result[n] = (g, 1.0 if rank == 0 else score[n][g % CLASSES] / highest * t)
    return result


def assign(o2f: O2F, predicted: Predictions, of: list[Box], progress: Progress) -> Assignment:
    return o2f.assign(POINTS, predicted, targets(of), progress)


def positives(found: Assignment) -> Positives:
    rows = zip(found.object.tolist(), found.degree.tolist(), strict=True)
    return {n: (g, degree) for n, (g, degree) in enumerate(rows) if g >= 0}


def assert_same(found: Assignment, expected: Positives) -> None:
    """Compare the object of every point exactly, and its degree up to rounding."""
    rows = positives(found)
    assert {n: g for n, (g, _) in rows.items()} == {n: g for n, (g, _) in expected.items()}
    for n, (_, degree) in expected.items():
        assert rows[n][1] == pytest.approx(degree, rel=1e-4)


FLAT, SMALL = (0.0, 11.0, 6.0, 12.5), (0.0, 0.0, 0.5, 0.5)


@examples(30)
@given(boxes, seeds, st.sampled_from([1, 2, 7, 200]), st.sampled_from([0.0, 0.8, 1.0]))
@example([FLAT, SMALL, SMALL, FLAT], 0, 1, 0.8)  # the first object and the last are equal
def test_equals_the_equations_in_loops(of: list[Box], seed: int, k: int, alpha: float) -> None:
    o2f, predicted = O2F(k=k, alpha=alpha, t_max=0.6, t_min=0.2), predictions(seed)
    quality = qualities(o2f, predicted, of)
    found = assign(o2f, predicted, of, at_epoch(1, 3))
    assert_same(found, looped(o2f, predicted, of, 0.4, quality))


@examples(15)
@given(boxes.filter(bool), seeds, st.sampled_from([1, 7]))
def test_equals_the_loops_however_the_last_bits_are_rounded(
    of: list[Box], seed: int, k: int
) -> None:
    o2f, predicted, crowd = O2F(k=k, t_max=0.6, t_min=0.2), predictions(seed), of * 3
    quality = shaken(qualities(o2f, predicted, crowd), seed)
    with mock.patch.object(module, "matching_quality", return_value=quality):
        found = assign(o2f, predicted, crowd, at_epoch(1, 3))
    assert_same(found, looped(o2f, predicted, crowd, 0.4, quality))


VARIANTS = (
    O2F(prior="box", k=3),
    O2F(prior="global", alpha=0.5),
    O2F(combine="add", alpha=0.5),
    O2F(k=4, k_includes_certain=True),
    O2F(k=1, k_includes_certain=True),
    O2F(combine="add", prior="global", k=2, t_max=1.0, t_min=1.0, ambiguous_weight=0.4),
)


@pytest.mark.parametrize("o2f", VARIANTS, ids=range(len(VARIANTS)))
@examples(10)
@given(of=boxes, seed=seeds)
def test_every_option_equals_the_equations_in_loops(o2f: O2F, of: list[Box], seed: int) -> None:
    predicted = predictions(seed)
    quality = qualities(o2f, predicted, of)
    found = assign(o2f, predicted, of, at_epoch(1, 3))
    temperature = o2f.temperature(at_epoch(1, 3))
    assert_same(found, looped(o2f, predicted, of, temperature, quality))


@examples(20)
@given(boxes, seeds)
def test_weight_is_that_of_ambiguous_points_for_their_objects_class(
    of: list[Box], seed: int
) -> None:
    predicted = predictions(seed)
    plain = assign(O2F(), predicted, of, at_epoch(0, 3))
    weighted = assign(O2F(ambiguous_weight=0.4), predicted, of, at_epoch(0, 3))
    assert plain.weight is None
    assert torch.equal(plain.object, weighted.object)
    assert torch.equal(plain.degree, weighted.degree)
    expected = [[1.0] * CLASSES for _ in range(len(POINTS))]
    for n, (g, degree) in positives(plain).items():
        expected[n][g % CLASSES] = 1.0 if degree == 1.0 else torch.tensor(0.4).item()
    assert weighted.weight is not None
    assert weighted.weight.tolist() == expected


def test_k_that_includes_the_certain_point_is_one_ambiguous_point_less() -> None:
    of: list[Box] = [(0.0, 0.0, 32.0, 32.0)]
    counts = {
        includes: len(
            positives(
                assign(O2F(k=7, k_includes_certain=includes), predictions(1), of, at_epoch(0, 2))
            )
        )
        for includes in (False, True)
    }
    assert counts == {False: 8, True: 7}


@pytest.mark.parametrize("epoch", [0, 3])
def test_equal_ends_give_static_soft_labels(epoch: int) -> None:
    """002 Table 1: t = 0.2 throughout."""
    of: list[Box] = [(0.0, 0.0, 32.0, 32.0)]
    o2f = O2F(t_max=0.2, t_min=0.2)
    found = positives(assign(o2f, predictions(1), of, at_epoch(epoch, 4)))
    degrees = sorted((degree for _, degree in found.values()), reverse=True)
    assert degrees[:2] == [1.0, pytest.approx(0.2)]
    assert len(degrees) == 8


@pytest.mark.parametrize("epoch", [0, 3])
def test_one_to_two_is_one_ambiguous_point_of_degree_one(epoch: int) -> None:
    """002 Table 1: every object has a second positive of degree 1."""
    of: list[Box] = [(0.0, 0.0, 14.0, 14.0), (14.0, 14.0, 32.0, 32.0)]
    o2f = O2F(k=1, t_max=1.0, t_min=1.0)
    found = assign(o2f, predictions(2), of, at_epoch(epoch, 4))
    for g in range(2):
        assert found.degree[found.object == g].tolist() == [1.0, 1.0]


@examples(30)
@given(boxes, seeds, st.integers(1, 9), st.integers(0, 4))
def test_degrees_of_an_object(of: list[Box], seed: int, k: int, epoch: int) -> None:
    """An object has at most 1 + K points: a certain one, others in (0, T], the largest being T."""
    o2f = O2F(k=k, t_max=0.9, t_min=0.1)
    found = assign(o2f, predictions(seed), of, at_epoch(epoch, 5))
    temperature = o2f.temperature(at_epoch(epoch, 5))
    for g in range(len(of)):
        degrees = sorted(found.degree[found.object == g].tolist(), reverse=True)
        assert len(degrees) <= 1 + k
        assert degrees[:1] in ([], [1.0])
        assert degrees[1:2] in ([], [pytest.approx(temperature)])
        assert all(0 < degree < 1 for degree in degrees[1:])


def test_contested_point_goes_to_the_higher_rating_and_the_loser_takes_its_next_best() -> None:
    of: list[Box] = [(4.0, 4.0, 20.0, 20.0), (6.0, 6.0, 22.0, 22.0)]
    spot = {tuple(xy): n for n, xy in enumerate(POINTS.xy[:64].tolist())}
    contested, second = spot[14.0, 14.0], spot[10.0, 10.0]
    logits = torch.full((len(POINTS), CLASSES), -20.0)
    logits[contested, :2] = torch.tensor([2.0, 4.0])
    logits[second, 0] = 1.0
    covering = torch.tensor([[5.0, 5.0, 21.0, 21.0]]).repeat(len(POINTS), 1)
    predicted = Predictions(logits, covering)
    found = positives(assign(O2F(k=1), predicted, of, at_epoch(0, 2)))
    assert found[contested] == (1, 1.0)
    assert found[second] == (0, 1.0)


def test_object_that_loses_all_its_points_has_none() -> None:
    """The only point inside the small box is rated higher by the other object."""
    of: list[Box] = [(9.0, 9.0, 11.0, 11.0), (4.0, 4.0, 16.0, 16.0)]
    covering = torch.tensor([of[1]]).repeat(len(POINTS), 1)
    predicted = Predictions(torch.zeros(len(POINTS), CLASSES), covering)
    found = positives(assign(O2F(), predicted, of, at_epoch(0, 2)))
    assert {g for g, _ in found.values()} == {1}


def test_points_without_overlap_or_outside_the_square_are_negative() -> None:
    elsewhere = Predictions(
        torch.zeros(len(POINTS), CLASSES), torch.tensor([[90.0, 90.0, 99.0, 99.0]]).repeat(84, 1)
    )
    assert positives(assign(O2F(), elsewhere, [(4.0, 4.0, 20.0, 20.0)], at_epoch(0, 2))) == {}
    between = assign(O2F(), predictions(0), [(4.5, 4.5, 5.5, 5.5)], at_epoch(0, 2))
    assert positives(between) == {}


def test_k_may_be_larger_than_the_number_of_points() -> None:
    one = Points(
        POINTS.xy[:1],
        POINTS.stride[:1],
        POINTS.level[:1],
        POINTS.anchors[:1],
        POINTS.extent,
        (1,),
    )
    around = Predictions(torch.zeros(1, CLASSES), torch.tensor([[0.0, 0.0, 4.0, 4.0]]))
    found = O2F(k=7).assign(one, around, targets([(0.0, 0.0, 4.0, 4.0)]), at_epoch(0, 1))
    assert positives(found) == {0: (0, 1.0)}


class TestTemperature:
    def test_falls_linearly_from_first_to_last_epoch(self) -> None:
        """002 Eq. 3, j from 0 to N - 1."""
        o2f = O2F(t_max=0.6, t_min=0.2)
        found = [o2f.temperature(at_epoch(e, 5)) for e in range(5)]
        assert found == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2])

    def test_stays_within_an_epoch_or_falls_with_each_step(self) -> None:
        steps = [Progress(step, 6, step // 3, 2) for step in range(6)]
        by_epoch = [O2F(t_max=0.6, t_min=0.1).temperature(p) for p in steps]
        by_step = [O2F(t_max=0.6, t_min=0.1, t_per="step").temperature(p) for p in steps]
        assert by_epoch == pytest.approx([0.6] * 3 + [0.1] * 3)
        assert by_step == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])

    @pytest.mark.parametrize("t_per", ["epoch", "step"])
    def test_a_training_of_one_epoch_and_one_step_is_legal(self, t_per: str) -> None:
        o2f = O2F.model_validate({"t_max": 0.6, "t_min": 0.2, "t_per": t_per})
        assert isclose(o2f.temperature(Progress(0, 1, 0, 1)), 0.6)
        one_epoch = [o2f.temperature(Progress(step, 3, 0, 1)) for step in range(3)]
        assert one_epoch == pytest.approx([0.6] * 3 if t_per == "epoch" else [0.6, 0.4, 0.2])

    def test_reaches_zero_ambiguous_points_turn_negative(self) -> None:
        o2f = O2F(t_max=0.6, t_min=0.0)
        found = assign(o2f, predictions(1), [(0.0, 0.0, 32.0, 32.0)], at_epoch(4, 5))
        assert [degree for _, degree in positives(found).values()] == [1.0]

    def test_must_not_rise(self) -> None:
        with pytest.raises(ValidationError, match=r"t_min must not be above t_max, got 0.7 > 0.3"):
            O2F(t_max=0.3, t_min=0.7)
